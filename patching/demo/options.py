"""What the demo can be asked for: its options, the maps that they mean, and the files that it will write."""

import argparse
import hashlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minigpt2 import Overwrite
from minigpt2.atomic import check_writable
from minigpt2.terminal import decoded, filled

from .. import METRICS, SITES
from ..ablations.parts import parts_of
from ..explain.both_runs import BothRuns
from ..prompts import PromptPair
from ..sources import SOURCES
from .experiments import EXPERIMENTS

OVERVIEW = ("resid_post", "attn_out", "mlp_out")
EXAMPLES = """examples:
  the residual stream, and what attention and MLPs add to it, side by side:
    python -m patching.demo --experiment indirect-object --site overview
  which heads matter, as a layer x head map:
    python -m patching.demo --site heads
  the estimate from one backward pass, beside the exact map:
    python -m patching.demo --attribution
  what each layer would predict, and what heads and MLPs add to the answer:
    python -m patching.demo --lens --direct-attribution
  what the model does without single heads, and with three of them at zero:
    python -m patching.demo --site heads --source zero
    python -m patching.demo --ablate 3.0,3.1,4.2
  two texts of your own, the numbers kept and everything on one page:
    python -m patching.demo --clean "The capital of France is" \\
      --corrupted "The capital of Italy is" --answers " Paris" " Rome" \\
      --save --report capitals.html
"""
METRIC_LINES = "metrics:\n" + "".join(f"  {name:26}{entry.words}\n" for name, entry in METRICS.items()) + "\n"


class Job(NamedTuple):
    """One map to make."""

    title: str
    name: str  # of the experiment
    pair: PromptPair
    site: str
    choices: dict


def parse():
    parser = make_parser()
    args = parser.parse_args()
    args.experiments = list(EXPERIMENTS) if args.experiment == "all" else [args.experiment]
    args.own_text = args.clean is not None or args.corrupted is not None or args.answers is not None
    args.unanswered = args.clean is not None and args.corrupted is not None and args.answers is None
    args.sites = OVERVIEW if args.site == "overview" else ["z"] if args.site == "heads" else [args.site]
    if args.direction is None:
        args.direction = "denoising" if args.source == "other run" else "noising"
    for fault in faults(args):
        parser.error(fault)
    return args


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m patching.demo", epilog=METRIC_LINES + EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Activation patching in GPT-2: where is the difference between two texts carried?",
    )  # fmt: skip
    add = parser.add_argument_group("the question").add_argument
    add("--experiment", default="surname", choices=[*EXPERIMENTS, "all"], metavar="NAME", help="see --list; or all")
    add("--list", action="store_true", help="list the experiments and stop")
    text = {"type": text_of_own, "metavar": "TEXT"}
    add("--clean", **text, help="a text of your own instead of the experiment's")
    add("--corrupted", **text, help="the text that differs from it, in as many tokens")
    answers = 'one token each, e.g. " Jones" " Smith" (for two texts of your own, by default the likeliest next token of each)'
    add("--answers", type=text_of_own, nargs=2, metavar=("CLEAN", "CORRUPTED"), help=answers)
    add("--bos", action="store_true", help="put <|endoftext|> before both texts")
    add("--model", metavar="NAME_OR_FOLDER", help="gpt2 (the default), gpt2-medium, a folder, bundled, ...")
    add = parser.add_argument_group("the patches").add_argument
    sites = [*SITES, "overview", "heads"]
    add("--site", default="resid_post", choices=sites, metavar="SITE", help=f"one of {', '.join(sites)} (%(default)s)")
    directions = ["denoising", "noising"]
    add("--direction", choices=directions, help="into the corrupted run (the default), or into the clean one")
    add(
        "--source",
        choices=SOURCES,
        default="other run",
        help="what is written (%(default)s); zero ablates, in the clean run",
    )
    add("--window", type=window, default=1, metavar="N", help="patch N layers around each at once (%(default)s)")
    add(
        "--ablate",
        type=parts,
        metavar="LIST",
        help="for example 9.9,9.6 or 'mlp 5': patch the model with these at zero",
    )
    add("--metric", default="logit_difference", choices=METRICS, metavar="METRIC", help="see below (%(default)s)")
    add("--alpha", type=finite, default=1.0, help="how much is written: 1 the whole vector, 0 none of it")
    add("--positions", type=positions, metavar="LIST", help='for example 0,3-5; or "all": every position at once')
    add("--layers", type=numbers, metavar="LIST", help="for example 0,3-5 (default: every layer)")
    add("--heads", type=numbers, metavar="LIST", help="for example 0,3-5 (default: every head)")
    add("--one-by-one", action="store_true", help="the plain sweep: a forward pass for each patch")
    add("--attribution", action="store_true", help="estimate the map from one backward pass, beside the exact one")
    add = parser.add_argument_group("looking inside both runs, in pictures of their own").add_argument
    add("--lens", action="store_true", help="logit lens: what each layer would predict if it were the last")
    add(
        "--direct-attribution",
        action="store_true",
        help="how much each head and MLP adds to logit(corrupted answer) - logit(clean answer)",
    )
    add = parser.add_argument_group("the results").add_argument
    add("--out", type=filled, metavar="FILE", help="a .png, .pdf, .svg (default: figures/EXPERIMENT_SITE_MODEL.png)")
    add("--save", action="store_true", help="keep the numbers beside the picture: .npz, .json, .csv")
    add("--report", type=filled, metavar="FILE.html", help="write everything as one HTML page")
    add("--quiet", action="store_true", help="print only the names of the files that were written")
    return parser


