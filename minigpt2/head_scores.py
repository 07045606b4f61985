"""What kind of head is it? How much of its attention goes one step back, to the same token earlier, or to the token after it.

On a text of random tokens that is repeated, with `period` tokens in each round: the previous token is 1 back, the same token
`period` back, and the token that followed it `period` - 1 back, where an induction head looks (Olsson et al. 2022, "In-context
Learning and Induction Heads"; the definitions are those of TransformerLens, demos/Exploratory_Analysis_Demo.ipynb).
"""

import numpy as np

from .gpt2 import Run


def attention_back(run: Run, n_back: int) -> np.ndarray:
    """Each head's mean attention to the token n_back before, over all positions that have one, [n_layer, n_head]."""
    if not 0 <= n_back < len(run.tokens):
        raise ValueError(f"there is no token {n_back} back in a text of {len(run.tokens)} tokens")
    return np.diagonal(run.pattern, -n_back, axis1=-2, axis2=-1).mean(axis=-1)


def previous_token(run: Run) -> np.ndarray:
    """How much each head looks at the token before, [n_layer, n_head]."""
    return attention_back(run, 1)


def duplicate_token(run: Run, period: int) -> np.ndarray:
    """How much each head looks at the same token one round earlier, [n_layer, n_head]."""
    return attention_back(run, check_period(run, period))


def induction(run: Run, period: int) -> np.ndarray:
    """How much each head looks at the token that followed the same token one round earlier, [n_layer, n_head]."""
    return attention_back(run, check_period(run, period) - 1)


def check_period(run, period):
    """period, if the text is a round of so many tokens again and again, at least twice; else a ValueError."""
    n_seq = len(run.tokens)
    if isinstance(period, bool) or not isinstance(period, (int, np.integer)) or not 1 <= period <= n_seq // 2:
        raise ValueError(
            f"period is the length of one round, from 1 to {n_seq // 2} for {n_seq} tokens, got {period!r:.40}"
        )
    if run.tokens[period:] != run.tokens[:-period]:
        raise ValueError(
            f"the text does not repeat its first {period} tokens: run a text of random tokens, given twice"
        )
    return int(period)
