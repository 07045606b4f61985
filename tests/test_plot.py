"""The pictures and the terminal show the numbers in the right places, with labels that survive any token."""

import io
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_story import MOVES, made, published

from minigpt2 import terminal
from patching import save
from patching.draw import __main__ as command
from patching.draw import figure, panels
from patching.draw.heatmap import Progress, duration, heatmap

ROOT = Path(__file__).resolve().parent.parent


def maps(fig):
    return [ax for ax in fig.axes if ax.get_visible() and ax.images and ax.get_label() != "<colorbar>"]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_layer_0_is_on_top_and_the_columns_are_the_positions():
    (ax,) = maps(figure.figure(published(0)))
    image = ax.images[0]
    assert np.array_equal(image.get_array(), published(0).values)
    assert ax.get_ylim() == (11.5, -0.5) and ax.get_xlim() == (-0.5, 10.5)
    assert labels(ax.yaxis) == [str(i) for i in range(12)]
    assert labels(ax.xaxis)[0] == "0 Michelle" and labels(ax.xaxis)[10] == "10 ␣Michelle"  # repeated, and kept apart
    bold = [text.get_text() for text in ax.get_xticklabels() if text.get_fontweight() == "bold"]
    assert bold == ["1 ␣Jones → ␣Smith"]


def test_mixed_order_is_drawn_in_order():
    whole = made(MOVES)
    layers, positions = [5, 0, 3, 1, 4, 2], [4, 1, 0, 3, 2]
    mixed = replace(
        whole, values=whole.values[np.ix_(layers, positions)], axes={"layer": layers, "position": positions}
    )
    assert np.array_equal(panels.panels(mixed)[0].values, whole.values)
    assert panels.panels(mixed)[0].rows == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_white_is_no_effect_and_the_limits_are_symmetrical(direction):
    result = made(MOVES, direction=direction)
    image = maps(figure.figure(result))[0].images[0]
    assert image.cmap(image.norm(result.base_value)) == (1, 1, 1, 1)
    assert image.norm.vmax - result.base_value == pytest.approx(result.base_value - image.norm.vmin)
    red, _, blue, _ = image.cmap(image.norm(result.base_value + 2))
    assert red > blue


def test_rounding_is_not_drawn_as_an_effect():
    result = made(MOVES * 1e-6)
    image = maps(figure.figure(result))[0].images[0]
    assert image.norm.vmax - image.norm.vmin == pytest.approx(1.0)  # a tenth of the gap of 10


def test_the_bar_names_the_metric_and_marks_both_runs():
    fig = figure.figure(published(0))
    bar = next(ax for ax in fig.axes if ax.get_label() == "<colorbar>")
    assert bar.get_ylabel() == "logit(␣Smith) - logit(␣Jones)"
    marks = {text.get_text().strip(): text.xy[1] for text in bar.texts}
    assert marks == {"clean": published(0).clean_value, "corrupted\n(no effect)": published(0).corrupted_value}
    weak = next(ax for ax in figure.figure(made(MOVES / 10)).axes if ax.get_label() == "<colorbar>")
    assert "clean -5.00\noff the scale" in weak.get_title(loc="right")


def test_the_heading_names_site_direction_and_model():
    text = figure.figure(replace(published(0), model="/some/where/my-model"))._suptitle.get_text()
    assert text.splitlines() == [
        "Activation patching of resid_post (the residual stream after each layer)",
        "my-model, denoising: clean vectors written into the corrupted run",
        "clean -4.12, corrupted 5.66",
    ]
    assert "noising: corrupted vectors" in figure.figure(made(MOVES, direction="noising"))._suptitle.get_text()
    assert "(alpha 0.5)" in figure.figure(made(MOVES, alpha=0.5))._suptitle.get_text().replace("\n", " ")
    assert "Attribution of" in figure.figure(made(MOVES, method="attribution"))._suptitle.get_text()


def test_a_notebook_shows_the_heatmap():
    assert made(MOVES)._repr_png_().startswith(b"\x89PNG")


def test_the_bundled_model_is_not_taken_for_gpt2():
    assert figure.heading([replace(published(0), model="bundled")])[1].startswith("the bundled model, denoising")
    assert figure.heading([replace(published(0), model="some/bundled")])[1].startswith("bundled, denoising")


