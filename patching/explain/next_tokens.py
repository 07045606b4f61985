"""What the model expects after each text of a pair, before anything is patched: for tables, and to find answers."""

from minigpt2.lens import likeliest
from minigpt2.model import softmax


def next_logits(model, tokens):
    """The logits of the next token after the clean and after the corrupted text, 2 x float64 [n_vocab]."""
    runs = model.run_batch([tokens.clean, tokens.corrupted], keep=[])
    return [model.resume(run.resid_post[-1, -1:], model.config.n_layer)[0].astype(float) for run in runs]


def ranked(logits, n, answers):
    """The n likeliest tokens of logits [n_vocab], then the answers that are not among them: (rank, id, probability)."""
    top, p = likeliest(logits[None], min(n, logits.size))[0].tolist(), softmax(logits)
    rest = sorted((answer for answer in answers if answer not in top), key=lambda answer: -logits[answer])
    ranks = [*range(1, len(top) + 1), *(1 + int((logits > logits[answer]).sum()) for answer in rest)]
    return [(rank, token, float(p[token])) for rank, token in zip(ranks, [*top, *rest])]


def probability(p):
    return f"{p:.4f}" if p >= 5e-5 else f"{p:.1e}"
