"""The conclusions follow the numbers: the published maps tell what has been read in them, other maps something else."""

from dataclasses import replace

import numpy as np
import pytest

from minigpt2.facts import load_facts
from patching import SITES, Result
from patching.explain import conclusions, findings, labels
from patching.prompts import PairTokens

TEXTS = {  # of the published maps, as the genuine vocabulary cuts them
    11: "Michelle|␣Jones|␣was|␣a|␣top|-|not|ch|␣student|.|␣Michelle",
    21: "J|uan|␣Antonio|␣watched|␣my|␣neural|␣network|␣learn|␣to|␣jugg|le|␣bananas|;|␣he|␣called|␣it|␣wizard|␣science|"
    "␣and|␣demanded|␣espresso",
}


def published(which, site="resid_post"):
    """A matrix of the real GPT-2 small as a Result (the source is in minigpt2/facts)."""
    entry = load_facts()["patching"][which]
    clean, corrupted = entry["clean_ids"], entry["corrupted_ids"]
    labels = TEXTS[len(clean)].split("|")
    answers = ("␣Jones", "␣Smith") if len(clean) == 11 else ("␣wizard", "␣algorithm")
    first = next(i for i in range(len(clean)) if clean[i] != corrupted[i])
    return Result(
        values=np.array(entry["sites"][site], np.float32),
        clean_value=entry["clean_value"],
        corrupted_value=entry["corrupted_value"],
        axes={"layer": list(range(12)), "position": list(range(len(clean)))},
        site=site,
        direction="denoising",
        metric="logit_difference",
        unit=f"logit({answers[1]}) - logit({answers[0]})",
        alpha=1.0,
        tokens=PairTokens(tuple(clean), tuple(corrupted), (clean[first], corrupted[first]), first),
        clean_labels=tuple(labels),
        corrupted_labels=tuple(answers[1] if i == first else label for i, label in enumerate(labels)),
        answer_labels=answers,
        model="gpt2",
    )


def made(shares, changed=(1,), site="resid_post", axes=("layer", "position"), **other):
    """A Result with these shares of a gap from 5 (corrupted) to -5 (clean), in a text of 5 tokens."""
    shares = np.asarray(shares, float)
    clean = (10, 11, 12, 13, 14)
    corrupted = tuple(token + 100 * (pos in changed) for pos, token in enumerate(clean))
    fields = {"clean_value": -5.0, "corrupted_value": 5.0, "direction": "denoising", "alpha": 1.0} | other
    base, target = fields["corrupted_value"], fields["clean_value"]
    if fields["direction"] == "noising":
        base, target = target, base
    return Result(
        values=base + shares * (target - base),
        axes={axis: list(range(n)) for axis, n in zip(axes, shares.shape)},
        site=site,
        metric="logit_difference",
        unit="logit(␣B) - logit(␣A)",
        tokens=PairTokens(clean, corrupted, (1, 2), min(changed)),
        clean_labels=tuple("abcde"),
        corrupted_labels=tuple("ABCDE"[p] if p in changed else "abcde"[p] for p in range(5)),
        answer_labels=("␣A", "␣B"),
        model="made",
        **fields,
    )


def told(result):
    return "\n".join(conclusions.tell(result))


MAP = ("layer", "position")
MOVES = np.zeros((6, 5))
MOVES[:3, 1], MOVES[3:, 4] = 0.9, 0.8
MOVES[5, 4] = 1.0


def test_the_surname_map_is_told_as_it_has_been_read():
    text = told(published(0))
    assert text.startswith(
        "What tells the two texts apart sits at position 1 (␣Jones → ␣Smith) behind layers 0 to 9 and then at the last "
        "position (10, ␣Michelle) behind layers 10 and 11."
    )
    assert "behind layer 0, restores 99 % of the gap" in text
    assert "begins to fall at layer 7 and drops below half at layer 10 (13 %)" in text
    assert "more than half from layer 10 on (82 %); the first trace is at layer 7 (27 %)" in text
    assert "␣Jones is ahead after the clean text, ␣Smith after the corrupted one" in text
    assert "Position 0, before the first changed token, has no effect, as expected" in text
    assert "Layer 11 has no effect off the last position, as expected" in text
    assert "no clear story" not in text


def test_the_attention_map_names_the_layers_that_write_at_the_end():
    text = told(published(0, "attn_out"))
    assert text.startswith("The attention of layer 10 at the last position (10, ␣Michelle) contributes most")
    assert (
        "layer 10 (35 %), layer 7 (18 %), layer 11 (17 %), layer 9 (11 %); at position 1 (␣Jones → ␣Smith), layer 0"
        in text
    )
    assert "no single cell carries half" in text


