"""Added tokens: texts such as <|endoftext|> that are one token wherever they stand, found before a text is cut into
words. As Hugging Face's tokenizers finds them (tokenizer/added_vocabulary.rs)."""

import re

SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
SOME_SPACES = re.compile(f"[{SPACES}]*")


class AddedTokens:
    def __init__(self, tokens):
        groups = [t for t in tokens if not t.normalized], [t for t in tokens if t.normalized]
        self._passes = [({t.text: t for t in group}, one_of(group)) for group in groups if group]

    def cut(self, text, allow_special):
        """Cut text at its added tokens: list of texts (str) and token ids (int), in order."""
        pieces = [text]
        for tokens, pattern in self._passes:
            cut = (found(p, tokens, pattern, allow_special) if isinstance(p, str) else [p] for p in pieces)
            pieces = [piece for part in cut for piece in part]
        return pieces


def one_of(tokens):
    """A pattern that finds the leftmost token, and of those that begin there the longest."""
    return re.compile("|".join(re.escape(t.text) for t in sorted(tokens, key=lambda t: -len(t.text))))


def found(text, tokens, pattern, allow_special):
    """Yield the pieces of one text."""
    done = 0
    for match in pattern.finditer(text):
        token, (start, stop) = tokens[match[0]], match.span()
        if token.special and not allow_special:
            continue
        if token.lstrip:
            start = done + len(text[done:start].rstrip(SPACES))
        if token.rstrip:
            stop = SOME_SPACES.match(text, stop).end()
        if start > done:
            yield text[done:start]
        yield token.id
        done = stop
    if done < len(text):
        yield text[done:]
