"""The demo: the next tokens of both texts, the sweep, its map in the terminal and as a picture, and what it means.

    python -m patching.demo                       the surname experiment, on gpt2
    python -m patching.demo --experiment all      all experiments side by side, on one scale
    python -m patching.demo --help                everything else

Here is the order of things. options.py has what can be asked for, experiments.py the texts; explain/ has the conclusions,
draw/ the picture, page/ the report.
"""

import shlex
import sys
from pathlib import Path

import numpy as np

from minigpt2 import terminal
from minigpt2.terminal import known_as, printable

from .. import attribute, save, sweep, sweep_one_by_one
from ..ablations import ablate
from ..draw.heatmap import Progress, heatmap
from ..explain.both_runs import BothRuns
from ..explain.conclusions import tell
from ..explain.findings import Findings, agreement
from ..explain.numbers import number, percent, probability, signed
from ..explain.views import VIEWS
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
    kinds = [kind for kind in VIEWS if getattr(args, kind.option)]
    runs = both_runs(model, jobs, keep=[name for kind in kinds for name in kind.keep])
    for warning in dict.fromkeys(warning for pair in runs for warning in pair.warnings(model)):
        print(f"WARNING: {warning}", file=sys.stderr)
    say(f"Model: {model!r}" + (f", revision {model.revision[:7]}" if model.revision else ""))
    results, n = [], 20 if len(args.experiments) == 1 else 5
    for i, job in enumerate(jobs):
        if i == 0 or job.pair != jobs[i - 1].pair:
            say(*describe(job, args.unanswered), *next_token_tables(runs[job.pair], n))
        results.append(compute(model, job, args))
        say(*report_map(results[-1]))
    titles = [job.title for job in jobs] if len(jobs) > 1 else [""]
    if args.attribution:
        results.append(attribute(model, jobs[0].pair, jobs[0].site, **jobs[0].choices))
        titles = ["exact", "attribution"]
        say("", *report_estimate(*results))
    if args.ablate:
        say(*report_ablation(ablate(model, jobs[0].pair, args.ablate, metric=args.metric)))
    views = [kind(runs[jobs[0].pair]) for kind in kinds]
    for view in views:
        say(*report_view(view))
    write_files(args, jobs[0].pair, results, titles, views, list(runs.values()))


# What to do


def both_runs(model, jobs, keep):
    """The BothRuns of every pair, by pair. Refuses what cannot be patched, without running the model."""
    runs = {}
    for job in jobs:
        choices = {name: chosen for name, chosen in job.choices.items() if name != "metric"}
        question = Question(model, job.pair, job.site, **choices)
        runs.setdefault(job.pair, BothRuns(model, question.tokens, keep))
    return runs


def compute(model, job, args):
    run = sweep_one_by_one if args.one_by_one else sweep
    with Progress(f"patching {job.site}", args.quiet) as progress:
        return run(model, job.pair, job.site, progress=progress, **job.choices)


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


def next_token_tables(both, n):
    """The n likeliest next tokens of both texts, and the answers wherever they rank, as lines."""
    blocks = []
    for name, likeliest in zip(("clean", "corrupted"), both.likeliest(n)):
        rows = [(*row, f"{p:.4f}" if row[0] <= n else probability(p)) for *row, p in likeliest]
        head = ["Position", "Token index", "Token", "Probability"]
        heading = f"Next token after the {name} text ({known_as(both.model.name)})"
        blocks.append([heading, *terminal.table(head, rows, most=20)])
    return ["", *terminal.beside(*blocks, terminal.columns())]


def report_map(result):
    """The map, its largest cells and the conclusions, as lines."""
    n, found = terminal.columns(), Findings(result)
    lines = [*map_lines(result, n), *largest_cells(found), "", "What it means"]
    if result.gap:
        scale = f"(0 % of the gap: the {result.base} run as it is, {number(result.base_value)}; "
        scale += f"100 %: the {result.target} run, {number(result.target_value)})"
        lines += terminal.wrapped(scale, min(n, 110))
    return [*lines, *bullets(tell(found), n)]


