"""The documentation is true: its snippets run, what they print is what it says, and everything it names exists.

Every ```python block of docs/*.md and README.md is run, the blocks of one page in one namespace and a fresh interpreter,
and a ```text block that follows one directly is compared with what it printed. After a change that is meant, rewrite those
text blocks, then read the prose around them: `python tests/test_docs.py docs/patching.md` (no page: all of docs/).
"""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FINDING = ROOT / "docs" / "finding.py"

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})+(?![\d,])|[-+]?\d+\.\d+(?:e[-+]?\d+)?|[-+]?\d+(?:e[-+]?\d+)?")
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # on a busy machine threads wait for each other
END = "end of block 7d1f"  # printed behind every block, so that the output can be cut at it

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text):
    """[(python source, the text block that follows it directly or None, match of the source, match of the text)]."""
    found, all_blocks = [], list(BLOCK.finditer(text))
    for block, after in zip(all_blocks, [*all_blocks[1:], None]):
        if block[1] == "python":
            said = after and after[1] == "text" and not text[block.end() : after.start()].strip()
            found.append((block[2], after[2] if said else None, block, after if said else None))
    return found


def substituted(source):
    """README's code says "gpt2", as a reader would; tests are offline, so it is run on the bundled model instead."""
    return re.sub(r"from_pretrained\((?=\))|from_pretrained\(\"gpt2\"", 'from_pretrained("bundled"', source)


@cache
def run_page(page):
    """What each python block of a page prints, in order. The script has each line where the page has it, for tracebacks."""
    text = page.read_text(encoding="utf-8")
    script, line = [], 1
    for source, _, block, _ in blocks(text):
        start = text[: block.start(2)].count("\n") + 1
        script += [""] * (start - line) + substituted(source).splitlines() + [f"print({END!r})"]
        line = start + source.count("\n") + 1
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); exec(compile(sys.stdin.read(), {str(page)!r}, 'exec'))"
    done = subprocess.run(
        [sys.executable, "-c", start],
        input="\n".join(script), capture_output=True, text=True, encoding="utf-8", cwd=ROOT, timeout=120,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name} does not run:\n{done.stderr}"
    return done.stdout.split(END + "\n")[:-1]


def difference(said, printed):
    """What is different between two outputs, or None. Words must be the same, in the same lines.

    A whole number must be the same. One with decimals may be off by one in its last digit: the same sum in another order
    (another BLAS) differs by some 1e-6, and that is enough to round the other way.
    """
    said_lines, printed_lines = said.rstrip().splitlines(), printed.rstrip().splitlines()
    for a, b in zip(said_lines, printed_lines):
        if NUMBER.sub("#", a).split() != NUMBER.sub("#", b).split():
            return f"the page says {a!r}, the code prints {b!r}"
        for x, y in zip(NUMBER.findall(a), NUMBER.findall(b)):
            decimals = len(x.partition(".")[2])
            unit = 10.0**-decimals if decimals and "e" not in x else 0
            if abs(float(x.replace(",", "")) - float(y.replace(",", ""))) > 1.001 * unit:
                return f"the page says {x}, the code prints {y}, in {b!r}"
    if len(said_lines) != len(printed_lines):
        return f"the page says {len(said_lines)} lines, the code prints {len(printed_lines)}"
    return None


@pages
def test_snippets_print_what_the_page_says(page):
    text = page.read_text(encoding="utf-8")
    of_bundled = True  # not so from the first block on that had to run on another model than it says
    for (source, said, _, _), printed in zip(blocks(text), run_page(page), strict=True):
        of_bundled = of_bundled and substituted(source) == source
        if said is not None and of_bundled:
            problem = difference(said, printed)
            assert problem is None, f"{problem}. `python tests/test_docs.py {page.relative_to(ROOT)}` writes it anew."


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_output_of_a_page_in_docs_is_shown(page):
    """Code in docs/ that prints says what it prints, directly below."""
    for (source, said, _, _), printed in zip(blocks(page.read_text(encoding="utf-8")), run_page(page), strict=True):
        assert bool(printed.strip()) == (said is not None), source


MEASURED = ("timings.md", "proof.md")  # their numbers are printed by make benchmarks and make parity


