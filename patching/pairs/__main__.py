"""A sweep over a file of pairs: python -m patching.pairs pairs.csv --site z --positions all --workers 2 --directory runs/ioi"""

import argparse
import sys
import time
from contextlib import nullcontext

from minigpt2 import terminal
from minigpt2.atomic import check_writable
from minigpt2.terminal import filled, guarded, printable

from .. import METRICS, SITES, PairSet, attribute, sweep
from .workers import workers

EXAMPLES = """examples:
  every head, all positions at once, two processes, kept as it goes; the same line goes on after Ctrl-C:
    python -m patching.pairs pairs.csv --site z --positions all --workers 2 --directory runs/ioi
  the residual stream at named places (columns of the file, or "end"):
    python -m patching.pairs pairs.csv --positions subject,end --out subject.png --csv subject.csv
  the third of 20 jobs of a cluster, all in one folder; whoever comes last has the whole:
    python -m patching.pairs pairs.csv --site z --positions all --directory runs/ioi --part 3/20
  without a file, pairs made here:
    python -m patching.pairs indirect-object --n 50 --site z --positions all
the file: clean,corrupted,clean_answer,corrupted_answer and one column for each role, as CSV or JSON Lines
"""
MADE = ("indirect-object", "greater-than")


def make_parser():
    parser = terminal.Parser(
        prog="python -m patching.pairs", description="Activation patching over a set of pairs, with errors and tests.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("pairs", metavar="PAIRS", help=f"a .csv or .jsonl file, or {' or '.join(MADE)}")
    add = parser.add_argument_group("the question").add_argument
    add("--model", default="gpt2", type=filled, metavar="NAME_OR_FOLDER", help="gpt2 (default), a folder, bundled, ...")
    add("--site", default="resid_post", choices=SITES, metavar="SITE", help=f"one of {', '.join(SITES)} (%(default)s)")
    add("--direction", choices=["denoising", "noising"], help="clean into corrupted (default), or the other way")
    add(
        "--metric",
        default="logit_difference",
        choices=METRICS,
        metavar="METRIC",
        help=f"{', '.join(METRICS)} (%(default)s)",
    )
    add(
        "--positions", type=places, metavar="LIST", help='"all" at once, roles like subject,end, or numbers like 0,3,-1'
    )
    add("--at", type=place, metavar="PLACE", help="where the metric is read: a role or a position (default: the last)")
    add("--attribution", action="store_true", help="the estimate from one backward pass instead of the exact map")
    add("--n", type=int, default=50, help="how many pairs are made, without a file (%(default)s)")
    add("--seed", type=int, default=0, help="of the pairs that are made (%(default)s)")
    add("--skip", action="store_true", help="leave out lines that are not pairs, or do not align")
    add = parser.add_argument_group("how it is run").add_argument
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes of one BLAS thread each (default: this one alone)",
    )
    add(
        "--directory",
        type=filled,
        metavar="FOLDER",
        help="keep each pair's map there, and go on from those that are there",
    )
    add("--part", type=part, metavar="K/N", help="do one part of N, e.g. 3/20; needs --directory")
    add = parser.add_argument_group("the results").add_argument
    add("--out", type=filled, metavar="FILE", help="the picture of the mean map: a .png, .pdf or .svg")
    add("--dots", type=filled, metavar="FILE", help="a picture of every pair's effect in the largest cells")
    add("--csv", type=filled, metavar="FILE", help="a row for each cell and pair")
    return parser


def place(text):
    return int(text) if text.strip().lstrip("-").isdecimal() else text


def places(text):
    if text == "all":
        return text
    found = [place(each.strip()) for each in filled(text).split(",")]
    if len({type(each) for each in found}) > 1 or "" in found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of roles, of numbers, or all")
    return found


def part(text):
    which, _, of = text.partition("/")
    if not (which.isdecimal() and of.isdecimal() and 1 <= int(which) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part like 3/20, the third of 20")
    return int(which), int(of)


def main(arguments=None):
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.part and not args.directory:
        parser.error("--part needs --directory, where the parts come together")
    if args.workers < 0 or args.n < 1:
        parser.error("--workers and --n are numbers from 0 and from 1 on")
    for path in filter(None, (args.out, args.dots)):
        from minigpt2.pictures.style import check_picture

        check_picture(path)
    if args.csv:
        check_writable(args.csv)
    model = load(args.model)
    pairs = made(args, model)
    for fault in pairs.left_out if args.skip else ():
        terminal.warn(f"left out: {fault}")
    run = attribute if args.attribution else sweep
    with workers(args.workers) if args.workers else nullcontext() as executor, Progress() as progress:
        result = run(
            model, pairs, args.site, direction=args.direction, metric=args.metric, positions=args.positions, at=args.at,
            skip=args.skip, executor=executor, directory=args.directory, part=args.part, progress=progress,
        )  # fmt: skip
    show(result, args)


def load(name):
    from minigpt2 import GPT2

    return GPT2.from_pretrained(name)


def made(args, model):
    if args.pairs not in MADE:
        return PairSet.read(args.pairs, skip=args.skip)
    from . import builtin

    make = builtin.indirect_object if args.pairs == MADE[0] else builtin.greater_than
    return make(model, args.n, seed=args.seed)


class Progress:
    """One line on a terminal: pairs done, how many a second, how long it will take."""

    def __init__(self):
        self.start, self.first = time.monotonic(), None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.first is not None and sys.stderr.isatty():
            print(file=sys.stderr)

    def __call__(self, done, total):
        if self.first is None:
            self.first = done  # what was there before
        rate = (done - self.first) / max(1e-9, time.monotonic() - self.start)
        left = f", {rate:.2g} a second, {clock((total - done) / rate)} left" if rate else ""
        if sys.stderr.isatty():
            print(f"\r{done} of {total} pairs{left}".ljust(60), end="", file=sys.stderr, flush=True)


def clock(seconds):
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def show(result, args):
    from ..explain.pairs import tell_set

    n = min(terminal.columns(), 110)
    lines = [line for text in tell_set(result) for line in terminal.wrapped("- " + text, n, "  ")]
    print(printable("\n".join([repr(result), "", *lines]), keep="\n"))
    if args.out or args.dots:
        from ..draw.figure import write
        from ..draw.pairs import dots, set_figure

        for path, draw in ((args.out, set_figure), (args.dots, dots)):
            if path:
                write(draw(result), path)
                print(f"Written: {printable(path)}")
    if args.csv:
        result.to_csv(args.csv)
        print(f"Written: {printable(args.csv)}")


if __name__ == "__main__":
    sys.exit(guarded(main))
