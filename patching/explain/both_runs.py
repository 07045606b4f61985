"""The two texts of a pair before anything is patched: their runs, and what the model expects after each."""

from functools import cached_property

from minigpt2.lens import likeliest
from minigpt2.model import softmax


class BothRuns:
    """A model, the PairTokens of a pair, and the runs of both texts, made once and when they are first asked for.

    keep names the activations that the runs keep, as in model.run.
    """

    def __init__(self, model, tokens, keep=()):
        self.model, self.tokens, self.keep = model, tokens, keep

    @cached_property
    def runs(self):
        """The Run of the clean and of the corrupted text."""
        return self.model.run_batch([self.tokens.clean, self.tokens.corrupted], keep=list(self.keep))

    @cached_property
    def next_logits(self):
        """The logits of the next token after the clean and after the corrupted text, 2 x float64 [n_vocab]."""
        n_layer = self.model.config.n_layer
        return [self.model.resume(run.resid_post[-1, -1:], n_layer)[0].astype(float) for run in self.runs]

    def likeliest(self, n):
        """For each text the n likeliest next tokens, then the answers that are not among them, each as (rank, id,
        visible text, probability)."""
        return [self._ranked(logits, n) for logits in self.next_logits]

    def _ranked(self, logits, n):
        top, p = likeliest(logits[None], min(n, logits.size))[0].tolist(), softmax(logits)
        rest = sorted(
            (answer for answer in self.tokens.answers if answer not in top), key=lambda answer: -logits[answer]
        )
        ranks = [*range(1, len(top) + 1), *(1 + int((logits > logits[answer]).sum()) for answer in rest)]
        ids = [*top, *rest]
        return [(rank, id, text, float(p[id])) for rank, id, text in zip(ranks, ids, self.model.labels(ids))]
