"""One text in place of a pair: what tells its two runs apart is what is written into one of them, not another token."""

from dataclasses import dataclass

from ..prompts import PairTokens, PromptPair


@dataclass(frozen=True)
class OneText(PromptPair):
    """One text as both texts of a pair; changed are the positions at which its runs differ before layer 0."""

    changed: tuple = ()

    @classmethod
    def of(cls, model, text, answers=(0, 1), changed=()):
        """From a text or token ids. Without answers only a metric that compares none can be read."""
        tokens = model.check_tokens(model.encode(text) if isinstance(text, str) else text)
        ids = tuple(map(int, tokens))
        return cls(None, None, tuple(answers), ids=(ids, ids), changed=tuple(changed))

    def tokens(self, model):
        tokens = PairTokens(*self.ids, self.answers)
        tokens.differing = self.changed
        return tokens
