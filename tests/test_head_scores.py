"""Head scores are means of the pattern's diagonals, and name the heads that are built to look there."""

import numpy as np
import pytest
from models import random_model

from minigpt2 import head_scores

MODEL = random_model()
RUN = MODEL.run([3, 1, 4, 7] * 2)


def test_scores_are_means_over_the_positions_that_have_such_a_token():
    pattern = RUN.pattern  # [n_layer, n_head, n_seq, n_seq]
    for found, back in (
        (head_scores.previous_token(RUN), 1),
        (head_scores.duplicate_token(RUN, 4), 4),
        (head_scores.induction(RUN, 4), 3),
    ):
        expected = np.mean([pattern[:, :, pos, pos - back] for pos in range(back, 8)], axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_a_head_that_looks_one_round_back_scores_1():
    made = MODEL.run([3, 1, 4, 7] * 2)
    pattern = np.zeros((3, 2, 8, 8))
    for pos in range(4, 8):
        pattern[1, 0, pos, pos - 4] = pattern[2, 1, pos, pos - 3] = 1
    made.__dict__["pattern"] = pattern
    assert head_scores.duplicate_token(made, 4)[1, 0] == 1 and head_scores.duplicate_token(made, 4).sum() == 1
    assert head_scores.induction(made, 4)[2, 1] == 4 / 5  # position 3 has a token 3 back, too


@pytest.mark.parametrize("period", [0, 5, True, 2.0, 2])
def test_a_text_that_does_not_repeat_is_refused(period):
    with pytest.raises(ValueError, match="period is the length of one round|does not repeat its first 2"):
        head_scores.induction(RUN, period)
