"""The conclusions follow the numbers: the published maps tell what has been read in them, other maps something else."""

from dataclasses import replace

import numpy as np
import pytest

from minigpt2.facts import load_facts
from patching import SITES, Result
from patching.explain import conclusions, findings, labels, numbers
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
        tokens=PairTokens(tuple(clean), tuple(corrupted), (clean[first], corrupted[first])),
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
        tokens=PairTokens(clean, corrupted, (1, 2)),
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
        "The difference between the texts is carried at position 1 (␣Jones → ␣Smith) after layers 0 to 9, then at the last "
        "position (10, ␣Michelle) after layers 10 and 11."
    )
    assert "The best cell, position 1 (␣Jones → ␣Smith) after layer 0, restores 99 % of the gap." in text
    assert (
        "At position 1 the share is half or more after layers 0 to 9 (56 % to 99 %); after layer 10 it is 13 %." in text
    )
    assert "At the last position the share is half or more after layers 10 and 11 (82 % to 100 %); before that" in text
    assert "␣Jones is ahead after the clean text, ␣Smith after the corrupted one" in text
    assert "At position 0, before the first changed token, there is no effect, as expected" in text
    assert "Layer 11 has no effect off the last position, as expected" in text
    assert "no clear story" not in text


def test_the_attention_map_lists_the_layers_by_position():
    text = told(published(0, "attn_out"))
    assert text.startswith(
        "The largest effect is that of the attention of layer 10 at the last position (10, ␣Michelle)"
    )
    assert (
        "layer 10 (35 %), layer 7 (18 %), layer 11 (17 %), layer 9 (11 %); at position 1 (␣Jones → ␣Smith): layer 0"
        in text
    )


def test_the_wizard_map_never_reaches_the_end_before_the_last_layer():
    text = told(published(1))
    assert "at position 16 (␣wizard → ␣algorithm) after layers 0 to 9" in text
    assert "No single position carries half of the gap after layer 10" in text
    assert "half or more after layer 11, where it must be (100 %); before that, 43 % at most" in text
    assert "␣wizard is ahead after both" in text
    assert "At positions 0 to 15, before the first changed token, there is no effect, as expected" in text
    assert "the other way, up to -14 %" in text


def test_no_conclusion_claims_what_moved_it():
    """Which heads or which lookups carry a difference from place to place, no map of the stream can show."""

    def stream_part(result):
        found = findings.Findings(result)
        return [
            text for kinds, some in conclusions.CONCLUSIONS if kinds == ("stream",) for c in some for text in c(found)
        ]

    for result in (published(0), published(1), made(MOVES), made(ASKED, changed=(1, 4))):
        assert not {"head", "heads", "attention", "look", "reads", "copies"} & set(
            " ".join(stream_part(result)).split()
        )


def test_every_conclusion_can_be_drawn_and_only_from_the_maps_of_its_kind():
    everything = [conclude for _, some in conclusions.CONCLUSIONS for conclude in some]
    assert len({conclude.__name__ for conclude in everything}) == len(everything)
    defined = [f for f in vars(conclusions).values() if getattr(f, "__module__", "") == conclusions.__name__]
    assert set(everything) == set(defined) - {conclusions.tell}


def test_a_result_answers_for_itself():
    result = made(MOVES)
    assert (result.base, result.target, result.base_value, result.target_value) == ("corrupted", "clean", 5, -5)
    other = made(MOVES, direction="noising")
    assert (other.base, other.target, other.gap, result.gap) == ("clean", "corrupted", 10, -10)
    assert result.at(layer=3, position=4) == result.values[3, 4] and result.place((3, 4)) == {"layer": 3, "position": 4}
    part = replace(result, values=result.values[[5, 2]], axes={"layer": [5, 2], "position": list(range(5))})
    assert part.at(position=1, layer=2) == result.values[2, 1]
    for place, message in (
        ({"layer": 2}, "needs layer and position here, got layer"),
        ({"layer": 3, "position": 1}, "layer 3 is not in this result; it has layer 5, 2"),
        ({"layer": 5, "position": -1}, "position -1 is not in this result"),
    ):
        with pytest.raises(ValueError, match=message):
            part.at(**place)
    assert (result.label("position", 1), result.label("source", 2), result.label("layer", 2)) == (
        "1 b → B", "2 c", "layer 2",
    )  # fmt: skip
    assert made(MOVES, changed=(3, 1)).tokens.differing == (1, 3)


def test_the_noise_floor_of_a_bounded_metric_is_relative():
    small = made(MOVES, clean_value=1e-6, corrupted_value=3e-6)
    assert small.noise == 1e-4 and replace(small, metric="clean_probability").noise == pytest.approx(3e-10)
    assert replace(small, metric="clean_log_probability").noise == replace(small, metric="my_probability").noise == 1e-4


