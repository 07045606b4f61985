"""The demo: the next tokens of both texts, the sweep, its map in the terminal and as a picture, and what it means.

    python -m patching.demo                       the surname experiment, on gpt2
    python -m patching.demo --experiment all      all experiments side by side, on one scale
    python -m patching.demo --help                everything else

Here is the order of things. options.py has what can be asked for, experiments.py the texts, conclusions.py the conclusions,
figure.py the picture, inside.py the views of both runs.
"""

import shlex
import sys
from pathlib import Path

import numpy as np

from minigpt2 import terminal
from minigpt2.terminal import known_as, printable

from .. import attribute, save, sweep, sweep_one_by_one
from ..draw.heatmap import Progress, heatmap
from ..explain import conclusions, findings
from ..explain.labels import axis_label, number, percent
from ..explain.next_tokens import next_logits, probability, ranked
from ..plan import Question
from .experiments import EXPERIMENTS
from .options import check_outputs, parse, picture_path, plan_jobs


def main():
    args = parse()
    if args.list:
        return show_experiments()
    check_outputs(args)
    say = (lambda *lines: None) if args.quiet else show  # noqa: E731

    from minigpt2.fallback import load_or_bundled

    model = load_or_bundled(args.model)
    jobs = plan_jobs(args, model)
    for job in jobs:
        check(model, job)
    for warning in dict.fromkeys(warning for job in jobs for warning in job.pair.warnings(model)):
        print(f"WARNING: {warning}", file=sys.stderr)
    say(f"Model: {model!r}" + (f", revision {model.revision[:7]}" if model.revision else ""))
    results, n = [], 20 if len(args.experiments) == 1 else 5
    for i, job in enumerate(jobs):
        if i == 0 or job.pair != jobs[i - 1].pair:
            say(*describe(job, args.unanswered), *next_token_tables(model, job.pair, n))
        results.append(compute(model, job, args))
        say(*report_map(results[-1]))
    titles = [job.title for job in jobs] if len(jobs) > 1 else [""]
    if args.attribution:
        results.append(attribute(model, jobs[0].pair, jobs[0].site, **jobs[0].choices))
        titles = ["exact", "attribution"]
        say("", *agreement(*results))
    views = look_inside(model, jobs[0].pair, args)
    for view in views:
        say(*report_view(view))
    write(args, jobs[0].pair, results, titles, views, model)


# What to do


def check(model, job):
    """Refuse what cannot be patched, before anything is shown and without running the model."""
    Question(model, job.pair, job.site, **{name: chosen for name, chosen in job.choices.items() if name != "metric"})


def compute(model, job, args):
    run = sweep_one_by_one if args.one_by_one else sweep
    with Progress(f"patching {job.site}", args.quiet) as progress:
        return run(model, job.pair, job.site, progress=progress, **job.choices)


def look_inside(model, pair, args):
    """The views of both runs that were asked for, list."""
    if not (args.lens or args.direct_attribution):
        return []
    from ..explain.views import LensOfBoth, WritersOfBoth

    tokens = pair.tokens(model)
    runs = model.run_batch([tokens.clean, tokens.corrupted])
    return [view(runs, tokens) for view, wanted in ((LensOfBoth, args.lens), (WritersOfBoth, args.direct_attribution))
            if wanted]  # fmt: skip


# What to show


def show(*lines):
    print("\n".join(lines), flush=True)


def show_experiments():
    for name, (pair, question) in EXPERIMENTS.items():
        show(name, f"  {question}", f"      clean: {pair.clean!r}", f"  corrupted: {pair.corrupted!r}",
             f"    answers: {pair.answers[0]!r} (clean), {pair.answers[1]!r} (corrupted)", "")  # fmt: skip


def describe(job, unanswered=False):
    heading = f"Experiment {job.name}" + (f": {EXPERIMENTS[job.name].question}" if job.name in EXPERIMENTS else "")
    n, texts = terminal.columns(), zip(("clean", "corrupted"), (job.pair.clean, job.pair.corrupted), job.pair.answers)
    lines = [f"{name:>9}: {text!r}, answer {answer!r}" for name, text, answer in texts]
    return [
        "",
        *terminal.wrapped(heading, n),
        *(part for line in lines for part in terminal.wrapped(line, n, " " * 11)),
        *(terminal.wrapped("(Without --answers, these are the likeliest next token of each text.)", n) * unanswered),
    ]


def next_token_tables(model, pair, n):
    """The n likeliest next tokens of both texts, and the answers wherever they rank, as lines."""
    tokens = pair.tokens(model)
    blocks = []
    for name, logits in zip(("clean", "corrupted"), next_logits(model, tokens)):
        rows = [
            (rank, token, model.labels([token])[0], f"{p:.4f}" if rank <= n else probability(p))
            for rank, token, p in ranked(logits, n, tokens.answers)
        ]
        head = ["Position", "Token index", "Token", "Probability"]
        blocks.append(
            [f"Next token after the {name} text ({known_as(model.name)})", *terminal.table(head, rows, most=20)]
        )
    return ["", *terminal.beside(*blocks, terminal.columns())]


