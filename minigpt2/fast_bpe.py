"""tiktoken as the fast twin of bpe.py, for the vocabularies whose merges it is proven to follow.

tiktoken knows no list of merges: it joins the two neighbours whose joined bytes have the lowest rank, by whatever
merge, and takes a whole word that is a token as it is. That is the list's own result if every token, put together by
the merges before its own, ends in exactly its own pair. Of GPT-2's 50,000 all do; the proof takes 0.15 s.
"""

from .bpe import LETTERS, unspell

# bpe.WORDS as tiktoken writes it, and openai/gpt-2 src/encoder.py.
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class FastEncoder:
    """bpe.Encoder by tiktoken, in Rust. tokens are the 256 bytes and what the merges make, in order."""

    def __init__(self, ids, tokens):
        import tiktoken

        ranks = {unspell(token): rank for rank, token in enumerate(tokens)}
        self._encoding = tiktoken.Encoding("GPT-2's words", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})
        self._ids = [ids[token] for token in tokens]  # in GPT-2 itself 0, 1, 2, ...

    def encode(self, text):
        try:
            ranks = self._encoding.encode(text, disallowed_special=())  # encode_ordinary panics where this raises
        except ValueError:  # the regular expression's stack is full; nothing else is left that could fail
            raise ValueError(
                f"the text of {len(text)} characters cannot be split: tiktoken gives up on about a million whitespace "
                "characters in a row; shorten that run"
            ) from None
        return [self._ids[rank] for rank in ranks]


def fast_encoder(ids, merges):
    """Return the FastEncoder of a vocabulary, or None where tiktoken is not proven to give the same ids."""
    if not LETTERS.keys() <= ids.keys():
        return None
    numbers = {letter: number for number, letter in enumerate(LETTERS)}
    parts = [None] * len(LETTERS)  # of each token, by its number: the numbers of the two that it is joined from
    for left, right in merges:
        if left not in numbers or right not in numbers or left + right in numbers:
            return None  # a merge of what no earlier one has made, or of what another has made already
        numbers[left + right] = len(parts)
        parts.append((numbers[left], numbers[right]))
    made = {pair: number for number, pair in enumerate(parts) if pair}
    if any(joined_before(*pair, number, parts, made) for pair, number in made.items()):
        return None
    return FastEncoder(ids, list(numbers))


def joined_before(a, b, limit, parts, made):
    """Whether a merge before number `limit` joins the end of token a to the beginning of token b, so that the two do
    not come to stand side by side.

    What lies next to the border is taken apart, the latest merge first: each pair that has ever met there is looked
    up. A tie is a run of equal symbols, "aaa", where the pair more to the left is joined first.
    """
    while True:
        if made.get((a, b), limit) < limit:
            return True
        if a < 256 and b < 256:
            return False
        if a > b:
            limit, a = a, parts[a][1]
        else:
            limit, b = b + 1, parts[b][0]
