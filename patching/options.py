"""What the demo can be asked for: its options, the maps that they mean, and the files that it will write."""

import argparse
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minigpt2.writing import check_writable

from . import METRICS, SITES
from .experiments import EXPERIMENTS
from .prompts import PromptPair

OVERVIEW = ("resid_post", "attn_out", "mlp_out")
EXAMPLES = """examples:
  the residual stream, and what attention and MLPs add to it, side by side:
    python -m patching.demo --experiment indirect-object --site overview
  which heads matter, as a layer x head map:
    python -m patching.demo --site heads
  the estimate from one backward pass, beside the exact map:
    python -m patching.demo --attribution
  what each layer would predict, and who writes the answer, in both runs:
    python -m patching.demo --lens --direct-attribution
  two texts of your own, the numbers kept and everything on one page:
    python -m patching.demo --clean "The capital of France is" \\
      --corrupted "The capital of Italy is" --answers " Paris" " Rome" \\
      --save --report capitals.html
"""


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
        description="Activation patching in GPT-2: where, layer by layer, are two texts told apart?",
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
    directions = ["denoising", "noising"]
    add("--direction", default="denoising", choices=directions, help="clean into corrupted, or the other way")
    add("--metric", default="logit_difference", choices=METRICS, metavar="METRIC", help=f"one of {', '.join(METRICS)}")
    add("--alpha", type=float, default=1.0, help="how much is written: 1 the whole vector, 0 none of it")
    add("--positions", type=positions, metavar="LIST", help='as 0,3-5; or "all": every position at once')
    add("--layers", type=numbers, metavar="LIST", help="as 0,3-5 (default: every layer)")
    add("--heads", type=numbers, metavar="LIST", help="as 0,3-5 (default: every head)")
    add("--one-by-one", action="store_true", help="the plain sweep: a forward pass for each patch")
    add("--attribution", action="store_true", help="estimate the map from one backward pass, beside the exact one")
    add = parser.add_argument_group("looking inside both runs, in pictures of their own").add_argument
    add("--lens", action="store_true", help="logit lens: what each layer would predict if it were the last")
    add("--direct-attribution", action="store_true", help="which heads and MLPs write the answer to the end")
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
    if args.experiment == "all" and (args.lens or args.direct_attribution):
        parser.error("--lens and --direct-attribution look at the two runs of one experiment: choose one")
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
    from minigpt2.drawing import check_picture

    check_picture(args.out or Path("figures", "picture.png"))
    if args.report:
        if importlib.util.find_spec("patching.report") is None:
            raise ValueError("--report is not part of this version: leave it out")
        check_writable(args.report)


def picture_path(args, model):
    """figures/EXPERIMENT_SITE_MODEL.png, with every choice that is not the default in the name."""
    experiment = "custom" if args.own_text else args.experiment
    choices = [args.site, *([args.direction] if args.direction != "denoising" else [])]
    choices += [args.metric] if args.metric != "logit_difference" else []
    choices += [f"alpha{args.alpha:g}"] if args.alpha != 1 else []
    for axis in ("layers", "heads", "positions"):
        if chosen := getattr(args, axis):
            choices.append(axis + ("-all" if chosen == "all" else ",".join(map(str, chosen)))[:40])
    choices += ["attribution"] * args.attribution + ["bos"] * args.bos
    model_name = re.sub(r"[^\w.-]+", "-", Path(model.name).name or "model")
    return Path("figures", "_".join([experiment, *choices, model_name]) + ".png")