def test_the_largest_cells_are_the_best_of_the_positions():
    cells = findings.Findings(published(0)).largest()
    assert cells[0].place == {"layer": 11, "position": 10} and cells[0].share == pytest.approx(1, abs=1e-3)
    assert cells[1].place == {"layer": 0, "position": 1} and cells[1].value == pytest.approx(-4.0691, abs=1e-3)
    assert len({cell.place["position"] for cell in cells}) == len(cells)
    attention = findings.Findings(published(0, "attn_out")).largest(n=4)
    assert [tuple(cell.place.values()) for cell in attention] == [(10, 10), (0, 1), (7, 10), (11, 10)]


def test_different_outcomes_are_told_differently():
    late, stays = MOVES.copy(), np.zeros((6, 5))
    late[3, 1], late[3, 4] = 0.9, 0.0
    stays[:5, 1], stays[5, 4] = 0.95, 1
    texts = [told(made(shares)) for shares in (MOVES, late, stays)]
    assert "after layers 0 to 2 (90 %); after layer 3 it is 0 %" in texts[0]
    assert "half or more after layers 3 to 5" in texts[0] and "where it must be" not in texts[0]
    assert "after layers 0 to 3 (90 %); after layer 4 it is 0 %" in texts[1] and "after layers 4 and 5" in texts[1]
    assert "after layer 5, where it must be (100 %)" in texts[2]


def test_a_detour_is_named():
    shares = np.zeros((6, 5))
    shares[:2, 1], shares[2:4, 3], shares[4:, 4] = 0.9, 0.7, 1
    text = told(made(shares))
    assert "position 1 (b → B) after layers 0 and 1, then at position 3 (d) after layers 2 and 3, then" in text
    assert "position 3 (d) moves it most: 70 % at its peak" in text


def test_no_story_is_said_to_be_none():
    spread = np.full((6, 5), 0.2)
    spread[:, 0], spread[5], spread[5, 4] = 0, 0, 1  # the last layer's last position restores all in any map
    text = told(made(spread))
    assert text.startswith("There is no clear story: no position carries half of the gap, but where one must by")
    assert "is carried at" not in text
    weak = told(made(np.full((6, 4), 0.03), site="z", axes=("layer", "head")))
    assert weak.startswith("There is no clear story") and "10 %" in weak and "enough by itself" in weak
    assert "needed by itself" in told(
        made(np.full((6, 4), 0.03), site="z", axes=("layer", "head"), direction="noising")
    )


@pytest.mark.parametrize("cell", [-4.29, -0.5, 1.5, 3.04])
def test_of_one_change_whose_patches_leave_the_range_of_both_runs_there_is_no_story(cell):
    shares = MOVES.copy()
    shares[1, 2] = cell
    text = told(made(shares, clean_value=-0.03, corrupted_value=0.03))
    lowest, highest = numbers.percent(min(cell, 0)), numbers.percent(max(cell, 1))
    assert text.startswith("There is no clear story: single patches move the metric by")
    assert f"by {lowest} to {highest} of the gap (0.06), to values well outside" in text
    assert "carried" not in text and "half or more" not in text
    shares[1, 2] = -0.49 if cell < 0 else 1.49
    assert told(made(shares)).startswith("The difference between the texts is carried")


def test_of_several_changes_one_alone_may_go_one_gap_further():
    shares = ASKED.copy()
    assert "is carried at" in told(made(shares, changed=(1, 4)))
    shares[0, 4] = -4.27
    text = told(made(shares, changed=(1, 4)))
    assert text.startswith("There is no clear story: single patches move the metric by -427 % to 100 % of the gap")
    assert "is carried at" not in text and "the clean e at position 4 gives 47.70 (-427 %)" in text


def test_alpha_widens_the_range_that_a_story_may_have():
    assert "is carried at" in told(made(MOVES * 2, alpha=2.0)) and "no clear story: single" in told(made(MOVES * 2))
    assert "no clear story: single" not in told(made(-MOVES, alpha=-1.0))


def test_nothing_moves():
    assert told(made(np.zeros((6, 5)))).startswith("No patch of this map moves the metric at all")
    assert "alpha = 0 writes nothing" in told(made(np.zeros((6, 5)), alpha=0.0))
    assert findings.Findings(made(np.zeros((6, 5)))).largest() == []


@pytest.mark.parametrize("gap", [0.0, 1e-5])
def test_without_a_gap_there_are_no_shares(gap):
    result = replace(made(MOVES), clean_value=5.0 - gap, corrupted_value=5.0)
    assert told(result).startswith("There is no gap to restore") and "%" not in told(result)
    assert findings.Findings(result).largest()[0].value == -5.0


