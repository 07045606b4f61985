"""A picture is the same whatever settings, style, backend or thread it is drawn under, and shows any token in its place."""

import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from matplotlib.figure import Figure
from test_story import MOVES, made

from minigpt2 import GPT2
from minigpt2.lens import direct_logit_attribution, logit_lens
from minigpt2.pictures import runs, style
from patching import sweep
from patching.demo.experiments import EXPERIMENTS
from patching.draw import figure, panels

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = {
    "usetex": {"text.usetex": True},
    "no mathematics": {"text.parse_math": False},
    "grid": {"axes.grid": True, "axes.grid.which": "both"},
    "origin": {"image.origin": "lower", "image.cmap": "jet", "image.interpolation": "bicubic", "image.aspect": 3},
    "saving": {"savefig.bbox": "tight", "savefig.transparent": True, "savefig.dpi": 33, "savefig.format": "svg"},
    "sizes": {"figure.dpi": 55, "font.size": 30, "font.weight": "bold", "lines.linewidth": 9, "axes.linewidth": 7},
    "ticks": {"xtick.top": True, "ytick.labelleft": False, "xtick.minor.visible": True, "axes.formatter.limits": (0, 0)},
    "layout": {"figure.autolayout": True, "figure.constrained_layout.h_pad": 2, "axes.titlelocation": "right"},
    "sketch": {"path.sketch": (5, 10, 3), "patch.force_edgecolor": True, "text.hinting": "none"},
    "minus": {"axes.unicode_minus": False, "axes.xmargin": 0.4, "axes.spines.left": False, "axes.axisbelow": False},
    "ggplot": matplotlib.style.library["ggplot"],
    "dark_background": matplotlib.style.library["dark_background"],
}
ALL_AT_ONCE = {name: value for settings in HOSTILE.values() for name, value in settings.items()}


@pytest.fixture(scope="module")
def drawings():
    """Every kind of picture, as functions that make it."""
    model = GPT2.from_pretrained("bundled")
    pair = EXPERIMENTS["surname"].pair
    run, tokens = model.run(pair.tokens(model).clean), pair.tokens(model)
    result, odd = made(MOVES), replace(made(MOVES), clean_labels=("$x_1$", *"bcde"), unit="logit($a$)", model="a_$b$")
    return {
        "map": lambda: figure.figure(odd),
        "bars": lambda: figure.figure(made([0, 0.5, 1], site="attn_out", axes=("layer",))),
        "compared": lambda: figure.compared(result, replace(result, values=result.values + 0.5, method="attribution")),
        "lens": lambda: runs.lens_figure(logit_lens(run)),
        "attribution": lambda: runs.attribution_figure(direct_logit_attribution(run, *tokens.answers)),
        "pattern": lambda: runs.pattern_figure(run, 4, 2),
    }


def png(fig):
    return fig._repr_png_()


def written(fig, path):
    style.write(fig, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def as_by_default(drawings):
    assert not matplotlib.rcParams["axes.grid"]
    return {name: png(draw()) for name, draw in drawings.items()}


@pytest.mark.parametrize("settings", HOSTILE)
def test_no_setting_changes_a_picture(drawings, as_by_default, settings):
    with matplotlib.rc_context(HOSTILE[settings]):
        theirs = matplotlib.rcParams.copy()
        assert png(drawings["map"]()) == as_by_default["map"]
        assert matplotlib.rcParams.copy() == theirs


@pytest.mark.parametrize("kind", ["map", "bars", "compared", "lens", "attribution", "pattern"])
def test_all_settings_at_once_change_no_picture(drawings, as_by_default, kind):
    """Set when it is made, set when it is saved by us, and by matplotlib's own means."""
    with matplotlib.rc_context(ALL_AT_ONCE):
        made_under_them = drawings[kind]()
    assert png(made_under_them) == as_by_default[kind]
    fig, other = drawings[kind](), drawings[kind]()
    with matplotlib.rc_context(ALL_AT_ONCE):
        assert png(fig) == as_by_default[kind]
        picture = BytesIO()
        other.savefig(picture, format="png", dpi=100)
        assert picture.getvalue() == as_by_default[kind]