def map_lines(result, n, most=3):
    from ..draw.panels import column_labels, n_maps, panels, row_labels

    heading = (
        f"{result.unit} after patching {result.site} ({result.direction}: {result.way}, {known_as(result.model)}); "
    )
    heading += f"clean {number(result.clean_value)}, corrupted {number(result.corrupted_value)}"
    lines = ["", *terminal.wrapped(heading, n)]
    maps = sorted(panels(result), key=lambda panel: -np.abs(panel.values - result.base_value).max())
    for panel in maps[:most]:
        names = [str(i) for i in panel.columns] or ["value"]
        lines += ["", *([panel.title] if panel.title else []), " x ".join(axis for axis in panel.axes if axis)]
        rows = [label.split(" ")[0] for label in row_labels(panel)]
        lines += heatmap(panel.values, result.base_value, result.gap, rows, names, n, terminal.in_colour())
    if len(maps) > most:
        cut = f"(the {most} of {n_maps(result)} heads with the largest changes; the picture has {len(maps)})"
        lines += ["", *terminal.wrapped(cut, n)]
    if maps[0].axes[1] in ("position", "source"):
        tokens = " | ".join(label.replace(" ", "\0") for label in column_labels(maps[0]))  # no break inside a label
        lines += ["", *(line.replace("\0", " ") for line in terminal.wrapped(f"positions: {tokens}", n, "  "))]
    return lines


def largest_cells(found):
    result, cells = found.result, found.largest()
    cells = [cell for cell in cells if not abs(cell.share) < 0.005] or cells[:3]  # none that would read "0 %"
    if not cells:
        return []
    head = [axis.capitalize() for axis in cells[0].place] + ["Value", "Share of the gap"]
    rows = [
        [result.label(axis, i) if axis in ("position", "source") else i for axis, i in place.items()]
        + [number(value), percent(share) if np.isfinite(share) else "none"]
        for place, value, share in cells
    ]
    what = "largest cell of each position" if found.is_stream else "largest cells"
    return ["", f"The {what} ({known_as(result.model)})", *terminal.table(head, rows)]


def report_estimate(exact, estimate):
    text = f"The estimate against the exact map: {agreement(exact, estimate).words()}."
    return terminal.wrapped(text, min(terminal.columns(), 110))


def report_ablation(found):
    """What the parts named with --ablate do, each alone and all together, and what then adds to the answer instead."""
    n = terminal.columns()
    heading = f"{found.unit} after the clean text with parts of the model at zero ({known_as(found.model)})"
    rows = [["none", number(found.intact), ""]]
    rows += [[part, number(value), signed(value - found.intact)] for part, value in zip(found.parts, found.alone)]
    if len(found.parts) > 1:
        rows.append(["all of these", number(found.together), signed(found.together - found.intact)])
    before, after = found.direct_attributions()
    terms, intact = dict(after.terms), dict(before.terms)
    intact = {term: intact.get(term, 0.0) for term in terms}  # nothing is overwritten in it
    largest = sorted(terms, key=lambda term: -abs(terms[term] - intact[term]))[:10]
    added = [[term, *map(signed, (intact[term], terms[term], terms[term] - intact[term]))] for term in largest]
    return [
        "", *terminal.wrapped(heading, n), *terminal.table(["At zero", "Value", "Change"], rows), "",
        *terminal.wrapped(f"What adds to {before.question} instead: the largest differences with all of them at zero", n),
        *terminal.table(["Added by", "Intact", "Ablated", "Difference"], added),
    ]  # fmt: skip


def report_view(view):
    """A view of both runs from inside, as lines."""
    n, blocks = terminal.columns(), [[title, *terminal.table(head, rows)] for title, head, rows in view.tables()]
    tables = terminal.beside(*blocks, n) if len(blocks) == 2 else blocks[0]
    return ["", *terminal.wrapped(view.heading, n), "", *tables, "", *bullets(view.conclusions(), n)]


def bullets(sentences, n):
    return [line for text in sentences for line in terminal.wrapped("- " + text, min(n, 110), "  ")]


# What to keep


def write_files(args, pair, results, titles, views, both):
    from ..draw import figure

    path = Path(args.out or picture_path(args, pair, results[0]))
    command, numbers = shlex.join(["python", "-m", "patching.demo", *sys.argv[1:]]), []
    if args.save:  # before the pictures: nothing that goes wrong in drawing costs the numbers
        stem = path.with_suffix("")
        for result, title in zip(results, titles):
            numbers += save.paths(save.save(result, f"{stem}_{title}" if title else stem, command))
    pictures = {path: figure.compared(*results) if args.attribution else figure.figure(results, titles)}
    for view in views:
        for name, fig in zip(("clean", "corrupted"), view.figures()):
            pictures[path.with_name(f"{path.stem}_{view.name}_{name}{path.suffix}")] = fig
    for file, fig in pictures.items():
        figure.write(fig, file)
    files = [*pictures, *numbers]
    if args.report:
        from ..page import report

        report.write_page(args.report, results, titles, both=both, command=command, views=views)
        files.append(args.report)
    show(
        *([] if args.quiet else [""]),
        *(printable(file) if args.quiet else f"Written: {printable(file)}" for file in files),
    )


def command():
    """main, whose errors are a sentence, as a command that is installed calls it."""
    return terminal.guarded(main)


if __name__ == "__main__":
    sys.exit(command())
