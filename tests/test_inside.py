"""Both runs from inside: what is told about them is what their numbers say."""

import re
from dataclasses import replace

import numpy as np
import pytest

from minigpt2 import GPT2
from patching.demo.experiments import EXPERIMENTS
from patching.explain.both_runs import BothRuns
from patching.explain.numbers import signed
from patching.explain.views import LensOfBoth, WritersOfBoth


@pytest.fixture(scope="module")
def bundled():
    return GPT2.from_pretrained("bundled")


def view_of(kind, model, pair):
    return kind(BothRuns(model, pair.tokens(model), kind.keep))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_final_prediction_is_dated_by_the_lens(bundled, name):
    view = view_of(LensOfBoth, bundled, EXPERIMENTS[name].pair)
    for lens, sentence in zip(view.lenses, view.conclusions()):
        tokens = lens.top_tokens[:, -1, 0].tolist()
        depth = int(re.search(r"layer (\d)", sentence)[1]) + 1
        assert len(set(tokens[depth:])) == 1 and tokens[depth - 1] != tokens[depth]
        assert ("only after" in sentence) == (depth == len(tokens) - 1)
        assert bundled.labels([tokens[-1]])[0] in sentence


def test_a_prediction_that_never_changes_is_the_embeddings(bundled):
    view = view_of(LensOfBoth, bundled, EXPERIMENTS["surname"].pair)
    lens = view.lenses[0]
    view.lenses = [replace(lens, top_tokens=np.full_like(lens.top_tokens, 5))]
    assert view.conclusions()[0].endswith("is the likeliest token from the embedding on.")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_shares_of_the_writers_make_the_whole_difference(bundled, name):
    view = view_of(WritersOfBoth, bundled, EXPERIMENTS[name].pair)
    first, second = view.conclusions()
    shares = [int(share) for share in re.findall(r"(-?\d+) %", first)]
    assert 98 <= sum(shares) <= 102 and signed(view.gap) in first
    attn = (view.both[1].attn - view.both[0].attn) / view.gap
    assert f"layer {attn.argmax()}'s ({round(100 * attn.max())} %)" in second
    ((title, head, rows),) = view.tables()
    differences = [abs(float(row[3])) for row in rows[:-1]]
    assert differences == sorted(differences, reverse=True) and rows[-1][3] == signed(view.gap)
    assert title == view.both[0].question and len(head) == 4


def test_equal_runs_have_nothing_to_attribute(bundled):
    tokens = EXPERIMENTS["surname"].pair.tokens(bundled)
    both = BothRuns(bundled, tokens)
    both.runs = [bundled.run(tokens.clean)] * 2
    (sentence,) = WritersOfBoth(both).conclusions()
    assert "no difference to attribute" in sentence


def test_pictures_of_both_runs_have_one_scale(bundled):
    clean, corrupted = view_of(WritersOfBoth, bundled, EXPERIMENTS["surname"].pair).figures()
    for ax, other in zip(clean.axes[:2], corrupted.axes[:2]):
        assert ax.get_xlim() == other.get_xlim()
    maps = [fig.axes[0].collections[0] for fig in (clean, corrupted)]
    assert maps[0].get_clim() == maps[1].get_clim()


@pytest.mark.parametrize(("value", "text"), [(-0.001, "+0.00"), (0.004, "+0.00"), (-1.5, "-1.50"), (2, "+2.00")])
def test_signed(value, text):
    assert signed(np.float32(value)) == text