def test_the_wizard_map_never_reaches_the_end_before_the_last_layer():
    text = told(published(1))
    assert "at position 16 (␣wizard → ␣algorithm) behind layers 0 to 9" in text
    assert "In layer 10 no single position carries half of the gap" in text
    assert "more than half only behind layer 11" in text and "43 % at most" in text
    assert "␣wizard is ahead after both" in text
    assert "Positions 0 to 15, before the first changed token, have no effect, as expected" in text
    assert "the other way, up to -14 %" in text


def test_hot_spots_are_the_best_cells_of_the_positions():
    spots = findings.hot_spots(published(0))
    assert spots[0].place == {"layer": 11, "position": 10} and spots[0].share == pytest.approx(1, abs=1e-3)
    assert spots[1].place == {"layer": 0, "position": 1} and spots[1].value == pytest.approx(-4.0691, abs=1e-3)
    assert len({spot.place["position"] for spot in spots}) == len(spots)
    attention = findings.hot_spots(published(0, "attn_out"), n=4)
    assert [tuple(spot.place.values()) for spot in attention] == [(10, 10), (0, 1), (7, 10), (11, 10)]


def test_different_outcomes_are_told_differently():
    late, stays = MOVES.copy(), np.zeros((6, 5))
    late[3, 1], late[3, 4] = 0.9, 0.0
    stays[:5, 1], stays[5, 4] = 0.95, 1
    texts = [told(made(shares)) for shares in (MOVES, late, stays)]
    assert "drops below half at layer 3" in texts[0] and "more than half from layer 3 on" in texts[0]
    assert "drops below half at layer 4" in texts[1] and "more than half from layer 4 on" in texts[1]
    assert "more than half only behind layer 5, the last" in texts[2]


def test_a_detour_is_named():
    shares = np.zeros((6, 5))
    shares[:2, 1], shares[2:4, 3], shares[4:, 4] = 0.9, 0.7, 1
    text = told(made(shares))
    assert "position 1 (b → B) behind layers 0 and 1 and then at position 3 (d) behind layers 2 and 3 and then" in text
    assert "position 3 (d) moves it most: 70 % at its peak" in text


def test_no_story_is_said_to_be_none():
    spread = np.full((6, 5), 0.2)
    spread[:, 0], spread[5], spread[5, 4] = 0, 0, 1  # the last layer's last position restores all in any map
    text = told(made(spread))
    assert text.startswith("There is no clear story") and "sits at" not in text
    noise = np.random.default_rng(0).normal(0, 0.4, (6, 4))
    assert told(made(noise, site="z", axes=("layer", "head"))).startswith("There is no clear story")
    weak = told(made(np.full((6, 4), 0.03), site="z", axes=("layer", "head")))
    assert weak.startswith("There is no clear story") and "10 %" in weak


@pytest.mark.parametrize("cell", [-4.29, -0.5, 1.5, 3.04])
def test_of_one_change_whose_patches_leave_the_range_of_both_runs_there_is_no_story(cell):
    shares = MOVES.copy()
    shares[1, 2] = cell
    text = told(made(shares, clean_value=-0.03, corrupted_value=0.03))
    lowest, highest = labels.percent(min(cell, 0)), labels.percent(max(cell, 1))
    assert text.startswith("There is no clear story: single patches move the metric by")
    assert f"by {lowest} to {highest} of the gap (0.06), to values well outside" in text
    assert "sits" not in text and "bring it there" not in text and "drops below" not in text
    shares[1, 2] = -0.49 if cell < 0 else 1.49
    assert told(made(shares)).startswith("What tells the two texts apart sits")


def test_of_several_changes_one_alone_may_go_one_gap_further():
    shares = ASKED.copy()
    assert "sits" in told(made(shares, changed=(1, 4)))
    shares[0, 4] = -4.27
    text = told(made(shares, changed=(1, 4)))
    assert text.startswith("There is no clear story: single patches move the metric by -427 % to 100 % of the gap")
    assert "sits" not in text
    assert "the clean e at position 4 gives 47.70 (-427 %, away from the clean run)" in text


def test_alpha_widens_the_range_that_a_story_may_have():
    assert "sits" in told(made(MOVES * 2, alpha=2.0)) and "no clear story: single" in told(made(MOVES * 2))
    assert "no clear story: single" not in told(made(-MOVES, alpha=-1.0))