def report_map(result):
    """The map, its largest cells and the conclusions, as lines."""
    from ..draw.panels import column_labels, n_maps, panels, row_labels

    n, colour = terminal.columns(), terminal.in_colour()
    gap = findings.gap(result)
    heading = f"{result.unit} after patching {result.site} ({result.direction}, {known_as(result.model)}); "
    heading += f"clean {number(result.clean_value)}, corrupted {number(result.corrupted_value)}"
    lines = ["", *terminal.wrapped(heading, n)]
    maps = sorted(panels(result), key=lambda panel: -np.abs(panel.values - result.base_value).max())
    for panel in maps[:3]:
        names = [str(i) for i in panel.columns] or ["value"]
        lines += ["", *([panel.title] if panel.title else [])]
        lines.append(" x ".join(axis for axis in panel.axes if axis))
        rows = [label.split(" ")[0] for label in row_labels(panel)]
        lines += heatmap(panel.values, result.base_value, gap, rows, names, n, colour)
    if len(maps) > 3:
        cut = f"(the 3 of {n_maps(result)} heads with the largest changes; the picture has {len(maps)})"
        lines += ["", *terminal.wrapped(cut, n)]
    if maps[0].axes[1] in ("position", "source"):
        tokens = " | ".join(label.replace(" ", "\0") for label in column_labels(maps[0]))  # no break inside a label
        lines += ["", *(line.replace("\0", " ") for line in terminal.wrapped(f"positions: {tokens}", n, "  "))]
    lines += [*largest_cells(result), "", "What it means"]
    if gap:
        base, target = ("corrupted", "clean") if result.direction == "denoising" else ("clean", "corrupted")
        scale = f"(0 % of the gap: the {base} run as it is, {number(result.base_value)}; 100 %: the {target} run, "
        lines += terminal.wrapped(f"{scale}{number(result.target_value)})", min(n, 110))
    return [*lines, *bullets(conclusions.tell(result), n)]


def largest_cells(result):
    spots = findings.hot_spots(result)
    spots = [spot for spot in spots if not abs(spot.share) < 0.005] or spots[:3]  # none that would read "0 %"
    if not spots:
        return []
    head = [axis.capitalize() for axis in spots[0].place] + ["Value", "Share of the gap"]
    cells = [
        [axis_label(result, axis, i) if axis in ("position", "source") else i for axis, i in spot.place.items()]
        + [number(spot.value), percent(spot.share) if np.isfinite(spot.share) else "none"]
        for spot in spots
    ]
    what = "largest cell of each position" if findings.is_stream(result) else "largest cells"
    return ["", f"The {what} ({known_as(result.model)})", *terminal.table(head, cells)]


def report_view(view):
    """A view of both runs from inside, as lines."""
    n, blocks = terminal.columns(), [[title, *terminal.table(head, rows)] for title, head, rows in view.tables()]
    tables = terminal.beside(*blocks, n) if len(blocks) == 2 else blocks[0]
    return ["", *terminal.wrapped(view.heading, n), "", *tables, "", *bullets(view.story(), n)]


def bullets(sentences, n):
    return [line for text in sentences for line in terminal.wrapped("- " + text, min(n, 110), "  ")]


def agreement(exact, estimate):
    correlation, worst = findings.agreement(exact, estimate)
    place = ", ".join(f"{axis} {chosen[i]}" for (axis, chosen), i in zip(exact.axes.items(), worst))
    values = f"exact {number(exact.values[worst])}, estimate {number(estimate.values[worst])}"
    agree = f"correlate at {correlation:.3f}" if np.isfinite(correlation) else "cannot be correlated: one does not vary"
    told = f"Attribution and exact map {agree}; they differ most at {place}: {values}."
    return terminal.wrapped(told, min(terminal.columns(), 110))


# What to keep


def write(args, pair, results, titles, views, model):
    from ..draw import figure

    path = Path(args.out or picture_path(args, pair, results[0]))
    command = shlex.join(["python", "-m", "patching.demo", *sys.argv[1:]])
    pictures = {path: figure.compared(*results) if args.attribution else figure.figure(results, titles)}
    for view in views:
        for name, fig in zip(("clean", "corrupted"), view.figures()):
            pictures[path.with_name(f"{path.stem}_{view.name}_{name}{path.suffix}")] = fig
    files = list(pictures)
    for file, fig in pictures.items():
        figure.write(fig, file)
    if args.save:
        stem = path.with_suffix("")
        for result, title in zip(results, titles):
            files += save.paths(save.save(result, f"{stem}_{title}" if title else stem, command))
    if args.report:
        from ..page import report

        report.write(args.report, results, titles, model=model, command=command, views=views)
        files.append(args.report)
    show(
        *([] if args.quiet else [""]),
        *(printable(file) if args.quiet else f"Written: {printable(file)}" for file in files),
    )


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
