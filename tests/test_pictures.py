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
from patching import save
from patching.demo import __main__ as demo
from patching.demo.experiments import EXPERIMENTS
from patching.draw import figure
from patching.prompts import PairTokens

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = {
    "usetex": {"text.usetex": True},
    "no mathematics": {"text.parse_math": False},
    "grid": {"axes.grid": True, "axes.grid.which": "both"},
    "origin": {"image.origin": "lower", "image.cmap": "jet", "image.interpolation": "bicubic", "image.aspect": 3},
    "saving": {"savefig.bbox": "tight", "savefig.transparent": True, "savefig.dpi": 33, "savefig.format": "svg"},
    "sizes": {"figure.dpi": 55, "font.size": 30, "font.weight": "bold", "lines.linewidth": 9, "axes.linewidth": 7},
    "ticks": {
        "xtick.top": True,
        "ytick.labelleft": False,
        "xtick.minor.visible": True,
        "axes.formatter.limits": (0, 0),
    },
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


def command(*args, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def test_a_matplotlibrc_changes_no_picture_of_the_demo(tmp_path):
    rc = tmp_path / "matplotlibrc"
    rc.write_text("text.usetex: True\naxes.grid: True\nsavefig.bbox: tight\nimage.origin: lower\nfont.size: 20\n")
    for name, environment in (("plain", {}), ("theirs", {"MATPLOTLIBRC": str(rc)})):
        done = command(
            "patching.demo", "--model", "bundled", "--quiet", "--out", f"{name}.png", cwd=tmp_path, **environment
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])
def test_commands_need_no_backend(tmp_path, backend):
    """A notebook hands its own to the commands that it starts, where it may not be installed."""
    (tmp_path / "matplotlib_inline").mkdir()
    (tmp_path / "matplotlib_inline" / "__init__.py").write_text("raise ImportError('not installed')")
    environment = {"MPLBACKEND": backend, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    save.save(made(MOVES), tmp_path / "x")
    for args in (
        ("patching.draw", "x.npz"),
        ("patching.demo", "--model", "bundled", "--quiet", "--out", "a.png", "--report", "a.html"),
        ("minigpt2", "--model", "bundled", "one two three", "--lens", "b.png"),
    ):
        done = command(*args, cwd=tmp_path, **environment)
        assert (done.returncode, done.stderr) == (0, ""), args
    assert {"x.png", "a.png", "b.png", "a.html"} <= {path.name for path in tmp_path.iterdir()}


def test_numbers_are_saved_before_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--model", "bundled", "--quiet", "--save", "--out", "x.png"])
    monkeypatch.setattr(figure, "figure", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.main()
    assert save.load("x").values.shape == (6, 11)


def test_settings_are_restored_whatever_the_threads_do():
    """Two threads that save and restore the settings in turn, unlocked, leave those of the first to the whole program."""
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def first():
        with style.settings():
            inside.set()
            go_on.wait(5)

    def second():
        with style.settings():
            seen.append(matplotlib.rcParams["axes.grid"])

    with matplotlib.rc_context({"axes.grid": True}):
        threads = [threading.Thread(target=work) for work in (first, second)]
        threads[0].start()
        inside.wait(5)
        threads[1].start()
        time.sleep(0.05)
        assert seen == []
        go_on.set()
        for thread in threads:
            thread.join()
        assert seen == [False] and matplotlib.rcParams["axes.grid"] is True


def test_the_users_fonts_are_asked_in_turn():
    """A glyph that only the second family has is drawn; one that none has is an escape."""
    assert style.drawable("ab漢") == "ab\\u6f22"
    with matplotlib.rc_context({"font.family": ["STIXSizeOneSym", "No Such Font", "DejaVu Sans"]}):
        assert style.drawable("a漢") == "a\\u6f22"
    with matplotlib.rc_context({"font.family": ["No Such Font"]}):
        assert style.drawable("a漢") == "a\\u6f22"


def test_no_character_ends_or_reorders_a_picture(tmp_path):
    odd = ("\x00\x1b[31m", "\u202eabc", "\ufffe", "\u2028", "\x85\t\r")
    result = replace(
        made(MOVES, changed=(2,)), clean_labels=odd, corrupted_labels=odd, unit="\x08\u202e", model="\x1b\ud800"
    )
    fig = figure.figure(result, note="\x07")
    style.write(fig, tmp_path / "x.svg")
    xml.etree.ElementTree.parse(tmp_path / "x.svg")
    shown = [text.get_text() for text in fig.findobj(matplotlib.text.Text)]
    assert "0 \\x00\\x1b[31m" in shown and "1 \\u202eabc" in shown and "4 \\x85\\t\\r" in shown
    assert all(c.isprintable() or c == "\n" for text in shown for c in text)


RTL = ("␣אב", "␣שלום", "c", "␣عربي", "e"), ("␣אב", "␣ירושלים", "c", "␣فارسی", "e")


@pytest.mark.parametrize("reorders", [True, False])
def test_each_token_written_from_right_to_left_keeps_its_place(monkeypatch, reorders):
    """The bidirectional algorithm sets "clean → corrupted" as one run from the right, so that corrupted is read first."""
    monkeypatch.setattr(style, "REORDERS", reorders)
    result = replace(made(MOVES, changed=(1, 3)), clean_labels=RTL[0], corrupted_labels=RTL[1])
    shown = [text.get_text() for text in figure.figure(result).axes[0].get_xticklabels()]
    if reorders:
        assert shown[1] == "\u200e1 \u2068␣שלום\u2069 → \u2068␣ירושלים\u2069"
        assert shown[0] == "\u200e0 \u2068␣אב\u2069"
    else:
        assert shown[1] == "1 ␣שלום → ␣ירושלים"
    assert shown[2] == "2 c"


def test_isolates_take_no_room():
    """They order the letters and are not drawn: "a" isolated is the picture of "a"."""

    def pixels(text):
        fig = style.Picture((2, 1), dpi=100)
        fig.text(0.1, 0.5, text)
        return png(fig)

    if style.REORDERS:
        assert pixels("1 a") == pixels("\u200e1 \u2068a\u2069")
        both = "\u200e\u2068אב\u2069 → \u2068גד\u2069"
        assert pixels(both) != pixels("אב → גד")
    else:
        assert style.isolated("1 ", "אב") == "1 אב"


def test_a_large_map_is_one_image():
    n = 500
    result = large(n, n)
    fig = figure.figure(result)
    fig.draw_without_rendering()
    assert len(fig.findobj()) < 6000 and np.prod(fig.get_size_inches()) <= 151
    assert not fig.axes[0].collections  # no lines between the cells, which would cover them
    (image,) = fig.axes[0].images
    assert np.array_equal(image.get_array(), result.values)


def test_many_bars_are_one_collection():
    values = np.random.default_rng(0).random(900)
    ax = figure.figure(made(values, site="attn_out", axes=("layer",))).axes[0]
    (bars,) = [c for c in ax.collections if len(c.get_segments()) == 900]
    assert np.allclose([segment[1][0] for segment in bars.get_segments()], 5 - 10 * values) and not ax.patches


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says there how much memory was used at most")
def test_a_large_map_takes_little_memory(tmp_path):
    save.save(large(500, 500), tmp_path / "x")
    code = "import sys; sys.argv = ['draw', 'x.npz']\nfrom patching.draw.__main__ import main\nmain()\n"
    code += "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == "" and int(done.stdout.split()[-2]) < 300 << 10


def large(n_layer, n):
    tokens, labels = tuple(range(n)), ("␣token",) * n
    values = 5 - 10 * np.random.default_rng(0).random((n_layer, n), np.float32)
    return replace(
        made(MOVES), values=values, axes={"layer": list(range(n_layer)), "position": list(range(n))},
        tokens=PairTokens(tokens, (n, *tokens[1:]), (1, 2)), clean_labels=labels, corrupted_labels=labels,
    )  # fmt: skip


@pytest.mark.parametrize("length", [40_000, 90_000])
def test_long_names_and_labels_are_cut_before_they_are_drawn(length):
    long = "漢" * length
    labels = (long,) * 5
    result = replace(
        made(MOVES),
        clean_labels=labels,
        corrupted_labels=labels,
        unit=f"logit({long})",
        model=long,
        answer_labels=(long,) * 2,
    )
    fig = figure.figure([result, result], [long, long], note=long)
    assert max(len(text.get_text()) for text in fig.findobj(matplotlib.text.Text)) < 9000
    assert max(len(text.get_text()) for text in fig.axes[0].get_xticklabels()) <= 34 + 5


# What Python is given


def test_every_result_needs_its_title_and_is_drawn():
    a, b = made(MOVES), made(MOVES / 2)
    with pytest.raises(ValueError, match="2 results need a title each, got 1: one title"):
        figure.figure([a, b], ["one title"])
    with pytest.raises(ValueError, match="got ndarray"):
        figure.figure(a.values)
    with pytest.raises(ValueError, match="the list is empty"):
        figure.figure([])
    with pytest.raises(ValueError, match="there is no position 9"):
        figure.figure(a, mark={"position": 9})
    assert figure.figure(a, "mine").axes[0].get_title(loc="left") == "mine"


@pytest.mark.parametrize("head", [[1, 2, 3], None, 1.0, 4, -1, "1"])
def test_a_pattern_is_of_one_head(head):
    run = GPT2.from_pretrained("bundled").run([1, 2, 3])
    with pytest.raises(
        ValueError, match="^there is no head 5.*: layers are 0 to 5, heads 0 to 3, and a picture shows one$"
    ):
        runs.pattern_figure(run, 5, head)


def test_size_and_colours_for_a_paper():
    fig = figure.figure(made(MOVES), size=(3.3, 2.5), cmap="PuOr")
    assert tuple(fig.get_size_inches()) == (3.3, 2.5)
    assert fig.axes[0].images[0].get_cmap().name == "PuOr"
    fig.draw_without_rendering()
    for wrong in ((0.5, 3), (3,), "large", (3, float("nan")), 3):
        with pytest.raises(ValueError, match="expected .width, height. in inches"):
            figure.figure(made(MOVES), size=wrong)
    for wrong in ("nope", 3, ["red"]):
        with pytest.raises(ValueError, match="not a matplotlib Colormap"):
            figure.figure(made(MOVES), cmap=wrong)


def test_a_map_is_drawn_into_an_axes_of_the_users():
    fig = Figure((8, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    assert figure.figure(made(MOVES), "a", ax=left) is fig
    figure.figure(made([0, 0.5, 1], site="attn_out", axes=("layer",)), ax=right)
    assert len(left.images) == 1 and len(right.patches) == 3 and left.get_title(loc="left") == "a"
    assert fig._suptitle is None
    fig.savefig(BytesIO(), format="png")
    heads = made(np.zeros((3, 4, 5)), site="z", axes=("layer", "head", "position"))
    for wrong, said in ((dict(ax=left), "this makes 4"), (dict(ax=3), "int, not a matplotlib Axes")):
        with pytest.raises(ValueError, match=said):
            figure.figure(heads, **wrong)
    with pytest.raises(ValueError, match="leave it out beside ax"):
        figure.figure(made(MOVES), ax=left, size=(3, 3))


def test_letters_in_a_pdf_are_truetype_and_in_an_svg_outlines(tmp_path):
    """Type 3, matplotlib's own, is refused by journals and cannot be edited."""
    with matplotlib.rc_context({"pdf.fonttype": 3, "svg.fonttype": "none"}):
        pdf, svg = (written(figure.figure(made(MOVES)), tmp_path / name) for name in ("x.pdf", "x.svg"))
    assert b"/Subtype /Type0" in pdf.replace(b"\n", b" ") and b"/Type3" not in pdf
    assert b"<text" not in svg


def test_every_figure_shows_itself_in_a_notebook(drawings):
    for draw in drawings.values():
        assert draw()._repr_png_().startswith(b"\x89PNG")
