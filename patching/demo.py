"""The demo: the next tokens of both texts, the sweep, its map in the terminal and as a picture, and what it means.

    python -m patching.demo                       the surname experiment, on gpt2
    python -m patching.demo --experiment all      all experiments side by side, on one scale
    python -m patching.demo --help                everything else

Here is the order of things. experiments.py has the texts, story.py finds the words, plot.py draws.
"""

import argparse
import importlib.util
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigpt2 import model as m

from . import METRICS, SITES, attribute, save, story, sweep, sweep_one_by_one, terminal
from .experiments import EXPERIMENTS
from .prompts import PromptPair

OVERVIEW = ("resid_post", "attn_out", "mlp_out")

EXAMPLES = """examples:
  python -m patching.demo --experiment indirect-object --site overview
  python -m patching.demo --site heads                         which heads matter: a layer x head map of z
  python -m patching.demo --model gpt2-medium --save           keep the numbers beside the picture
  python -m patching.demo --clean "The capital of France is" --corrupted "The capital of Italy is" \
      --answers " Paris" " Rome"
  python -m patching.demo --attribution                        the estimate from one backward pass, beside the exact map
"""


def main():
    args = parse()
    if args.list:
        return show_experiments()
    jobs = plan_jobs(args)
    check_outputs(args)
    say = (lambda *lines: None) if args.quiet else show  # noqa: E731

    from minigpt2.fallback import load_or_bundled

    model = load_or_bundled(args.model)
    say(f"Model: {model!r}" + (f", revision {model.revision[:7]}" if model.revision else ""))
    results = []
    for i, job in enumerate(jobs):
        if i == 0 or job.pair != jobs[i - 1].pair:
            say(*describe(job), *next_token_tables(model, job.pair, 20 if len(args.experiments) == 1 else 5))
        results.append(compute(model, job, args))
        say(*report_map(results[-1]))
    titles = [job.title for job in jobs] if len(jobs) > 1 else [""]
    if args.attribution:
        results.append(attribute(model, jobs[0].pair, jobs[0].site, **jobs[0].choices))
        titles = ["exact", "attribution"]
        say("", *agreement(*results))
    write(args, results, titles, model)


# What to do


class Job(NamedTuple):
    """One map to make."""

    title: str
    name: str  # of the experiment
    pair: PromptPair
    site: str
    choices: dict


def parse():
    parser = argparse.ArgumentParser(
        prog="python -m patching.demo", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Activation patching in GPT-2: where, layer by layer, is what tells two texts apart?",
    )  # fmt: skip
    add = parser.add_argument_group("the question").add_argument
    add("--experiment", default="surname", choices=[*EXPERIMENTS, "all"], metavar="NAME", help="see --list; or all")
    add("--list", action="store_true", help="list the experiments and stop")
    add("--clean", metavar="TEXT", help="a text of your own instead of the experiment's")
    add("--corrupted", metavar="TEXT", help="the text that differs from it, in as many tokens")
    add("--answers", nargs=2, metavar=("CLEAN", "CORRUPTED"), help='one token each, as " Jones" " Smith"')
    add("--bos", action="store_true", help="put <|endoftext|> in front of both texts")
    add("--model", metavar="NAME_OR_FOLDER", help="gpt2 (the default), gpt2-medium, a folder, bundled, ...")
    add = parser.add_argument_group("the patches").add_argument
    sites = [*SITES, "overview", "heads"]
    add("--site", default="resid_post", choices=sites, metavar="SITE", help=f"one of {', '.join(sites)} (%(default)s)")
    add(
        "--direction",
        default="denoising",
        choices=["denoising", "noising"],
        help="clean into corrupted, or the other way",
    )
    add("--metric", default="logit_difference", choices=METRICS, metavar="METRIC", help=f"one of {', '.join(METRICS)}")
    add("--alpha", type=float, default=1.0, help="how much is written: 1 the whole vector, 0 none of it")
    add("--positions", type=positions, metavar="LIST", help='as 0,3-5; or "all": every position at once')
    add("--layers", type=numbers, metavar="LIST", help="as 0,3-5 (default: every layer)")
    add("--heads", type=numbers, metavar="LIST", help="as 0,3-5 (default: every head)")
    add("--one-by-one", action="store_true", help="the plain sweep: a forward pass for each patch")
    add("--attribution", action="store_true", help="estimate the map from one backward pass, beside the exact one")
    add = parser.add_argument_group("the results").add_argument
    add("--out", metavar="FILE", help="a .png, .pdf or .svg (default: figures/EXPERIMENT_SITE_MODEL.png)")
    add("--save", action="store_true", help="keep the numbers beside the picture: .npz, .json, .csv")
    add("--report", metavar="FILE.html", help="write everything as one HTML page")
    add("--quiet", action="store_true", help="print only the names of the files that were written")
    args = parser.parse_args()
    args.experiments = list(EXPERIMENTS) if args.experiment == "all" else [args.experiment]
    args.own_text = args.clean is not None or args.corrupted is not None or args.answers is not None
    if args.experiment == "all" and (args.own_text or args.site == "overview"):
        parser.error("--experiment all draws one map for each experiment: leave out texts, answers and --site overview")
    if args.attribution and (args.experiment == "all" or args.site == "overview"):
        parser.error("--attribution stands beside one exact map: choose one experiment and one site")
    if args.site == "heads" and args.positions:
        parser.error("--site heads patches all positions at once: leave out --positions, or choose --site z")
    return args


