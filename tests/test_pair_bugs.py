"""The tests of sets tested: each of these mistakes, made on purpose, is caught by the test that is named beside it."""

import numpy as np
import pytest
import test_head_scores
import test_pairset
import test_set_sweep
import test_statistics

from minigpt2 import head_scores
from patching.pairs import ask, jobs, pairset, statistics

right = {name: getattr(statistics, name) for name in ("flips", "p_value")} | {
    "attention_back": head_scores.attention_back
}
true_position = pairset.position


def biased(values):
    return np.std(values, axis=0) / len(values) ** 0.5


def without_the_first_flip(n_pairs, n, seed, at_once=256):
    for i, signs in enumerate(right["flips"](n_pairs, n, seed, at_once)):
        yield signs if i else signs[1:]


def each_cell_by_itself(values, n=10_000, seed=0, correction=None):
    return right["p_value"](values, n, seed, None)


def one_token_late(model, pair, spot, role):
    return min(true_position(model, pair, spot, role) + 1, len(pair.tokens(model).clean) - 1)


def in_the_order_of_finishing(model, ask, pairs, done, digest):
    return right_together(model, ask, pairs, dict(zip(done, reversed(done.values()))), digest)


right_together = jobs.together
BUGS = {
    "a standard error with n": (statistics, "standard_error", biased, test_statistics.test_standard_error_is_scipys, ((9, 4, 5),)),
    "one flip forgotten": (statistics, "flips", without_the_first_flip, test_statistics.test_the_exact_sign_flip_test_is_scipys, (5,)),
    "no correction for the number of cells": (
        statistics, "p_value", each_cell_by_itself, test_statistics.test_family_wise_p_compares_with_the_largest_cell_of_each_flip, (),
    ),
    "a role one token late": (pairset, "position", one_token_late, test_pairset.test_a_role_is_the_token_that_ends_the_piece, ()),
    "pairs in another order": (
        jobs, "together", in_the_order_of_finishing, test_set_sweep.test_roles_are_the_pairs_own_positions, (),
    ),
    "roles in another order": (
        ask.Ask, "roles", property(lambda self: tuple(sorted(self.options["positions"]))),
        test_set_sweep.test_roles_are_the_pairs_own_positions, (),
    ),
    "a diagonal beside the right one": (
        head_scores, "attention_back", lambda run, back: right["attention_back"](run, back - 1),
        test_head_scores.test_scores_are_means_over_the_positions_that_have_such_a_token, (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_tests_catch(bug, monkeypatch):
    where, name, wrong, check, arguments = BUGS[bug]
    check(*arguments)
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises((AssertionError, ValueError)):
        check(*arguments)