def test_no_single_position_says_where_one_must():
    shares = np.full((6, 5), 0.2)
    shares[:, 0], shares[5], shares[5, 4] = 0, 0, 1
    assert told(made(shares)).startswith(
        "There is no clear story: no single position carries half of the gap, except in layer 5, where one must by "
        "construction."
    )
    shares[5, 4] = 0.3  # as alpha below 1 has it
    assert "no clear story: no single position carries half of the gap." in told(made(shares, alpha=0.3))


def test_nothing_moves():
    assert told(made(np.zeros((6, 5)))).startswith("No patch of this map moves the metric at all")
    assert "alpha = 0 writes nothing" in told(made(np.zeros((6, 5)), alpha=0.0))
    assert findings.hot_spots(made(np.zeros((6, 5)))) == []


@pytest.mark.parametrize("gap", [0.0, 1e-5])
def test_without_a_gap_there_are_no_shares(gap):
    result = replace(made(MOVES), clean_value=5.0 - gap, corrupted_value=5.0)
    assert told(result).startswith("There is no gap to restore") and "%" not in told(result)
    assert findings.hot_spots(result)[0].value == -5.0


def test_noising_is_told_from_the_other_side():
    text = told(made(MOVES, direction="noising"))
    assert "moves the metric 90 % of the way to the corrupted run" in text and "restore" not in text
    assert "needs" in text.splitlines()[-1]


ASKED = np.zeros((6, 5))  # as last-mention has it: one change at position 1, the other at the last position
ASKED[:3, 4], ASKED[3, 4], ASKED[4:, 4], ASKED[:3, 1] = -1.03, 0.18, 1.0, 0.01


def test_a_position_that_first_asks_and_then_answers_is_told_as_both():
    text = told(made(ASKED, changed=(1, 4)))
    assert text.startswith("What tells the two texts apart sits at the last position (4, e → E) behind layers 4 and 5.")
    assert "In layers 0 to 3 no single position carries half of the gap (18 % at most)" in text
    assert (
        "The texts differ at positions 1 and 4, and a patch behind layer 0 exchanges almost only one of these tokens, "
        "as in a third text: the clean b at position 1 gives 4.90 (1 %), and the clean e at position 4 gives 15.30 "
        "(-103 %, away from the clean run)."
    ) in text
    assert "Behind layers 0 to 2 its vector still stands for its own token, e:" in text
    assert "look up in the rest of the corrupted text, and the metric moves towards ␣B, away from the clean run" in text
    assert "(by 103 %). Behind layers 4 and 5 it holds what was looked up in the clean text (100 %)." in text
    assert "Some patches move the metric the other way" not in text and "Only attention moves" not in text
    text = told(made(ASKED, changed=(1, 4), direction="noising"))
    assert "the rest of the clean text, and the metric moves towards ␣A, away from the corrupted run" in text
    assert "the corrupted B at position 1" in text
    plain = ASKED.copy()
    plain[:4, 4] = 1.0
    text = told(made(plain, changed=(1, 4)))
    pre = told(made(ASKED, changed=(1, 4), site="resid_pre"))
    assert "in front of layer 0 exchanges only one of these tokens, as" in pre
    assert "turns round" not in text and "a changed token itself, holds more than half from layer 0 on (100 %)" in text


def test_a_change_that_overshoots_alone_is_told():
    shares = np.zeros((6, 5))
    shares[:3, 1], shares[:, 4] = 2.03, 0.99
    text = told(made(shares, changed=(1, 4), direction="noising"))
    assert text.startswith("What tells the two texts apart sits at the last position (4, e → E) behind layers 0 to 5.")
    assert "The best cell, at the last position (4, e → E) behind layer 0, moves the metric 99 % of the way" in text
    assert "the corrupted B at position 1 gives 15.30 (203 %, past the corrupted run)" in text
    assert "Behind layers 0 to 2 more than one position is worth half of the gap or more by itself: position 1" in text


def test_the_best_cell_is_the_nearest_and_of_equals_the_lowest():
    shares = MOVES.copy()
    shares[1, 1], shares[4, 4] = 1.002, 1.0
    assert "The best cell, at position 1 (b → B) behind layer 1, restores 100 %" in told(made(shares))
    shares[1, 1] = 1.3
    assert "The best cell, at the last position (4, e) behind layer 4, restores 100 %" in told(made(shares))


