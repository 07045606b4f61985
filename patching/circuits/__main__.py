"""Edges, paths and the errors of their estimates, on the command line.

examples:
  python -m patching.circuits --edges --model bundled
  python -m patching.circuits --errors --model gpt2 --keep-in work      (goes on after Ctrl-C where it was)
  python -m patching.circuits --paths logits --through mlps --model bundled
  python -m patching.circuits --paths "a4.h2<q>,a4.h2<k>" --clean "..." --corrupted "..." --answers " Jones" " Smith"
  python -m patching.circuits --circuit 50 --model bundled --out circuit.json
"""

import argparse
import shlex
import sys
from pathlib import Path

from minigpt2 import GPT2, terminal

from ..metrics import METRICS
from ..prompts import PromptPair
from .attribution import attribute_edges
from .edges import edges
from .errors import error_report
from .faithfulness import curve, faithfulness
from .find import find_circuit
from .paths import path_patch

CLEAN = "Michelle Jones was a top-notch student. Michelle"
CORRUPTED = "Michelle Smith was a top-notch student. Michelle"
ESTIMATES = (("EAP", {}), ("EAP-IG, 5 steps", {"steps": 5}), ("clean-corrupted", {"ends": "both"}))


def parser():
    p = argparse.ArgumentParser(
        prog="python -m patching.circuits", description=__doc__.partition("\n")[0],
        epilog=__doc__.partition("\n\n")[2], formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--edges", action="store_true", help="every edge exactly; the strongest as a table")
    what.add_argument("--errors", action="store_true", help="EAP, EAP-IG and clean-corrupted beside the exact edges")
    what.add_argument("--paths", metavar="RECEIVERS", help='e.g. logits, or "a4.h2<q>,m5": path patching into these')
    what.add_argument(
        "--circuit", type=int, metavar="N", help="the circuit of the N strongest edges, and what it does alone"
    )
    p.add_argument("--model", default="gpt2", type=terminal.filled, metavar="NAME_OR_FOLDER", help="default: gpt2")
    p.add_argument("--clean", default=CLEAN, type=terminal.filled, metavar="TEXT")
    p.add_argument("--corrupted", default=CORRUPTED, type=terminal.filled, metavar="TEXT")
    p.add_argument(
        "--answers", nargs=2, default=(" Jones", " Smith"), metavar=("CLEAN", "CORRUPTED"), help="one token each"
    )
    p.add_argument("--bos", action="store_true", help="put <|endoftext|> in front of both texts")
    p.add_argument("--direction", choices=("noising", "denoising"), default="noising", help="default: noising")
    p.add_argument("--metric", choices=METRICS, default="logit_difference", help="default: logit_difference")
    p.add_argument("--through", choices=("mlps", "direct"), default="mlps", help="of --paths; default: mlps")
    p.add_argument("--top", type=int, default=20, metavar="N", help="edges in the table; default: 20")
    p.add_argument("--keep-in", metavar="FOLDER", help="keep finished layers there, and go on from them")
    p.add_argument("--out", metavar="FILE", help="a picture (.png, .pdf, .svg); of --circuit EAP-IG's JSON")
    p.add_argument("--save", metavar="FILE", help="the result as .npz, .json and .csv")
    return p


def main(arguments=None):
    args = parser().parse_args(arguments)
    if args.top < 1 or (args.circuit is not None and args.circuit < 1):
        raise ValueError("--top and --circuit need a number of at least 1")
    check_paths(args)
    model = load(args.model)
    pair = PromptPair(args.clean, args.corrupted, tuple(args.answers), bos=args.bos)
    question = {"direction": args.direction, "metric": args.metric}
    if args.paths:
        result = path_patch(model, pair, args.paths.split(","), through=args.through, **question)
    else:
        result = exact_edges(model, pair, args, question)
    told = {"errors": tell_errors, "circuit": tell_circuit}.get(
        "errors" if args.errors else "circuit" * bool(args.circuit)
    )
    print("\n".join(heading(result)))
    figure = told(args, model, pair, result, question) if told else tell_edges(args, result)
    written = []
    if args.out and figure is not None:
        from ..draw.edges import write

        write(figure(), args.out)
        written.append(args.out)
    elif args.out:
        written.append(args.out)
    if args.save:
        written.append(result.save(args.save, shlex.join(["python", "-m", "patching.circuits", *sys.argv[1:]])))
    for path in written:
        print(f"Written: {path}")


def check_paths(args):
    """Refuse before the work what could not be written after it."""
    from minigpt2.atomic import check_writable

    if args.out and args.circuit is None:
        from minigpt2.pictures.style import check_picture

        check_picture(args.out)
    for path in (args.save, args.out if args.circuit is not None else None):
        if path:
            check_writable(Path(path))


def load(name):
    try:
        return GPT2.from_pretrained(name)
    except OSError as error:
        raise OSError(f"{error}; --model bundled is the small model that comes with the package") from None


def exact_edges(model, pair, args, question):
    from ..draw.heatmap import Progress

    with Progress("edges") as progress:
        try:
            return edges(model, pair, keep_in=args.keep_in, progress=progress, **question)
        except KeyboardInterrupt:
            if args.keep_in:
                print(
                    f"\nfinished layers are kept in {args.keep_in}; the same command goes on from there",
                    file=sys.stderr,
                )
            raise


def heading(result):
    return [
        f"{result.n_edges:,} edges of {terminal.known_as(result.model)} ({result.method}, {result.direction}), {result.unit}:",
        f"clean {result.clean_value:.3f}, corrupted {result.corrupted_value:.3f}",
        "",
    ]


def tell_edges(args, result):
    print("\n".join(result.table(args.top)))

    def figure():
        from ..draw.edges import edge_figure

        return edge_figure(result)

    return figure


def tell_errors(args, model, pair, result, question):
    estimates = [attribute_edges(model, pair, **question, **how) for _, how in ESTIMATES]
    for estimate in estimates:
        print("\n".join([*error_report(result, estimate).lines(), ""]))
    print("\n".join(areas(model, pair, result, estimates, question)))

    def figure():
        from ..draw.edges import error_figure

        return error_figure(result, estimates)

    return figure


def areas(model, pair, exact, estimates, question):
    """The curves of circuits of the strongest edges, as a table of MIB's areas."""
    rows = []
    for scores in (exact, *estimates):
        found = curve(model, pair, scores, metric=question["metric"])
        rows.append([scores.method, f"{found.cpr:.3f}", f"{found.cmd:.3f}"])
    return terminal.table(["circuits of the strongest by", "CPR", "CMD"], rows)


def tell_circuit(args, model, pair, result, question):
    circuit = find_circuit(model, pair, args.circuit, scores=result, **question)
    found = faithfulness(model, pair, circuit, **question)
    print(f"the {args.circuit} strongest edges, pruned: {len(circuit.edges)} edges, {len(circuit.nodes)} nodes")
    print(f"alone they give {float(found.circuit.mean()):.3f}, {100 * found.normalised:.1f} % of the way to the model")
    for writer, reader, effect in result.top(result.n_edges):
        if (writer, reader) in circuit.edges:
            print(f"  {writer} -> {reader}  {effect:+.4f}")
    if args.out:
        circuit.to_json(args.out, model.config, result)


if __name__ == "__main__":
    sys.exit(terminal.guarded(main))
