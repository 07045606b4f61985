"""What is said and drawn of a set of pairs, and the command: counts of pairs, intervals, what is not yet there."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from test_set_sweep import BUNDLED, LONGER, MODEL, NAMES, PAIRS

from patching import sweep
from patching.draw.pairs import dots, set_figure
from patching.explain.pairs import checked_words, set_cells, tell_set
from patching.pairs import __main__ as command
from patching.pairs.threads import use_one_thread

FOUND = sweep(MODEL, LONGER, "z", positions=["changed", "end"])


def with_effects(effects, **changes):
    """A SetResult with these effects [n_pairs, n_layer], on a base of 1 and a gap of 2."""
    effects = np.asarray(effects, float)
    n = len(effects)
    found = sweep(MODEL, PAIRS[:n], "resid_post", positions="all", layers=list(range(effects.shape[1])))
    return replace(
        found, values=1 + effects, corrupted_values=np.ones(n), clean_values=np.full(n, 3.0), **changes
    )  # fmt: skip


def test_cells_are_told_with_their_counts_of_pairs():
    found = with_effects([[1, 0, 1], [1, 0.1, -1], [1, -0.1, 1], [-0.1, 0, -1], [2, 0, 0], [1, 0, 0]])
    (cell,) = set_cells(found)  # the others' intervals hold zero
    assert cell.place == {"layer": 0} and cell.n_pairs == 5 and cell.low < cell.effect < cell.high
    assert abs(cell.effect - 5.9 / 6) < 1e-12 and abs(cell.share - 5.9 / 12) < 1e-12
    text = " ".join(tell_set(found))
    assert (
        "Patching the stream after layer 0, all positions moves the metric towards the clean run in 5 of 6 pairs"
        in text
    )
    assert "6 pairs: logit_difference is 3.00 ± " in text and "1 of 3" not in text.split("Cells with")[0]


def test_what_is_against_is_said():
    found = with_effects([[-1.0], [-1.1], [-0.9]])
    assert "away from the clean run in 3 of 3 pairs" in " ".join(tell_set(found))
    turned = replace(found, clean_values=np.array([3, 3, -1.0]))
    assert "In 1 of 3 pairs the gap between the runs has the other sign" in " ".join(tell_set(turned))
    assert "with 3 pairs no p can be below 0.25" in " ".join(tell_set(found))
    none = with_effects([[0.0], [0.0]])
    assert "No cell has a mean effect" in " ".join(tell_set(none))
    missing = replace(found, n_asked=5)
    assert (
        "2 pairs of the set are not here yet" in " ".join(tell_set(missing)) and "3 of 5 pairs" in tell_set(missing)[0]
    )


def test_the_picture_tells_unsure_cells_apart_and_says_how_many_pairs():
    found = with_effects([[1, 0, 1], [1, 0.1, -1], [1, -0.1, 1], [-0.1, 0, -1], [2, 0, 0], [1, 0, 0]])
    fig = set_figure(found)
    assert sum(patch.get_hatch() is not None for patch in fig.axes[0].patches) == 2
    title = fig.texts[0].get_text().replace("\n", " ")
    assert "mean over 6 pairs" in title and "holds zero" in title and found.digest in title
    assert "mean over 3 of 9 pairs" in set_figure(replace(with_effects([[1.0]] * 3), n_asked=9)).texts[
        0
    ].get_text().replace("\n", " ")
    np.testing.assert_array_equal(fig.axes[0].images[0].get_array().ravel(), found.effects.mean(axis=0))


@pytest.mark.parametrize("site, choices", [("resid_post", {}), ("z", dict(positions="all")), ("z", {}),
                                           ("resid_mid", dict(places=[[(0, 1)], [(1, 2), (2, 2)]]))])  # fmt: skip
def test_every_map_has_a_picture_and_words(site, choices, tmp_path):
    found = sweep(MODEL, PAIRS, site, **choices)
    set_figure(found).savefig(tmp_path / "a.png")
    assert tell_set(found) and checked_words(found).endswith(f"{found.digest}.")
    with pytest.raises(ValueError, match="no picture over pairs"):
        set_figure(sweep(MODEL, PAIRS[:2], "pattern_entry", layers=[0]))


def test_a_dot_for_every_pair():
    found = with_effects([[1, 0.5], [1.5, 0.6], [1.2, 0.4]])
    ax = dots(found).axes[0]
    drawn = [line.get_xdata() for line in ax.lines if line.get_marker() == "."]
    np.testing.assert_array_equal(drawn, found.effects.T)
    with pytest.raises(ValueError, match="nothing to draw"):
        dots(with_effects([[0.0], [0.0]]))


# The command


@pytest.fixture
def file(tmp_path):
    lines = ["clean,corrupted,clean_answer,corrupted_answer,giver"]
    for i, pair in enumerate(NAMES):
        lines.append(
            f'"{pair.clean}","{pair.corrupted}",{pair.answers[0]},{pair.answers[1]},{NAMES.position(BUNDLED, i, "S 2")}'
        )
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines))
    return path


def test_the_command_gives_the_same_numbers(file, tmp_path, capsys):
    use_one_thread()
    arguments = [str(file), "--model", "bundled", "--positions", "giver,end", "--directory", str(tmp_path / "run")]
    command.main(
        [
            *arguments,
            "--out",
            str(tmp_path / "a.png"),
            "--dots",
            str(tmp_path / "b.svg"),
            "--csv",
            str(tmp_path / "c.csv"),
        ]
    )
    out = capsys.readouterr().out
    assert "5 pairs" in out and "Checked on one pair" in out and out.count("Written: ") == 3
    found = sweep(BUNDLED, NAMES, positions=["S 2", "end"])
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert [float(row.rsplit(",")[-1]) for row in rows[1:]] == found.values.ravel().tolist()


@pytest.mark.parametrize("arguments, said", [
    (["x.csv", "--part", "1/2"], "--part needs --directory"), (["x.csv", "--part", "3/2"], "not a part like 3/20"),
    (["x.csv", "--positions", "end,3"], "not a list of roles"), (["x.csv", "--workers", "-1"], "numbers from 0"),
])  # fmt: skip
def test_a_wrong_command_line_is_one_sentence(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_help_has_examples_that_parse():
    text = command.make_parser().format_help()
    lines = re.findall(r"python -m patching\.pairs (.+)", command.EXAMPLES)
    assert len(lines) == 4 and all(line in text for line in lines)
    for line in lines:
        command.make_parser().parse_args(line.split())


@pytest.mark.slow
def test_ctrl_c_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    line = [sys.executable, "-m", "patching.pairs", "indirect-object", "--model", "bundled", "--n", "400", "--site", "z",
            "--workers", "2", "--positions", "all", "--directory", str(folder)]  # fmt: skip
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 60
    while len(list(folder.glob("pair-*"))) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.strip() == "interrupted"
    kept = len(list(folder.glob("pair-*.npz")))
    assert 3 <= kept < 400 and not list(folder.glob(".*"))
    from patching.pairs.builtin import indirect_object

    use_one_thread()
    counts = []

    def stop(done, total):
        counts.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(BUNDLED, indirect_object(BUNDLED, 400), "z", positions="all", directory=folder, progress=stop)
    assert counts == [kept]