@pytest.mark.parametrize("page", [page for page in DOCS if page.name not in MEASURED], ids=lambda page: page.name)
def test_numbers_in_the_prose_are_printed_on_the_same_page(page):
    """A number of ten and more, or with decimals, stands in an output (or the code) of its page, with the same digits."""
    text = page.read_text(encoding="utf-8")
    shown = {digits(n) for _, block in BLOCK.findall(text) for n in NUMBER.findall(block)}
    said = {digits(n) for n in NUMBER.findall(prose(text))}
    unprinted = {n for n in said if len(n) > 1} - shown
    assert not unprinted, f"{page.name} says {', '.join(sorted(unprinted))}, and none of its outputs does"


def prose(text):
    """A page without its blocks, and without what is a number in form only: links, arXiv ids, years, GPT-2, c_1."""
    text = BLOCK.sub("", text)
    text = re.sub(r"\]\([^)]*\)|\b\d{4}\.\d{5}\b|\((?:19|20)\d\d\)|GPT-2|float\d\d|\w*[a-z]_?\d\w*", "", text)
    return text.replace("\N{MINUS SIGN}", "-")


def digits(number):
    return number.lstrip("+-").replace(",", "")


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"https?:", target):
            path, _, anchor = target.partition("#")
            to = page.parent / path if path else page
            assert to.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", to.read_text(encoding="utf-8")), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name} links to {target}"


@cache
def names_in_the_code():
    """Every name that the packages define or use: modules, functions, arguments, fields, attributes, string constants."""
    known = set()
    for file in [*ROOT.glob("minigpt2/**/*.py"), *ROOT.glob("patching/**/*.py")]:
        known |= {file.stem, file.parent.name} | names_in(file.read_text(encoding="utf-8"))
    return known


def names_in(source):
    found = set()
    for node in ast.walk(ast.parse(source)):
        for field in ("name", "id", "attr", "arg", "asname", "value", "module"):
            if isinstance(name := getattr(node, field, None), str):
                found |= {name, *name.split(".")}
    return found