def test_noising_is_told_from_the_other_side():
    text = told(made(MOVES, direction="noising"))
    assert "moves the metric 90 % of the way to the corrupted run" in text and "restore" not in text
    assert "needs" in text.splitlines()[-1]


ASKED = np.zeros((6, 5))  # as last-mention has it: one change at position 1, the other at the last position
ASKED[:3, 4], ASKED[3, 4], ASKED[4:, 4], ASKED[:3, 1] = -1.03, 0.18, 1.0, 0.01


def test_a_position_whose_effect_flips_is_told_as_both():
    text = told(made(ASKED, changed=(1, 4)))
    assert text.startswith(
        "The difference between the texts is carried at the last position (4, e → E) after layers 4 and 5."
    )
    assert "No single position carries half of the gap after layers 0 to 3 (18 % at most)" in text
    assert (
        "The texts differ at positions 1 and 4, and patching after layer 0 is nearly the same as swapping that one token: "
        "the clean b at position 1 gives 4.90 (1 %) and the clean e at position 4 gives 15.30 (-103 %)."
    ) in text
    assert (
        "the sign of the effect flips: after layers 0 to 2, the metric moves away from the clean run (-103 %)" in text
    )
    assert "Some patches move the metric the other way" not in text
    text = told(made(ASKED, changed=(1, 4), direction="noising"))
    assert "the metric moves away from the corrupted run" in text and "the corrupted B at position 1" in text
    plain = ASKED.copy()
    plain[:4, 4] = 1.0
    text = told(made(plain, changed=(1, 4)))
    assert "flips" not in text and "At the last position the share is half or more after layers 0 to 5 (100 %)" in text


def test_a_change_that_overshoots_alone_is_told():
    shares = np.zeros((6, 5))
    shares[:3, 1], shares[:, 4] = 2.03, 0.99
    text = told(made(shares, changed=(1, 4), direction="noising"))
    assert text.startswith(
        "The difference between the texts is carried at the last position (4, e → E) after layers 0 to 5."
    )
    assert "The best cell, the last position (4, e → E) after layer 0, moves the metric 99 % of the way" in text
    assert "the corrupted B at position 1 gives 15.30 (203 %)" in text and "(up to 203 %) overshoot" in text


def test_the_best_cell_is_the_nearest_and_of_equals_the_lowest():
    shares = MOVES.copy()
    shares[1, 1], shares[4, 4] = 1.002, 1.0
    assert "The best cell, position 1 (b → B) after layer 1, restores 100 %" in told(made(shares))
    shares[1, 1] = 1.3
    assert "The best cell, the last position (4, e) after layer 4, restores 100 %" in told(made(shares))


def test_a_position_that_gets_it_back_has_not_lost_it():
    shares = np.zeros((6, 5))
    shares[:, 1], shares[:, 4] = (1.04, -0.01, 0.2, 0.1, 1.0, 0), (0, 0, 0, 0, 0.1, 1)
    text = told(made(shares))
    assert "position 1 (b → B) after layers 0 and 4, then" in text
    assert (
        "At position 1 the share is half or more after layers 0 and 4 (100 % to 104 %); after layer 5 it is 0 %" in text
    )
    shares[:, 4] = (0, 0, 0, 0.52, 0.3, 0.46)
    text = told(made(shares, site="resid_pre"))
    assert "At the last position the share is half or more before layer 3 (52 %)" in text
    assert "before layer 4 it is 30 %" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.4958, "49.5 %"), (0.4999999, "49.9 %"), (0.5, "50 %"), (0.0999, "9.9 %"), (-0.0999, "-9.9 %"), (0.003, "<1 %"),
     (0.0, "0 %"), (-0.003, "0 %"), (1.014, "101 %"), (-1.03, "-103 %")],
)  # fmt: skip
def test_a_share_never_reads_as_a_limit_that_it_does_not_reach(share, text):
    assert numbers.percent(np.float32(share)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0, "0"), (0.0, "0"), (np.float32(-0.0), "0"), (-0.001, "-0.001"), (-5.0, "-5.00")]
)
def test_there_is_no_minus_zero(value, text):
    assert numbers.number(value) == text


def test_answers_that_are_level_are_not_said_to_be_ahead():
    assert "␣A is ahead after the clean text, neither answer after the corrupted" in told(
        made(MOVES, corrupted_value=-0.05)
    )
    near = told(made(MOVES, clean_value=-0.1, corrupted_value=0.1))
    assert (
        "logit(␣B) - logit(␣A) is -0.10 after the clean text and 0.10 after the corrupted one: ␣A is ahead after the clean "
        "text, ␣B after the corrupted one."
    ) in near
    assert "␣A is ahead after both" in told(made(MOVES, corrupted_value=-2.0))
    assert "␣B is ahead after the clean text, ␣A after" in told(made(MOVES, clean_value=5.0, corrupted_value=-5.0))
    assert "ahead" not in told(replace(made(MOVES), metric="clean_log_probability"))