def numbers(text):
    """ "0,3-5" as [0, 3, 4, 5]."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        if not match or match[2] and int(match[2]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0,3-5")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def positions(text):
    return "all" if text == "all" else numbers(text)


def plan_jobs(args):
    """The maps that the options ask for, list[Job]."""
    choices = {name: getattr(args, name) for name in ("direction", "metric", "alpha", "positions", "layers", "heads")}
    sites = OVERVIEW if args.site == "overview" else [args.site]
    if args.site == "heads":
        sites, choices["positions"] = ["z"], "all"
    given = {"clean": args.clean, "corrupted": args.corrupted, "answers": args.answers and tuple(args.answers)}
    changes = {name: value for name, value in given.items() if value is not None} | {"bos": args.bos}
    return [
        Job(
            name if len(args.experiments) > 1 else site, "custom" if args.own_text else name,
            replace(EXPERIMENTS[name].pair, **changes), site, choices,
        )
        for name in args.experiments
        for site in sites
    ]  # fmt: skip


def check_outputs(args):
    """Raise ValueError or OSError now for files that could not be written in the end."""
    from .plot import check_picture

    check_picture(args.out or Path("figures", "picture.png"))
    if args.report:
        if importlib.util.find_spec("patching.report") is None:
            raise ValueError("--report is not part of this version: leave it out")
        save.check_writable(args.report)


def compute(model, job, args):
    run = sweep_one_by_one if args.one_by_one else sweep
    with terminal.Progress(f"patching {job.site}", args.quiet) as progress:
        return run(model, job.pair, job.site, progress=progress, **job.choices)


# What to show


def show(*lines):
    print("\n".join(lines), flush=True)


def show_experiments():
    for name, (pair, question) in EXPERIMENTS.items():
        show(name, f"  {question}", f"      clean: {pair.clean!r}", f"  corrupted: {pair.corrupted!r}",
             f"    answers: {pair.answers[0]!r} (clean), {pair.answers[1]!r} (corrupted)", "")  # fmt: skip


def describe(job):
    heading = f"Experiment {job.name}" + (f": {EXPERIMENTS[job.name].question}" if job.name in EXPERIMENTS else "")
    n, texts = terminal.columns(), zip(("clean", "corrupted"), (job.pair.clean, job.pair.corrupted), job.pair.answers)
    lines = [f"{name:>9}: {text!r}, then {answer!r}" for name, text, answer in texts]
    return [
        "",
        *terminal.wrapped(heading, n),
        *(part for line in lines for part in terminal.wrapped(line, n, " " * 11)),
    ]


def next_token_tables(model, pair, n):
    """The n likeliest next tokens of both texts, as lines."""
    tokens = pair.tokens(model)
    blocks = []
    for name, run in zip(("clean", "corrupted"), model.run_batch([tokens.clean, tokens.corrupted])):
        logits = model.resume(run.resid_post[-1, -1:], model.config.n_layer)[0]  # [n_vocab]
        p = m.softmax(logits.astype(np.float64))
        top = np.argsort(-p, kind="stable")[:n]
        rows = [(i, t, model.tokenizer.visible(t), f"{p[t]:.4f}") for i, t in enumerate(map(int, top), start=1)]
        head = ["Position", "Token index", "Token", "Probability"]
        blocks.append(
            [f"Next token after the {name} text ({story.short(model.name)})", *terminal.table(head, rows, most=20)]
        )
    return ["", *terminal.beside(*blocks, terminal.columns())]


def report_map(result):
    """The map, its largest cells and the conclusions, as lines."""
    from .plot import column_labels, panels, row_labels

    n, colour = terminal.columns(), terminal.in_colour()
    gap = result.target_value - result.base_value
    heading = f"{result.unit} after patching {result.site} ({result.direction}, {story.short(result.model)}); "
    heading += f"clean {story.number(result.clean_value)}, corrupted {story.number(result.corrupted_value)}"
    lines = ["", *terminal.wrapped(heading, n)]
    maps = sorted(panels(result), key=lambda panel: -np.abs(panel.values - result.base_value).max())
    for panel in maps[:3]:
        names = [str(i) for i in panel.columns] or ["value"]
        lines += ["", *([panel.title] if panel.title else [])]
        lines.append(" x ".join(axis for axis in panel.axes if axis))
        rows = [label.split(" ")[0] for label in row_labels(panel)]
        lines += terminal.heatmap(panel.values, result.base_value, gap, rows, names, n, colour)
    if len(maps) > 3:
        lines += ["", f"(the 3 maps with the largest cells of {len(maps)}; the picture has more)"]
    if maps[0].axes[1] in ("position", "source"):
        lines += [
            "",
            *terminal.wrapped("positions: " + " | ".join(column_labels(maps[0])).replace(r"\$", "$"), n, "  "),
        ]
    return [*lines, *largest_cells(result), "", "What it means", *bullets(story.tell(result), n)]


def largest_cells(result):
    spots = story.hot_spots(result)
    if not spots:
        return []
    head = [axis.capitalize() for axis in spots[0].place] + ["Value", "Share of the gap"]
    cells = [
        [save.axis_label(result, axis, i) if axis in ("position", "source") else i for axis, i in spot.place.items()]
        + [story.number(spot.value), story.percent(spot.share) if np.isfinite(spot.share) else "none"]
        for spot in spots
    ]
    what = "largest cell of each position" if story.is_stream(result) else "largest cells"
    return ["", f"The {what} ({story.short(result.model)})", *terminal.table(head, cells)]


def bullets(sentences, n):
    return [line for text in sentences for line in terminal.wrapped("- " + text, min(n, 110), "  ")]


def agreement(exact, estimate):
    correlation, worst = story.agreement(exact, estimate)
    place = ", ".join(f"{axis} {chosen[i]}" for (axis, chosen), i in zip(exact.axes.items(), worst))
    values = f"exact {story.number(exact.values[worst])}, estimate {story.number(estimate.values[worst])}"
    agree = f"correlate at {correlation:.3f}" if np.isfinite(correlation) else "cannot be correlated: one does not vary"
    return [f"Attribution and exact map {agree}; they differ most at {place}: {values}."]


# What to keep


def picture_path(args, model):
    """figures/EXPERIMENT_SITE_MODEL.png, with every choice that is not the default in the name."""
    experiment = "custom" if args.own_text else args.experiment
    choices = [args.site, *([args.direction] if args.direction != "denoising" else [])]
    choices += [args.metric] if args.metric != "logit_difference" else []
    choices += [f"alpha{args.alpha:g}"] if args.alpha != 1 else []
    choices += ["attribution"] * args.attribution + ["bos"] * args.bos
    model_name = re.sub(r"[^\w.-]+", "-", story.short(model.name))
    return Path("figures", "_".join([experiment, *choices, model_name]) + ".png")


def write(args, results, titles, model):
    from . import plot

    path, command = args.out or picture_path(args, model), shlex.join(["python", "-m", "patching.demo", *sys.argv[1:]])
    files = [path]
    fig = plot.compared(*results) if args.attribution else plot.figure(results, titles)
    plot.write(fig, path)
    if args.save:
        stem = Path(path).with_suffix("")
        for result, title in zip(results, titles):
            files.append(save.save(result, f"{stem}_{title}" if title else stem, command))
    if args.report:
        from . import report

        report.write(args.report, results, titles, model=model, command=command)
        files.append(args.report)
    show(*([] if args.quiet else [""]), *(str(file) if args.quiet else f"Written: {file}" for file in files))


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
