"""Prove an installation against the real GPT-2 small: `python -m patching.verify [--model NAME_OR_FOLDER]`.

Prints each fact with what is expected, what this model gives, the difference, the tolerance that the source permits,
the source and a verdict, in the order of the data flow: files, tensors, token ids, activations, the numbers read from
them, patching. So the first that fails is where to look. The exit code is 0 only if all facts hold, 1 if one
fails or the model cannot be loaded, 2 for a wrong command line. What cannot be checked here (for want of an optional
package, of a vocabulary) is skipped and says so; if that is all that stands between this model and 0, the code is 3.
It takes some minutes of one core.

The facts are in facts/, one function for each kind in facts/checks.py. This is a command: nothing imports it, which is
why it may reach up into `patching` for the matrices (in `checks`, and nowhere else).
"""

import argparse
import json
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from minigpt2 import facts as f
from minigpt2.facts import checks as c
from minigpt2.gpt2 import GPT2
from minigpt2.terminal import guarded, printable


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m patching.verify", description=__doc__.split(":")[0])
    parser.add_argument("--model", default="gpt2", metavar="NAME_OR_FOLDER", help="default: gpt2")
    parser.add_argument("--only", action="append", metavar="KIND", help=f"of {', '.join(f.KINDS)}; may be repeated")
    parser.add_argument("--facts", metavar="FILE", help="default: the real GPT-2 small's")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")
    options = parser.parse_args(arguments)
    kinds = options.only or list(f.KINDS)
    if unknown := [kind for kind in kinds if kind not in f.KINDS]:
        parser.error(f"unknown kind {unknown[0]!r}; choose from {', '.join(f.KINDS)}")
    try:
        facts = f.load_facts(options.facts) if options.facts else f.published()
    except f.FactsError as error:
        parser.error(str(error))
    try:
        subject = load_subject(options.model, facts)
        results = verify(subject, facts, kinds)
        return (report_json if options.json else report_table)(
            results, subject, facts, options.facts or f.HERE / "gpt2.json"
        )
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:  # what a model's files, its cache and the network can bring
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def load_subject(name, facts):
    """Load the model as GPT2.from_pretrained does, and keep where its files are; refuse one of another size."""
    from minigpt2.checkpoint.weights import load
    from minigpt2.errors import CheckpointError

    config, weights, source = load(name)
    folder = vocabulary_folder = source.folder
    if source.revision is not None:
        from minigpt2.checkpoint import hub

        vocabulary_folder = hub.vocabulary(source.name, folder)
    sizes = {size: (getattr(config, size), n) for size, n in facts["sizes"].items()}
    if other := ", ".join(f"{size} {has}, not {n}" for size, (has, n) in sizes.items() if has != n):
        raise CheckpointError(
            f"{name} is not the model that the facts are about (it has {other}): give its own facts file"
        )
    model = GPT2(config, weights, source.tokenizer, source.name, source.revision)
    return c.Subject(model, folder, vocabulary_folder)


def checks():
    """The function for each kind."""
    from patching.verify import ablations, circuits, matrices, sets  # above this package; see the module's docstring

    rooms = (c, ablations, matrices, circuits, sets)
    return {
        kind: next(getattr(room, f"check_{kind}") for room in rooms if hasattr(room, f"check_{kind}"))
        for kind in f.KINDS
    }


def verify(subject, facts, kinds=tuple(f.KINDS)):
    """Yield a Check for every fact of some kinds, in the order of cause."""
    functions = checks()
    everything = facts["token_ids"][:1] and {"texts": f.texts(facts), "source": facts["token_ids"][0]["source"]}
    for kind in (kind for kind in f.KINDS if kind in kinds):
        for entry in facts[kind] + ([everything] if kind == "token_ids" and everything else []):
            about = str(entry.get("text") or entry.get("clean") or "")
            try:
                for check in functions[kind](subject, entry, facts):
                    yield replace(check, about=about)
            except (ValueError, FloatingPointError) as error:  # the model's or the tokenizer's own sentence
                yield replace(f.failed(kind, kind.replace("_", " "), entry["source"], str(error)), about=about)
            except (AttributeError, LookupError, TypeError) as error:
                message = f"this fact is not in the form described in facts/README.md ({type(error).__name__}: {error})"
                yield f.failed(kind, kind.replace("_", " "), entry["source"], message)


def summary(results):
    counts = Counter(check.verdict for check in results)
    n = counts["holds"] + counts["FAILS"]
    text = f"all {n} facts hold" if n else "nothing was checked"
    if counts["FAILS"]:
        text = f"{counts['FAILS']} of {n} facts fail"
    return text + (f"; {counts['skipped']} skipped, so not all is proven" if counts["skipped"] else "")


def exit_code(results):
    verdicts = {check.verdict for check in results}
    if "FAILS" in verdicts or "holds" not in verdicts:
        return 1
    return 3 if "skipped" in verdicts else 0


def report_json(results, subject, facts, path):
    results = list(results)
    report = {
        "model": subject.model.name,
        "revision": subject.model.revision,
        "folder": str(subject.folder),
        "facts": str(path),
        "holds": exit_code(results) == 0,
        "summary": summary(results),
        "sources": facts["sources"],
        "checks": [check.as_json() for check in results],
    }
    print(json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False))
    return exit_code(results)


ROW = "{:7} {:43} {:>13} {:>13} {:>10} {:>9} {}"


def report_table(results, subject, facts, path):
    """Print each kind as soon as it is checked."""
    model, seen = subject.model, []
    print(printable(f"{Path(path).name} against {model.name}") + (f" at {model.revision}" if model.revision else ""))
    print(ROW.format("verdict", "fact", "expected", "got", "difference", "tolerance", "source"))
    for kind, some in groupby(results, key=lambda check: check.kind):
        print(f"\n{kind.replace('_', ' ')}")
        about = ""
        if kind == "tensors":
            some = list(some)
            print_held_tensors([check for check in some if check.verdict == "holds"])
        for check in some:
            seen.append(check)
            if check.about != about and kind != "token_ids":
                about = check.about
                print(" " * 8 + (f.short(about, 110) or "together"))
            if kind != "tensors" or check.verdict != "holds":
                print_check(check)
    print("\nsources")
    for name in dict.fromkeys(check.source for check in seen):
        source = facts["sources"][name]
        print(textwrap.fill(f"{name}: {source['where']} ({source['stated']})", 118, subsequent_indent="    "))
    print()
    if first := next((check for check in seen if check.verdict == "FAILS"), None):
        print(textwrap.fill(f"the first that fails: {first.message or first.fact}", 118, subsequent_indent="    "))
    print(summary(seen))
    return exit_code(seen)


def print_held_tensors(held):
    if held:
        print(ROW.format("holds", f"CRC32C of {len(held)} tensors, each", "equal", "equal", "", "", held[0].source))


def print_check(check):
    difference = "" if check.difference is None else f"{check.difference:.1e}"
    tolerance = "" if check.tolerance is None else f"{check.tolerance:.1e}"
    shown = (f.short(text, 13) for text in check.shown)
    print(ROW.format(check.verdict, f.short(check.fact, 43), *shown, difference, tolerance, check.source), flush=True)
    if check.message not in ("", check.fact):
        print(textwrap.fill(check.message, 118, initial_indent="        ", subsequent_indent="        "))


if __name__ == "__main__":
    sys.exit(guarded(main))
