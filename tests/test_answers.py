"""The log probability of an answer of several tokens, against runs with overwrites; the estimate against finite differences."""

import numpy as np
import pytest
from models import random_model

from minigpt2.overwrite import Overwrite
from patching import PromptPair, sweep
from patching.pairs.answers import answer_log_probability

MODEL, PAIR, ANSWER = random_model(), PromptPair.from_tokens([3, 1, 4, 1], [3, 7, 4, 1], (2, 8)), [6, 2, 9]


def log_p(overwrites, text):
    logits = MODEL.run([*text, *ANSWER[:-1]], overwrites=overwrites).logits[3:]
    return sum(row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits, ANSWER))


@pytest.mark.parametrize("site, positions, cell, where", [
    ("z", None, (1, 0, 2), dict(heads=[0], positions=[2])), ("z", "all", (1, 1), dict(heads=[1], positions=range(4))),
    ("mlp_out", [1], (2, 0), dict(positions=[1])), ("resid_pre", "all", (1,), dict(positions=range(4))),
])  # fmt: skip
def test_each_value_is_a_run_that_reads_the_answer(site, positions, cell, where):
    found = answer_log_probability(MODEL, PAIR, ANSWER, site, positions=positions)
    clean, corrupted = PAIR.ids
    source = MODEL.run(clean)
    heads, at = where.get("heads"), list(where["positions"])
    value = getattr(source, site)[cell[0]]
    value = value[at] if heads is None else value[np.ix_(heads, at)]
    expected = log_p([Overwrite(cell[0], site, value, heads, at)], corrupted)
    np.testing.assert_allclose(found.values[cell], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        [found.clean_value, found.corrupted_value], [log_p([], clean), log_p([], corrupted)], rtol=0, atol=1e-12
    )
    assert (
        found.unit == "log p(6 2 9)"
        and found.values.shape == sweep(MODEL, PAIR, site, positions=positions).values.shape
    )


@pytest.mark.parametrize("positions", [None, "all"])
def test_the_estimate_is_the_slope_at_alpha_0(positions):
    eps = 1e-6
    up, down = (
        answer_log_probability(MODEL, PAIR, ANSWER, "v", positions=positions, alpha=sign * eps).values
        for sign in (1, -1)
    )
    estimate = answer_log_probability(MODEL, PAIR, ANSWER, "v", positions=positions, method="attribution")
    np.testing.assert_allclose(estimate.values - estimate.base_value, (up - down) / (2 * eps), rtol=0, atol=1e-8)


def test_one_token_is_the_metric_of_that_name():
    one = answer_log_probability(MODEL, PAIR, [2], "z")
    np.testing.assert_array_equal(one.values, sweep(MODEL, PAIR, "z", metric="clean_log_probability").values)


@pytest.mark.parametrize(
    "answer, choices, message",
    [([], {}, "no tokens"), ([99], {}, "token id 99"), ([2], dict(method="x"), "method must be")],
)
def test_what_is_not_an_answer_is_refused(answer, choices, message):
    with pytest.raises(ValueError, match=message):
        answer_log_probability(MODEL, PAIR, answer, **choices)