def test_a_cell_that_works_against_it_is_told():
    shares = np.zeros((6, 4))
    shares[0, 1], shares[3, 2] = -1.03, 0.14
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert text.startswith("The largest effect is that of head 0.1: -103 % of the gap, the other way.")
    assert "The other way: head 0.1 (-103 %)." in text and "or more: head 3.2 (14 %)." in text


def test_shares_that_make_more_than_the_gap_are_explained():
    shares = np.zeros((6, 4))
    shares[0, 1], shares[3, 2] = 0.9, 0.8
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert "Together these shares make 170 %, more than the whole gap" in text
    shares[0, 1] = 0.1
    assert "Together" not in told(made(shares, site="z", axes=("layer", "head")))


def test_the_first_token_differs():
    shares = np.zeros((6, 5))
    shares[:3, 0], shares[3:, 4] = 0.9, 1
    text = told(made(shares, changed=(0,)))
    assert "before the first changed token" not in text
    assert "at position 0 (a → A) after layers 0 to 2" in text


def test_several_tokens_differ():
    text = told(made(MOVES, changed=(1, 3)))
    assert "The texts differ at positions 1 and 3" in text
    assert "At position 3 the share never reaches half (0 % at most)" in text


def test_of_the_last_token_alone_nothing_is_concluded():
    shares = np.zeros((6, 5))
    shares[:, 4] = 1
    text = told(made(shares, changed=(4,)))
    assert text.startswith("Nothing can be concluded: the changed token is the last one")
    assert "At positions 0 to 3, before the first changed token, there is no effect" in text


def test_effects_where_there_can_be_none_are_a_fault_and_said_so():
    shares = MOVES.copy()
    shares[2, 0] = 0.3
    assert "there should be no effect and there is: something is wrong" in told(made(shares))
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
    text = told(part)
    assert "At position 1 the share is half or more after layers 0 to 2 (90 %)." in text
    assert "last position" not in text and "Layer 2 has no effect" not in text


def test_heads_are_named():
    shares = np.zeros((6, 4))
    shares[3, 2], shares[4, 1], shares[5, 0] = 0.7, 0.2, -0.15
    text = told(made(shares, site="z", axes=("layer", "head")))
    assert text.startswith("The largest effect is that of head 3.2: 70 % of the gap.")
    assert "head 3.2 (70 %), head 4.1 (20 %)" in text and "The other way: head 5.0 (-15 %)" in text
    by_source = np.zeros((6, 4, 5, 5))
    by_source[3, 2, 4, 1] = 0.7
    entry = told(made(by_source, site="pattern_entry", axes=("layer", "head", "position", "source")))
    assert entry.startswith(
        "The largest effect is that of the attention of head 3.2 from the last position (4, e) to position 1 (b → B): 70 %"
    )
    assert "at the last position (4, e): head 3.2 to position 1 (70 %)" in entry


def test_all_positions_of_the_stream_are_a_check_and_no_finding():
    text = told(made(np.ones(6), axes=("layer",)))
    assert text.startswith("Patching all positions of a layer together restores 100 % of the gap, as it must")
    assert told(made([0, 0, 0.6, 0, 0, 0], site="mlp_out", axes=("layer",))).startswith(
        "The largest effect is that of the MLP of layer 2: 60 % of the gap"
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
            assert all(text[0].isupper() or text.startswith("logit(") for text in sentences)
    broken = made(shares, site=site, axes=axes)
    broken.values.flat[0] = np.nan
    assert "not finite" in told(broken)


def test_an_overshoot_an_estimate_and_a_blend_carry_a_warning():
    assert "overshoot" in told(made(MOVES * 1.5)) and "overshoot" not in told(made(MOVES))
    assert "first-order estimates" in told(made(MOVES, method="attribution"))
    assert "(alpha = 0.5): do not expect 100 %." in told(made(MOVES / 2, alpha=0.5))


def test_agreement_finds_the_worst_cell_and_the_size_of_the_changes():
    exact = made(MOVES)
    values = exact.values.copy()
    values[2, 1] += 3
    compared = findings.agreement(exact, replace(exact, values=values))
    assert compared.worst == {"layer": 2, "position": 1} and 0.9 < compared.correlation < 1
    assert (compared.exact, compared.estimate) == (exact.values[2, 1], values[2, 1])
    half = findings.agreement(exact, made(MOVES / 2))
    assert half.correlation == pytest.approx(1) and half.factor == pytest.approx(0.5)
    assert "correlation 1.000, changes 0.50 of the exact ones" in half.words()
    assert "no correlation" in findings.agreement(exact, made(np.zeros((6, 5)))).words()
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