@pytest.mark.parametrize(
    ("site", "axes"), [("resid_post", MAP), ("attn_out", MAP), ("z", ("layer", "head", "position"))]
)
def test_many_changes_of_which_one_does_it_all_are_not_said_to_share_it(site, axes):
    shares = np.zeros((6, 5) if axes == MAP else (6, 2, 5))
    shares[0, ..., 1], shares[5, ..., 4] = 1.17, 1
    text = told(made(shares, range(5), site, axes))
    assert "at positions 0 to 4, and still a patch at one position alone moves the metric by up to 117 % of" in text
    assert "only its part" not in text
    shares[0], shares[5] = 0.3, 0
    text = told(made(shares, range(5), site, axes))
    assert "The texts differ at positions 0 to 4: one position carries only its part of the change." in text


def test_a_position_that_gets_it_back_has_not_lost_it():
    shares = np.zeros((6, 5))
    shares[:, 1], shares[:, 4] = (1.04, -0.01, 0.2, 0.1, 1.0, 0), (0, 0, 0, 0, 0.1, 1)
    text = told(made(shares))
    assert "position 1 (b → B) behind layers 0 and 4 and then" in text and "drops below half" not in text
    assert (
        "At position 1 the share, 104 % at layer 0, is still 100 % at layer 4; the output of layer 5, the last" in text
    )
    assert "it is gone in between, below half at layers 1 to 3 (down to -1 %), and back at layer 4 (100 %)." in text
    shares[3, 1], shares[4] = 0.8, (0, 0.3, 0, 0, 0.6)
    text = told(made(shares))
    assert "begins to fall at layer 1 and drops below half at layer 4 (30 %)." in text
    assert "below half at layers 1 and 2 (down to -1 %), and back at layer 3 (80 %)." in text
    assert "gone in between" not in told(made(MOVES))
    shares[5, 1] = 0.7
    assert "does not leave it here" in told(made(shares, site="resid_pre")) and "and back at layer 5" in told(
        made(shares)
    )


def test_a_last_position_that_loses_it_again_had_it():
    shares = MOVES.copy()
    shares[:, 4] = (0, 0, 0, 0, 0.52, 0.46)
    text = told(made(shares, site="resid_pre"))
    assert "The last position does not keep it: 52 % at layer 4, but 46 % at layer 5." in text


def test_the_heads_that_bring_it_are_those_of_the_layers_where_the_share_grows():
    shares = np.zeros((6, 5))
    shares[:3, 1], shares[:, 4] = 0.9, (0, 0, 0.2, 0.6, 0.62, 1)
    assert "the heads of layers 2, 3 and 5 bring it there" in told(made(shares))
    assert "the heads of layers 1, 2 and 4 bring it there" in told(made(shares, site="resid_pre"))
    axes = {"layer": [0, 2, 4], "position": [*range(5)]}
    part = replace(made(shares), values=made(shares).values[[0, 2, 4]], axes=axes)
    assert "the heads of" not in told(part)  # of which layer they are cannot be seen


def test_what_only_the_last_layer_brings_is_its_attentions_work():
    shares = np.zeros((6, 5))
    shares[:5, 1], shares[5, 4] = 1, 1
    text = told(made(shares))
    assert "At position 1 the share, 100 % at layer 0, is still 100 % at layer 4; the output of layer 5" in text
    assert "So it is the attention of layer 5 that brings it there." in text
    shares[4, 4] = 0.3
    assert "So it is the attention" not in told(made(shares))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.4958, "49.5 %"), (0.4999999, "49.9 %"), (0.5, "50 %"), (0.0999, "9.9 %"), (-0.0999, "-9.9 %"), (0.003, "<1 %"),
     (0.0, "0 %"), (-0.003, "0 %"), (1.014, "101 %"), (-1.03, "-103 %")],
)  # fmt: skip
def test_a_share_never_reads_as_a_limit_that_it_does_not_reach(share, text):
    assert labels.percent(np.float32(share)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0, "0"), (0.0, "0"), (np.float32(-0.0), "0"), (-0.001, "-0.001"), (-5.0, "-5.00")]
)
def test_there_is_no_minus_zero(value, text):
    assert labels.number(value) == text


def test_answers_that_are_level_are_not_said_to_be_ahead():
    assert "after the corrupted one the two are level" in told(made(MOVES, corrupted_value=-0.05))
    near = conclusions.baselines(made(MOVES, clean_value=-0.1, corrupted_value=0.1))
    assert near == ["logit(␣B) - logit(␣A) is -0.10 after the clean text and 0.10 after the corrupted one: ␣A is ahead "
                    "after the clean text, ␣B after the corrupted one."]  # fmt: skip
    assert "␣A is ahead after both, and only the margin changes" in told(made(MOVES, corrupted_value=-2.0))
    assert "the other way round, ␣B after the clean text" in told(made(MOVES, clean_value=5.0, corrupted_value=-5.0))