def test_the_index_has_every_page():
    listed = re.findall(r"^\| \[([\w.]+)\]", (ROOT / "docs" / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.*") if path.name != "README.md")


@pages
def test_everything_in_backticks_exists(page):
    """Files are there, commands are modules, and every part of a name is a name of the code or of the page's own code."""
    text = page.read_text(encoding="utf-8")
    text = "" if page.name == "names.md" else text  # its names are a checkpoint's and TransformerLens's: test_readme.py
    own = set().union(*(names_in(source) for source, *_ in blocks(text)))
    for quoted in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
        if command := re.match(r"python -m ([\w.]+)", quoted):
            at = ROOT / command[1].replace(".", "/")
            assert at.with_suffix(".py").exists() or (at / "__main__.py").exists(), f"{page.name}: `{quoted}`"
        elif re.fullmatch(r"[\w./-]+\.(py|md|json|csv|safetensors|txt|cfg|toml)|[\w.-]+/", quoted):
            places = [ROOT, page.parent, *(ROOT / name for name in ("minigpt2", "patching", "tests/golden"))]
            assert any((place / quoted).exists() for place in places), f"{page.name}: there is no `{quoted}`"
        elif quoted.startswith("test_"):
            assert any(f"def {quoted}(" in test.read_text() for test in ROOT.glob("tests/test_*.py")), (
                f"{page.name}: `{quoted}`"
            )
        elif name := re.match(r"[A-Za-z_][\w.]*(?=$|[\[(])", quoted):
            missing = [part for part in re.split(r"\W+", name[0]) if part not in names_in_the_code() | own]
            assert not missing, f"{page.name}: `{quoted}`: the code has no {missing}"


def test_the_sites_table_has_every_site_with_its_shape():
    """docs/patching.md: the table's names are SITES in order, and its shapes are those of a result."""
    from minigpt2 import GPT2
    from patching import SITES, sweep
    from patching.demo.experiments import EXPERIMENTS

    text = (ROOT / "docs" / "patching.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `\[([\w, ]+)\]` \|", text, re.M))
    assert list(rows) == list(SITES)
    model = GPT2.from_pretrained("bundled")
    pair = EXPERIMENTS["surname"].pair
    sizes = {**vars(model.config), "n_seq": len(pair.tokens(model).clean)}
    for site, shape in rows.items():
        assert sweep(model, pair, site).values.shape == tuple(sizes[name] for name in shape.split(", ")), site


@cache
def run_finding():
    done = subprocess.run(
        [sys.executable, FINDING], capture_output=True, text=True, encoding="utf-8", timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed(pattern):
    """The numbers of the one line of finding.py's output that has this pattern, behind it."""
    (line,) = (line for line in run_finding().splitlines() if re.search(pattern, line))
    return [float(n) for n in NUMBER.findall(re.split(pattern, line, maxsplit=1)[1])]


def test_the_finding_is_what_the_script_says_it_is():
    """Each claim of docs/finding.py's comments, checked against the numbers that it prints."""
    assert re.search(r"^heads above 0\.05: 3\.0 3\.1 3\.2 3\.3 4\.0 4\.1 4\.2 4\.3$", run_finding(), re.M)
    (margin,) = printed("largest of the rest:")
    assert margin < 0.05
    assert printed("last position gains it in layers") == [3, 4]
    assert printed("any other position:")[0] < 0.01
    assert min(printed("the last position to the surname, those heads:")) > 0.7
    assert printed("layers 0 and 1, at most:")[0] < 0.1
    shares = {site: printed(f"^{site} .*add up to")[0] for site in ("v", "k", "q", "pattern")}
    assert shares.pop("v") > 0.9 and max(map(abs, shares.values())) < 0.01
    assert min(printed("the 8 heads, last position")) > 0.9  # nearly enough, nearly all that is needed
    assert max(printed("the 16 other heads, last position")) < 0.1
    assert max(map(abs, printed("the 8 heads, the position before"))) < 0.01
    assert printed("all heads, last position") == [1, 1]
    at_depth = run_finding().partition("from the embedding up:")[2].splitlines()[0].split()
    assert [label == "\N{OPEN BOX}Jones" for label in at_depth] == 4 * [False] + 3 * [True]  # from layer 3 on
    (total,), (these, other), (_, last_mlp, others) = (
        printed("clean minus corrupted,"), printed("^  the 8 heads"), printed("^  the MLP of")
    )  # fmt: skip
    assert abs(these + other + last_mlp + others - total) < 0.05  # biases and embeddings are the same in both runs
    assert these > 10 * abs(other) and last_mlp > 10 * abs(others)
    assert max(printed("to the surname if it is Jessica's:")) < 0.1
    notes = printed("attn_out at the surname, by layer:")
    assert notes[1] > 0.9 and max(map(abs, notes[:1] + notes[2:])) < 0.05
    written, back = printed("z at the surname, layer 1 by head:"), printed("their attention to the name before:")
    assert [share > 0.1 for share in written] == [share > 0.9 for share in back] == [True, True, False, True]
    assert all(0.2 < share < 0.6 for share in printed("k at the surname, layer 3 by head:"))
    assert printed("other pairs; in") == [60]
    assert (
        printed("^the 8 heads: ")[1] > 0.8 and printed("^as many random ones:")[2] < 0.2
    )  # lowest of these, highest of others


def test_numbers_in_the_comments_of_the_finding_are_printed():
    comments = "\n".join(line for line in FINDING.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    shown = {digits(n) for n in NUMBER.findall(run_finding())}
    unprinted = {n for n in map(digits, NUMBER.findall(prose(comments))) if len(n) > 1} - shown
    assert not unprinted, f"the comments say {', '.join(sorted(unprinted))}, and the output does not"


def rewrite(page):
    """Put what the code prints now into the text blocks of a page."""
    text, outputs = page.read_text(encoding="utf-8"), run_page(page)
    for (_, _, _, said), printed in reversed(list(zip(blocks(text), outputs, strict=True))):
        if said:
            lines = "".join(line.rstrip() + "\n" for line in printed.splitlines())
            text = text[: said.start(2)] + lines + text[said.end(2) :]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]] or DOCS:
        rewrite(page)