def test_several_sites_share_one_scale_in_one_row():
    results = [published(0), published(0, "attn_out"), replace(published(0, "attn_out"), site="mlp_out")]
    axes = maps(figure.figure(results))
    assert [ax.get_title(loc="left") for ax in axes] == ["resid_post", "attn_out", "mlp_out"]
    assert len({(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in axes}) == 1
    assert len({ax.get_subplotspec().rowspan.start for ax in axes}) == 1


def test_different_runs_are_compared_by_their_changes():
    results = [made(MOVES), made(MOVES, corrupted_value=3.0)]
    fig = figure.figure(results, ["one", "two"])
    axes = maps(fig)
    assert [ax.get_title(loc="left") for ax in axes] == [
        "one: clean -5.00, corrupted 5.00", "two: clean -5.00, corrupted 3.00",
    ]  # fmt: skip
    for ax, result in zip(axes, results):
        assert np.allclose(ax.images[0].get_array(), result.values - result.base_value)
        assert ax.images[0].norm(0) == 0.5
    bar = next(ax for ax in fig.axes if ax.get_label() == "<colorbar>")
    assert bar.get_ylabel() == "change of logit(␣B) - logit(␣A)"


def test_attribution_beside_exact_outlines_the_worst_cell():
    exact = made(MOVES)
    values = exact.values.copy()
    values[2, 1] += 3
    fig = figure.compared(exact, replace(exact, values=values, method="attribution"))
    text = fig._suptitle.get_text().replace("\n", " ")
    assert "largest difference at layer 2, position 1: exact -4.00, estimate -1.00" in text
    assert "correlation 0.9" in fig._suptitle.get_text()
    flat = figure.compared(exact, replace(exact, values=np.full_like(values, 5.0), method="attribution"))
    assert "no correlation, since one map does not vary" in flat._suptitle.get_text().replace("\n", " ")
    for ax in maps(fig):
        assert [patch.get_xy() for patch in ax.patches] == [(0.5, 1.5)]


def test_heads_bars_and_panels():
    heads = made(np.arange(24).reshape(6, 4) / 24, site="z", axes=("layer", "head"))
    (ax,) = maps(figure.figure(heads))
    assert ax.get_xlabel() == "head" and labels(ax.xaxis) == ["0", "1", "2", "3"]
    bars = figure.figure(made([0, 0.5, 1], site="attn_out", axes=("layer",))).axes[0]
    assert [bar.get_width() for bar in bars.patches] == [0, -5, -10] and bars.yaxis_inverted()
    shares = np.random.default_rng(0).random((3, 4, 5))
    axes = maps(figure.figure(made(shares, site="z", axes=("layer", "head", "position"))))
    assert [ax.get_title(loc="left") for ax in axes] == ["head 0", "head 1", "head 2", "head 3"]
    assert np.allclose(axes[2].images[0].get_array(), 5 - 10 * shares[:, 2])
    entries = np.zeros((5, 4, 5, 5))
    entries[3, 2, 4, 1] = 1
    many = panels.panels(made(entries, site="pattern_entry", axes=("layer", "head", "position", "source")))
    assert [
        panel.held for panel in panels.panels(made(shares, site="z", axes=("layer", "head", "position")), "run 2")
    ] == [{"head": head} for head in range(4)]
    assert many[0].held.keys() == {"layer", "head"}
    assert len(many) == panels.MOST_PANELS and many[[p.title for p in many].index("head 3.2")].values[4, 1] == -5


def test_the_heading_counts_the_heads_that_are_left_out():
    entries = np.random.default_rng(0).random((5, 4, 5, 5))
    text = figure.figure(
        made(entries, site="pattern_entry", axes=("layer", "head", "position", "source"))
    )._suptitle.get_text()
    assert text.endswith("shown: the 12 of 20 heads with the largest changes")
    few = figure.figure(made(entries[:3], site="pattern_entry", axes=("layer", "head", "position", "source")))
    assert "heads with" not in few._suptitle.get_text()


def test_the_worst_cell_of_a_head_is_outlined_in_its_own_map():
    exact = made(np.random.default_rng(0).random((3, 4, 5)), site="z", axes=("layer", "head", "position"))
    values = exact.values.copy()
    values[2, 3, 1] += 30
    fig = figure.compared(exact, replace(exact, values=values, method="attribution"))
    framed = {ax.get_title(loc="left"): patch.get_xy() for ax in maps(fig) for patch in ax.patches}
    assert framed == {"exact (patched), head 3": (0.5, 1.5), "estimate (attribution), head 3": (0.5, 1.5)}


@pytest.mark.parametrize(("share", "sides"), [(1, ["center"] * 2), (4, ["right", "left"])])
def test_the_runs_are_named_above_the_bars(share, sides):
    """On a dark bar a black name could not be read, and two that are close would lie on each other."""
    result = made([0, 0.5, share], site="attn_out", axes=("layer",))
    fig = figure.figure([result, replace(result, site="mlp_out")])
    fig.draw_without_rendering()
    for ax in fig.axes[:2]:
        (top,) = ax.child_axes
        names = top.get_xticklabels()
        assert [(name.get_text(), name.get_position()[0]) for name in names] == [("clean", -5), ("corrupted", 5)]
        assert [name.get_horizontalalignment() for name in names] == sides
        boxes = [text.get_window_extent() for text in names]
        above = ax.get_window_extent().y1
        assert all(box.y0 >= above for box in boxes) and not boxes[0].overlaps(boxes[1])
        title = next(text for text in ax.texts + [ax._left_title] if text.get_text() in ("attn_out", "mlp_out"))
        assert all(not title.get_window_extent().overlaps(box) for box in boxes)
        assert not ax.texts


ODD = ("$x_1$", r"\frac{1}{2}", "漢字", "\U0001f984", "$")


def test_odd_tokens_are_drawn_as_they_are_or_escaped(tmp_path):
    result = replace(
        made(MOVES), clean_labels=ODD, corrupted_labels=ODD, unit="logit($a_b$) - logit(漢)", model="a_$b$"
    )
    fig = figure.figure(result)
    figure.write(fig, tmp_path / "x.svg")  # any missing glyph or mathematics would be a warning or an error
    drawn = [text.replace(r"\$", "$") for text in labels(maps(fig)[0].xaxis)]
    assert drawn[0] == "0 $x_1$" and drawn[2] == "2 \\u6f22\\u5b57" and drawn[3] == "3 \\U0001f984"
    assert not any("mathdefault" in text or "mathregular" in text for text in drawn)
    for text in maps(fig)[0].get_xticklabels():
        assert not text._preprocess_math(text.get_text())[1]


@pytest.mark.parametrize("n", [1, 2, 45, 300])
def test_any_number_of_tokens_fits(tmp_path, n):
    tokens = tuple(range(n))
    values = np.zeros((12, n), np.float32)
    values[0, 0] = 1
    result = replace(
        made(MOVES), values=values, axes={"layer": list(range(12)), "position": list(range(n))},
        clean_labels=("␣token",) * n, corrupted_labels=("␣token",) * n,
        tokens=made(MOVES).tokens._replace(clean=tokens, corrupted=(999, *tokens[1:])),
    )  # fmt: skip
    fig = figure.figure(result)
    figure.write(fig, tmp_path / "x.png")
    assert (fig.get_size_inches() <= panels.WIDEST).all()
    boxes = [text.get_window_extent() for text in maps(fig)[0].get_xticklabels() if text.get_text()]
    assert len(boxes) == n or n > 130
    if n > 16:
        assert all(a.x1 <= b.x0 + 1 for a, b in zip(boxes, boxes[1:]))  # no label lies on its neighbour


def test_zero_gap_and_flat_maps_are_drawn(tmp_path):
    for result in (made(np.zeros((6, 5))), replace(made(np.zeros((6, 5))), clean_value=5.0)):
        figure.write(figure.figure(result), tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".PNG"])