def test_a_cell_that_works_against_it_is_not_no_story():
    shares = np.zeros((6, 4))
    shares[0, 1], shares[3, 2] = -1.03, 0.14
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert text.startswith("The largest effect goes the other way: head 0.1 (-103 %).")
    assert "Against it work: head 0.1 (-103 %)." in text


def test_a_cell_is_named_once():
    shares = np.zeros((6, 5))
    shares[5, 4] = 0.27
    text = told(made(shares, site="attn_out"))
    assert text.startswith("The attention of layer 5 at the last position (4, e) contributes most, but no single cell")
    assert "The best cell restores 27 % of the gap." in text and "A tenth or more" not in text
    shares[3, 1] = -0.2
    text = told(made(shares, site="attn_out"))
    assert text.startswith("There is no clear story: 1 of the 30 cells works for it and 1 against it, up to -20 %.")
    assert "The best cell, the attention of layer 5 at the last position (4, e), restores 27 % of the gap." in text
    shares[4, 4] = 0.15
    text = told(made(shares, site="attn_out"))
    assert "A tenth or more each: at the last position (4, e), layer 5 (27 %), layer 4 (15 %)." in text


def test_a_cell_far_past_the_other_run_is_not_said_to_carry_the_gap():
    shares = np.zeros((6, 4))
    shares[0, 1] = 3.2
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert text.startswith("Head 0.1 moves the metric furthest, well past the other run.")
    assert "carries" not in text


def test_shares_that_make_more_than_the_gap_are_explained():
    shares = np.zeros((6, 4))
    shares[0, 1], shares[3, 2] = 0.9, 0.8
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert "Together these shares make 170 %, more than the whole gap" in text
    shares[0, 1] = 0.1
    assert "Shares of single cells need not add up" in told(made(shares, site="z", axes=("layer", "head")))


def test_a_map_in_which_nothing_stands_out_says_what_that_means():
    small = np.full((6, 4), 0.04)
    axes = ("layer", "head")
    assert "several at once may be" in told(made(small, site="z", axes=axes))
    assert "the others make up for it" in told(made(small, site="z", axes=axes, direction="noising"))
    pattern = made(np.full((6, 4, 5), 0.04), site="pattern", axes=(*axes, "position"))
    assert "where one head looks does not decide it" in told(pattern)


def test_the_first_token_differs():
    shares = np.zeros((6, 5))
    shares[:3, 0], shares[3:, 4] = 0.9, 1
    text = told(made(shares, changed=(0,)))
    assert "before the first changed token" not in text
    assert "at position 0 (a → A) behind layers 0 to 2" in text


def test_several_tokens_differ():
    text = told(made(MOVES, changed=(1, 3)))
    assert "The texts differ at positions 1 and 3" in text
    assert "The changed token at position 3 by itself never carries half (0 % at most)" in text


def test_only_the_last_token_differs():
    shares = np.zeros((6, 5))
    shares[:, 4] = 1
    text = told(made(shares, changed=(4,)))
    assert text.startswith("The changed token is the last one itself")
    assert "Positions 0 to 3, before the first changed token, have no effect" in text


def test_effects_where_there_can_be_none_are_a_fault_and_said_so():
    shares = MOVES.copy()
    shares[2, 0] = 0.3
    assert "should have no effect and do: something is wrong" in told(made(shares))
    shares = MOVES.copy()
    shares[5, 2] = 0.3
    assert "as expected: no later layer" not in told(made(shares))


@pytest.mark.parametrize("site", ["resid_pre", "k", "v"])
def test_what_the_last_layer_does_read_everywhere_is_not_called_unread(site):
    axes = SITES[site].axes
    shares = np.zeros([{"layer": 3, "head": 2}.get(axis, 5) for axis in axes])
    shares[1, ..., 1] = 0.7  # nothing in the last layer: true of these numbers, but no rule of the model
    assert "as expected: no later layer" not in told(made(shares, site=site, axes=axes))
    assert "as expected: no later layer" in told(made(MOVES, site="resid_mid"))