def faults(args):
    """What is wrong with the options together, as sentences."""
    if args.experiment == "all" and (args.own_text or args.site == "overview"):
        yield "--experiment all draws one map for each experiment: leave out texts, answers and --site overview"
    if args.experiment == "all" and (args.lens or args.direct_attribution):
        yield "--lens and --direct-attribution look at the two runs of one experiment: choose one"
    if args.attribution and (args.experiment == "all" or args.site == "overview"):
        yield "--attribution stands beside one exact map: choose one experiment and one site"
    if args.site == "heads" and args.positions:
        yield "--site heads patches all positions at once: leave out --positions, or choose --site z"
    if args.site == "pattern_entry" and args.positions == "all":
        yield "--site pattern_entry patches single entries: --positions all is --site pattern"
    if args.heads and not any("head" in SITES[site].axes for site in args.sites):
        yield f"{args.site} has no heads to choose from: leave out --heads, or patch z, q, k, v or pattern"
    if args.ablate and (args.experiment == "all" or args.site == "overview"):
        yield "--ablate looks into one map in one model: choose one experiment and one site"
    if args.window > 1 and args.site == "pattern_entry":
        yield "--window patches layers at once, and pattern_entry single entries: choose another site"
    if args.clean is not None and args.corrupted is None:
        yield "--clean needs --corrupted too: the text that differs from it, in as many tokens"


def text_of_own(text):
    return decoded(filled(text))