def test_equal_results_make_equal_files(tmp_path, suffix):
    for name in "ab":
        figure.write(figure.figure(made(MOVES)), tmp_path / (name + suffix))
    first, second = ((tmp_path / (name + suffix)).read_bytes() for name in "ab")
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix.lower()]
    assert first.startswith(start) and len(first) > 2000
    assert suffix == ".svg" or first == second
    assert len(list(tmp_path.iterdir())) == 2


def test_a_wrong_suffix_or_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ends in .png, .pdf, .svg"):
        figure.check_picture(tmp_path / "x.jpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        figure.check_picture(tmp_path / "file" / "x.png")


def test_pyplot_is_not_imported():
    code = "import sys, patching.draw.figure; assert 'matplotlib.pyplot' not in sys.modules and 'tkinter' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def redraw(*args, cwd):
    command = [sys.executable, "-m", "patching.draw", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_saved_result_is_drawn_again(tmp_path, monkeypatch, capsys):
    save.save(published(0), tmp_path / "a")
    save.save(published(0, "attn_out"), tmp_path / "b")
    run = redraw("a.npz", cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "a.png\n", "")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "bad.npz").write_text("no")
    monkeypatch.chdir(tmp_path)
    for args, status in (
        (["a.npz", "b.npz", "--out", "both.pdf"], 0),
        (["bad.npz"], 1),
        (["nowhere.npz"], 1),
        (["a.npz", "--out", "x.doc"], 1),
    ):
        monkeypatch.setattr(sys, "argv", ["patching.draw", *args])
        assert terminal.guarded(command.main) == status
        shown = capsys.readouterr()
        assert (
            (shown.out == "both.pdf\n") if status == 0 else (re.fullmatch(r"error: .*\n", shown.err) and not shown.out)
        )


# The terminal


@pytest.mark.parametrize(
    ("text", "n"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("\U0001f600", 2), ("", 0), ("␣→…", 3), ("\u200d", 0)]
)
def test_width(text, n):
    assert terminal.width(text) == n


def test_tables_line_up_with_wide_and_odd_tokens():
    lines = terminal.table(["Token", "Probability"], [["漢字", "0.5"], ["e\u0301", "0.25"], ["\U0001f600x", "0.1"]])
    assert len({terminal.width(line) for line in lines}) == 1
    assert lines[2].endswith("        0.5") and lines[3].endswith("       0.25")
    long = terminal.table(["Token"], [["x" * 100]], most=10)
    assert (
        long[2] == "x" * 9 + "…"
        and terminal.fit("漢字漢字", 5) == "漢字…"
        and terminal.width(terminal.fit("漢字漢字", 4)) == 4
    )


def test_lines_keep_their_indent_and_numbers_their_percent_sign():
    assert terminal.wrapped("    clean: one two", 14, "  ") == ["    clean: one", "  two"]
    assert terminal.wrapped("a share of 73 % here", 13) == ["a share of", "73 % here"]
    assert terminal.wrapped("", 10) == [""] and terminal.wrapped("longerthanthat", 4) == ["longerthanthat"]


def test_tables_stand_beside_each_other_where_there_is_room():
    block = ["ab", "cd"]
    assert terminal.beside(block, block, 20) == ["ab     ab", "cd     cd"]
    assert terminal.beside(block, block, 8) == ["ab", "cd", "", "ab", "cd"]


def plain_map(result, n, colour=False):
    gap = result.target_value - result.base_value
    names = [[str(i) for i in chosen] for chosen in result.axes.values()]
    return heatmap(result.values, result.base_value, gap, *names, n, colour)


def test_the_plain_map_shows_the_numbers_or_tenths():
    lines = plain_map(published(0), 80)
    assert lines[1].split()[:3] == ["0", "5.66", "-4.07"] and lines[12].split()[-1] == "-4.12"
    assert all(len(line) <= 80 for line in lines)
    lines = plain_map(published(0), 40)
    assert lines[1].split() == ["0", ".", "#", *"........."] and lines[11].split() == ["10", ".", "1", *"........", "8"]
    assert "\x1b" not in "".join(lines)
    over = plain_map(made([[1.5, -0.5, 0.04, 0.37, 0.95]] * 2), 20)
    assert over[1].split() == ["0", "+", "-", ".", "4", "#"]


@pytest.mark.parametrize("n", [40, 80, 140])
def test_every_column_is_shown_at_every_width(n):
    result = published(1)
    lines = plain_map(result, n)
    assert all(terminal.width(line) <= n for line in lines)
    shown = [word for line in lines[:1] + [b for a, b in zip(lines, lines[1:]) if not a] for word in line.split()]
    assert [word for word in shown if word.isdigit()][:21] == [str(i) for i in range(21)]


def test_the_coloured_map_is_the_plain_one_with_colours(monkeypatch):
    for setting, code in (("truecolor", "48;2;"), ("", "48;5;")):
        monkeypatch.setenv("COLORTERM", setting)
        coloured = plain_map(published(0), 80, colour=True)
        assert code in coloured[1]
        assert [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in coloured] == plain_map(published(0), 80)
        assert "\x1b" not in coloured[12].split("5.66")[1]  # no effect, no colour


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.in_colour(Tty()) and not terminal.in_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.in_colour(Tty())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.in_colour(Tty())


def test_progress_appears_after_a_second_with_the_time_left_and_goes_away():
    now, out = [0.0], Tty()
    with Progress("patching", stream=out, clock=lambda: now[0]) as progress:
        for done, now[0] in ((1, 0.5), (2, 0.9)):
            progress(done, 10)
        assert out.getvalue() == ""
        now[0] = 2.0
        progress(5, 10)
        assert "[##########..........] 5/10, 2 s left" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")
    for stream, quiet in ((io.StringIO(), False), (Tty(), True)):
        now[0] = 0.0
        with Progress("patching", quiet, stream, clock=lambda: now[0]) as progress:
            now[0] = 9.0
            progress(5, 10)
        assert stream.getvalue() == ""


def test_durations():
    assert [duration(s) for s in (0.4, 59, 61, 3600)] == ["0 s", "59 s", "1 min 01 s", "60 min 00 s"]