def test_order_of_the_chosen_layers_and_positions_does_not_matter():
    whole = made(MOVES)
    layers, positions = [5, 0, 3, 1, 4, 2], [4, 1, 0, 3, 2]
    mixed = replace(
        whole, values=whole.values[np.ix_(layers, positions)], axes={"layer": layers, "position": positions}
    )
    assert conclusions.tell(mixed) == conclusions.tell(whole)


def test_part_of_a_map_is_not_told_as_the_whole():
    whole = made(MOVES)
    part = replace(whole, values=whole.values[:3, 1:3], axes={"layer": [0, 1, 2], "position": [1, 2]})
    assert "Only positions 1 and 2 were patched." in told(part)
    one = replace(whole, values=whole.values[:, 1:2], axes={"layer": [*range(6)], "position": [1]})
    assert "Only position 1 was patched." in told(one)
    assert (
        "does not leave it here" in told(part)
        and "reach" not in told(part)
        and "Layer 2 has no effect" not in told(part)
    )


def test_heads_are_named():
    shares = np.zeros((6, 4))
    shares[3, 2], shares[4, 1], shares[5, 0] = 0.7, 0.2, -0.15
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert text.startswith("Head 3.2 carries most of the gap")
    assert "head 3.2 (70 %), head 4.1 (20 %)" in text and "Against it work: head 5.0 (-15 %)" in text
    by_position = np.zeros((6, 4, 5))
    by_position[3, 2, 4] = 0.7
    assert told(made(by_position, site="z", axes=("layer", "head", "position"))).startswith(
        "Head 3.2 at the last position (4, e) carries most of the gap"
    )
    by_source = np.zeros((6, 4, 5, 5))
    by_source[3, 2, 4, 1] = 0.7
    entry = told(made(by_source, site="pattern_entry", axes=("layer", "head", "position", "source")))
    assert entry.startswith(
        "The attention of head 3.2 from the last position (4, e) to position 1 (b → B) carries most"
    )


def test_all_positions_of_the_stream_are_a_check_and_no_finding():
    text = told(made(np.ones(6), axes=("layer",)))
    assert text.startswith("All positions of one layer together restore 100 % of the gap, as they must")
    assert told(made([0, 0, 0.6, 0, 0, 0], site="mlp_out", axes=("layer",))).startswith(
        "The MLP of layer 2 carries most"
    )


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("seed", range(5))
def test_every_site_and_any_numbers_have_some_text(site, seed):
    axes = SITES[site].axes
    shape = [{"layer": 3, "head": 2}.get(axis, 5) for axis in axes]
    shares = np.random.default_rng(seed).normal(0, 10.0 ** (seed - 2), shape)
    for changed in ((0,), (1,), (4,), (1, 4), (0, 1, 2, 3, 4)):
        for more in ({}, {"direction": "noising"}, {"alpha": 0.5}):
            sentences = conclusions.tell(made(shares, changed, site, axes, **more))
            assert sentences and all(text.endswith(".") and "nan" not in text for text in sentences)
    broken = made(shares, site=site, axes=axes)
    broken.values.flat[0] = np.nan
    assert "not finite" in told(broken)


def test_an_overshoot_and_an_estimate_carry_a_warning():
    assert "overshoot" in told(made(MOVES * 1.5)) and "overshoot" not in told(made(MOVES))
    assert "first-order estimates" in told(made(MOVES, method="attribution"))
    assert "Only a blend was written (alpha = 0.5), so 100 % is not to be expected." in told(made(MOVES / 2, alpha=0.5))
    assert "past the other run's (alpha = 2), so shares may well pass 100 %" in told(made(MOVES * 1.37, alpha=2.0))
    assert "away from the other run's (alpha = -1), so expect" in told(made(-MOVES, alpha=-1.0))


def test_agreement_finds_the_worst_cell():
    exact = made(MOVES)
    values = exact.values.copy()
    values[2, 1] += 3
    correlation, worst = findings.agreement(exact, replace(exact, values=values))
    assert worst == (2, 1) and 0.9 < correlation < 1
    assert np.isnan(findings.agreement(exact, made(np.zeros((6, 5))))[0])
    with pytest.raises(ValueError, match="same cells"):
        findings.agreement(exact, made(np.zeros((5, 5))))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "3"),
        ([1, 2], "1 and 2"),
        ([5, 0, 1, 2], "0 to 2 and 5"),
        ([0, 2, 4, 5, 6], "0, 2 and 4 to 6"),
        ([2, 3, 5], "2, 3 and 5"),
    ],
)
def test_ranges(numbers, text):
    assert labels.ranges(numbers) == text