def numbers(text):
    """ "0,3-5" as [0, 3, 4, 5]."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        if not match or match[2] and int(match[2]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list like 0,3-5")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def window(text):
    if not re.fullmatch(r"\d{1,5}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number of layers, 1 or more")
    return int(text)


def parts(text):
    """ "9.9, mlp 5" as names of parts of a model."""
    found = [part.strip() for part in text.split(",")]
    if wrong := [part for part in found if not re.fullmatch(r"\d{1,5}\.\d{1,5}|(mlp|attn) ?\d{1,5}", part)]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r:.40} is not a part like 9.6, 'mlp 5' or 'attn 5'")
    return found


def positions(text):
    return "all" if text == "all" else numbers(text)


def finite(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(
            f"{text!r:.40} is not a finite number (1 writes the whole vector, 0 none of it)"
        )
    return value


def plan_jobs(args, model):
    """The maps that the options ask for, list[Job]."""
    names = ("direction", "metric", "alpha", "positions", "layers", "heads", "window")
    choices = {name: getattr(args, name) for name in names}
    choices["source"] = None if args.source == "other run" else args.source
    if args.ablate:
        choices["overwrites"] = [zeroed(part) for part in parts_of(args.ablate, model)]
    if args.site == "heads":
        choices["positions"] = "all"
    given = {"clean": args.clean, "corrupted": args.corrupted, "answers": args.answers and tuple(args.answers)}
    changes = {name: value for name, value in given.items() if value is not None} | {"bos": args.bos}
    if args.unanswered:
        changes["answers"] = likeliest_answers(model, args)
    return [
        Job(
            name if len(args.experiments) > 1 else site, "custom" if args.own_text else name,
            replace(EXPERIMENTS[name].pair, **changes), site, choices,
        )
        for name in args.experiments
        for site in args.sites
    ]  # fmt: skip


def zeroed(part):
    return Overwrite(part.layer, part.activation, 0.0, None if part.head is None else [part.head])


def likeliest_answers(model, args):
    """The likeliest next token of each text, as text: the answers of two texts that came without."""
    tokens = PromptPair(args.clean, args.corrupted, ("0", "1"), args.bos).tokens(model)  # "0" and "1" are not looked at
    ids = [int(logits.argmax()) for logits in BothRuns(model, tokens).next_logits]
    (clean, corrupted), ask = (model.labels([token])[0] for token in ids), "use --answers to say which two to compare"
    if clean == corrupted:
        raise ValueError(f"the likeliest next token is {clean} after both texts: {ask}")
    texts = tuple(model.decode([token]) if token < model.tokenizer.n_vocab else "" for token in ids)
    if [model.tokenizer.continuation(text) for text in texts] != [[token] for token in ids]:
        raise ValueError(f"the likeliest next tokens, {clean} and {corrupted}, are not both texts by themselves: {ask}")
    return texts


def check_outputs(args):
    """Raise ValueError or OSError now for files that could not be written in the end."""
    from minigpt2.pictures.style import check_picture

    out = Path(args.out or Path("figures", "picture.png"))
    check_picture(out)
    for path in beside(out, args):
        check_writable(path)
    if args.report:
        if Path(args.report).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"cannot write {args.report}: a report's name ends in .html or .htm")
        check_writable(args.report)


def beside(out, args):
    """The other files whose names are made of the picture's: its views, and the numbers."""
    views = ["lens"] * args.lens + ["direct-attribution"] * args.direct_attribution
    found = [out.with_name(f"{out.stem}_{view}_corrupted{out.suffix}") for view in views]
    if args.save:
        titles = next((names for names in (args.experiments, args.sites) if len(names) > 1), [""])
        titles = ["exact", "attribution"] if args.attribution else titles
        found += [out.with_name(f"{out.stem}_{title}.json" if title else f"{out.stem}.json") for title in titles]
    return found


def picture_path(args, pair, result):
    """figures/EXPERIMENT_SITE_MODEL.png, with every choice that is not the default in the name."""
    experiment = question_name(pair, result) if args.own_text else args.experiment
    choices = [args.site, *([args.direction] if args.direction != "denoising" else [])]
    choices += [args.source.replace(" ", "-")] if args.source != "other run" else []
    choices += [f"window{args.window}"] if args.window != 1 else []
    choices += ["ablate" + re.sub(r"[^\d.a-z]+", "-", "_".join(args.ablate))] if args.ablate else []
    choices += [args.metric] if args.metric != "logit_difference" else []
    choices += [f"alpha{args.alpha:g}"] if args.alpha != 1 else []
    for axis in ("layers", "heads", "positions"):
        if chosen := getattr(args, axis):
            listed = "-all" if chosen == "all" else ",".join(map(str, chosen))
            choices.append(axis + (listed if len(listed) <= 40 else f"{listed[:32]}-{digest(listed)}"))
    choices += ["attribution"] * args.attribution + ["bos"] * args.bos
    model_name = re.sub(r"[^\w.-]+", "-", Path(result.model).name or "model")
    return Path("figures", "_".join([experiment, *choices, model_name]) + ".png")


def question_name(pair, result):
    """ "custom-France-Italy-3f9a1c2": the first changed tokens to read, and what tells every two questions apart."""
    first = result.tokens.first_difference
    words = [re.sub(r"\W", "", labels[first])[:20] for labels in (result.clean_labels, result.corrupted_labels)]
    return "-".join(["custom", *filter(None, words), digest(repr((pair.clean, pair.corrupted, pair.answers)))])


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:7]
