"""The HTML report: what it says, that nothing in it can be harmful, and, in a real browser, what a reader sees of it.

The first part parses the pages; the second needs a Chromium on the PATH and is skipped, with that reason, without one.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import browser as chromium
import numpy as np
import pytest
from matplotlib.colors import CenteredNorm, to_hex
from models import random_model

from minigpt2 import GPT2, Config
from minigpt2.pictures.style import SIGNED
from patching import METRICS, PromptPair, Result, attribute, sweep
from patching.demo.experiments import EXPERIMENTS
from patching.draw.panels import panels
from patching.explain.both_runs import BothRuns
from patching.explain.conclusions import tell
from patching.explain.findings import agreement
from patching.explain.views import VIEWS
from patching.page import maps, report
from patching.prompts import PairTokens

ROOT = Path(__file__).resolve().parent.parent
PAIR = EXPERIMENTS["surname"].pair
COMMAND = "python -m patching.demo --model bundled --report x.html"
VOID = {"meta", "link", "input", "br"}
DIGITS = 5.1e-6  # a cell's title has six significant digits
HOSTILE = [
    "<script>hacked()</script>", "</style><img src=x onerror=hacked()>", "\"'><svg onload=hacked()>", "]]>", "-->",
    "</title>", "\u202eevil\u202c", "a\u200fb", "\x00\x1b[31m", "\ud800", "&lt;b&gt;", ": 9 (restores 9 % of the gap)",
    "javascript:hacked()", " class=\"cb2182b", "שלום",
]  # fmt: skip


@pytest.fixture(scope="module")
def bundled():
    return GPT2.from_pretrained("bundled")


class Page(HTMLParser):
    """The elements of a page: tags with their attributes and text, tables as cells. Raises where tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.tables = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes), f"{tag} has an attribute twice"
        element = {"tag": tag, "text": "", "inside": [e["tag"] for e in self.open], **dict(attributes)}
        self.elements.append(element)
        if tag == "table":
            self.tables.append({"rows": [], "class": element.get("class")})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append(element)
        elif tag == "caption":
            self.tables[-1]["caption"] = element
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "inside": [], **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()["tag"] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    @property
    def maps(self):
        return [table for table in self.tables if table["class"] not in ("next", "inside")]


def made(tmp_path, results, titles=None, model=None, command=COMMAND, name="x.html", views=()):
    """The page of some results, as its path, its text and parsed."""
    results = results if isinstance(results, list) else [results]
    path = tmp_path / name
    both = [BothRuns(model, tokens) for tokens in {r.tokens for r in results}]
    report.write_page(path, results, titles or [""] * len(results), both=both, command=command, views=views)
    text = path.read_bytes().decode("utf-8")
    return path, text, Page(text)


def cells(table):
    """Every cell of a map: (its place by axis, the numbers told of it, the element)."""
    for row in table["rows"][1:]:
        for cell in row[1:]:
            where, told = cell["title"].rsplit(": ", 1)
            place = {
                axis: int(i) for axis, i in re.findall(r"(?:^|, )(layer|head|position|source) \u2068?(\d+)", where)
            }
            numbers = re.findall(
                r"(-?[\d.]+(?:e[-+]\d+)?)(?: \((?:restores|destroys) (-?[\d.]+) % of the gap\))?", told
            )
            yield place, [tuple(map(float, filter(None, pair))) for pair in numbers], cell


def value_at(result, place):
    return result.values[tuple(result.axes[axis].index(place[axis]) for axis in result.axes)]


# What it says

CHOICES = [
    ("resid_post", {}),
    ("resid_pre", {"direction": "noising"}),
    ("mlp_out", {"positions": "all"}),
    ("attn_out", {"layers": [4, 1], "positions": [10, 1, 3], "alpha": 0.5}),
    ("z", {}),
    ("z", {"positions": "all", "direction": "noising"}),
    ("pattern_entry", {"layers": [0, 3], "heads": [2, 0]}),
    *(("resid_mid", {"metric": metric}) for metric in METRICS),
]


@pytest.mark.parametrize(("site", "choices"), CHOICES, ids=str)
def test_every_cell_has_its_number_share_and_colour(bundled, tmp_path, site, choices):
    result = sweep(bundled, PAIR, site, **choices)
    _, _, page = made(tmp_path, result, model=bundled)
    half = max(np.abs(result.values - result.base_value).max(), abs(result.target_value - result.base_value) / 20)
    norm, seen = CenteredNorm(result.base_value, half), set()
    for table in page.maps:
        head = [cell["text"] for cell in table["rows"][0]]
        for place, [(value, share)], cell in cells(table):
            exact = value_at(result, place)
            assert abs(value - exact) <= DIGITS * abs(exact)
            assert abs(share / 100 - (exact - result.base_value) / (result.target_value - result.base_value)) < 5.1e-4
            assert cell["class"] == "c" + to_hex(SIGNED(norm(exact)))[1:]
            assert abs(float(cell["text"]) - exact) <= half / 15  # what is visible has two or three digits
            seen.add(tuple(place.items()))
            assert len(place) == len(result.axes)
        assert all(cell.get("scope") == "col" for cell in table["rows"][0]) and table["caption"]["text"]
        assert all(row[0]["scope"] == "row" and len(row) == len(head) for row in table["rows"][1:])
        if len(result.axes) == 2:  # the headings of a row and a column are the cell's place
            down, across = result.axes
            row = table["rows"][2]
            for name, cell in zip(head[1:], row[1:]):
                place = next(place for place, _, one in cells(table) if one is cell)
                assert name.endswith(str(place[across])) and row[0]["text"] == str(place[down])
    assert len(seen) == result.values.size
    verb = "restores" if result.direction == "denoising" else "destroys"
    assert all(f"({verb} " in cell["title"] for table in page.maps for _, _, cell in cells(table))
    items = [item["text"].replace("\xa0", " ") for item in page.all("li")]
    assert [text for text in tell(result) if text not in items] == []


def test_both_texts_with_the_changed_token_marked(bundled, tmp_path):
    result = sweep(bundled, PAIR)
    _, text, page = made(tmp_path, result, model=bundled)
    marks = [e["text"] for e in page.all("mark")]
    assert marks == ["␣Jones1", "␣Smith1", "␣Jones → ␣Smith"]  # in each text, with its position, and in the map
    texts = [e for e in page.all("bdi") if "dd" in e["inside"] and "title" in e]
    assert [e["text"] for e in texts] == [*result.clean_labels, *result.corrupted_labels]
    ids = [int(e["title"].rsplit("token ", 1)[1]) for e in texts]
    assert ids == [*result.tokens.clean, *result.tokens.corrupted]
    assert f"is <b>{result.clean_value:.4g}</b>" in text and f"is <b>{result.corrupted_value:.4g}</b>" in text


def test_the_next_tokens_of_both_texts(bundled, tmp_path):
    result = sweep(bundled, PAIR)
    _, _, page = made(tmp_path, result, model=bundled)
    tables = [table for table in page.tables if table["class"] == "next"]
    assert [table["caption"]["text"] for table in tables] == ["After the clean text", "After the corrupted text"]
    for table, tokens in zip(tables, result.tokens[:2]):
        logits = bundled.run(tokens).logits[-1].astype(np.float64)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        order = np.argsort(-logits, kind="stable")
        rows = [[cell["text"] for cell in row] for row in table["rows"][1:]]
        assert [int(row[2]) for row in rows[:20]] == order[:20].tolist() and len(rows) in (20, 21, 22)
        for rank, token, number, chance in rows:
            assert order[int(rank) - 1] == int(number) and token.startswith(bundled.tokenizer.visible(int(number)))
            assert abs(float(chance) - p[int(number)]) < max(5.1e-5, 0.051 * p[int(number)])
        answers = {int(row[2]): row[1] for row in rows if "answer" in row[1]}
        assert set(answers) == set(result.tokens.answers)
        assert "clean answer" in answers[result.tokens.answers[0]]


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_attribution_stands_beside_the_exact_map(bundled, tmp_path, site):
    exact, estimate = sweep(bundled, PAIR, site), attribute(bundled, PAIR, site)
    _, text, page = made(tmp_path, [exact, estimate], ["exact", "attribution"], model=bundled)
    compared = agreement(exact, estimate)
    assert compared.words() in text and f"{compared.correlation:.3f}" in text and page.all("details")
    outlined = []
    assert [t["caption"]["text"].split()[0].strip(",") for t in page.maps[:2]] == ["exact", "attribution"]
    for table in page.maps:
        shown = estimate if table["caption"]["text"].startswith("attribution") else exact
        for place, [(one, _), (other, _)], cell in cells(table):
            assert abs(one - value_at(exact, place)) <= DIGITS * abs(one)
            assert abs(other - value_at(estimate, place)) <= DIGITS * abs(other)
            assert abs(float(cell["text"]) - value_at(shown, place)) < 0.051
            outlined += [place] * ("worst" in cell["class"])
    assert len(outlined) == 2 and outlined[0] == outlined[1]
    assert outlined[0] == compared.worst


def test_several_results(bundled, tmp_path):
    sites = ["resid_post", "attn_out", "mlp_out"]
    _, _, page = made(tmp_path, [sweep(bundled, PAIR, site) for site in sites], sites, model=bundled)
    assert [t["caption"]["text"].split()[0] for t in page.maps] == sites and len(page.tables) == 5
    every = [sweep(bundled, experiment.pair) for experiment in EXPERIMENTS.values()]
    _, _, page = made(tmp_path, every, list(EXPERIMENTS), model=bundled)
    assert [e["text"] for e in page.all("h2")] == [*EXPERIMENTS, "How to make this again"]
    assert len(page.maps) == 4 and len(page.tables) == 12
    for table, result in zip(page.maps, every):  # on one scale: as changes, the titles with the values
        for place, [(value, _)], cell in cells(table):
            assert abs(value - value_at(result, place)) <= DIGITS * abs(value)
            assert abs(float(cell["text"]) - (value_at(result, place) - result.base_value)) < 0.051


def views_of(model):
    both = BothRuns(model, PAIR.tokens(model), keep=["z", "mlp_out"])
    return [view(both) for view in VIEWS]


def test_the_views_from_inside_are_tables_of_the_page(bundled, tmp_path):
    views = views_of(bundled)
    _, _, page = made(tmp_path, sweep(bundled, PAIR), model=bundled, views=views)
    found = [table for table in page.tables if table["class"] == "inside"]
    wanted = [table for view in views for table in view.tables()]
    assert len(found) == len(wanted) == 3
    for table, (title, head, rows) in zip(found, wanted):
        assert table["caption"]["text"] == title
        assert [[cell["text"] for cell in row] for row in table["rows"]] == [head, *rows]
        assert all(cell["scope"] == "col" for cell in table["rows"][0])
        assert all(row[0]["scope"] == "row" for row in table["rows"][1:])
    items, headings = ([e["text"].replace("\xa0", " ") for e in page.all(tag)] for tag in ("li", "h2"))
    assert [text for view in views for text in view.conclusions() if text not in items] == []
    assert [view.heading for view in views] == headings[-3:-1]


def test_nothing_of_a_view_is_markup(bundled, tmp_path):
    class Hostile:
        heading = HOSTILE[0]

        def tables(self):
            yield HOSTILE[1], HOSTILE[:3], [HOSTILE[3:6], HOSTILE[6:9], ["a", "\x1b", "1"]]

        def conclusions(self):
            return HOSTILE

    _, text, page = made(tmp_path, sweep(bundled, PAIR), model=bundled, views=[Hostile()])
    _, _, tame = made(tmp_path, sweep(bundled, PAIR), model=bundled, name="tame.html")
    for tag in ("script", "style", "title", "meta", "img", "svg", "figure", "input"):
        assert len(page.all(tag)) == len(tame.all(tag)), tag
    assert not any(c for c in text if not c.isprintable() and c not in "\n\u2068\u2069")


def test_the_answer_is_not_said_to_be_the_models(bundled, tmp_path):
    pair = PromptPair("The capital of France is", "The capital of Italy is", PAIR.answers)
    _, text, _ = made(tmp_path, sweep(bundled, pair), model=bundled)
    assert "Its answer" not in text and "The corrupted answer is <b><bdi>␣Smith" in text


@pytest.mark.parametrize("titles", [["run 2"], [""]])
def test_a_number_in_a_title_is_no_head(bundled, titles):
    result = sweep(bundled, PAIR, "z")
    for head, panel in enumerate(panels(result, titles[0])):
        assert np.array_equal(maps.Grid(panel, 3000).values(result), result.values[:, head])


def test_heads_that_are_left_out_are_counted(bundled, tmp_path):
    _, text, page = made(tmp_path, sweep(bundled, PAIR, "pattern_entry"), model=bundled)
    assert len(page.maps) == 12 and "Shown are the 12 of 24 heads with the largest changes" in text
    assert "heads with the largest" not in made(tmp_path, sweep(bundled, PAIR, "z"), model=bundled)[1]


def test_how_to_make_it_again(bundled, tmp_path):
    command = "python -m patching.demo --clean 'a <b> & \"c\"\nd' --report x.html"
    result = replace(sweep(bundled, PAIR, layers=[0, 1, 2, 5], alpha=0.5, direction="noising"), revision="607a30d")
    _, _, page = made(tmp_path, result, model=bundled, command=command)
    assert [e["text"] for e in page.all("code") if "pre" in e["inside"]] == [command]
    facts = dict(zip(*([e["text"] for e in page.all(tag) if "dl" in e["inside"]][-13:] for tag in ("dt", "dd"))))
    assert "6 layers" in facts["Model"] and facts["Revision"] == "607a30d"
    assert (facts["Direction"], facts["Metric"], facts["Alpha"]) == ("noising", "logit_difference", "0.5")
    assert facts["Layers"] == "0 to 2 and 5" and facts["Positions"] == "0 to 10" and facts["Site"] == "resid_post"
    assert all(name in facts["Versions"] for name in ("minigpt2 ", f"numpy {np.__version__}", "python 3."))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["Made"])


def test_values_that_are_no_numbers(bundled, tmp_path):
    result = sweep(bundled, PAIR)
    values = result.values.copy()
    values[0, 0], values[1, 1] = np.nan, np.inf
    _, _, page = made(tmp_path, replace(result, values=values), model=bundled)
    table = page.maps[0]["rows"]
    assert (table[1][1]["text"], table[1][1]["class"], table[2][2]["text"]) == ("nan", "unknown", "inf")
    assert table[1][2]["class"] == "c053061"
    no_gap = replace(result, corrupted_value=result.clean_value)
    _, _, page = made(tmp_path, no_gap, model=bundled)
    assert not any("gap" in cell["title"] for _, _, cell in cells(page.maps[0]))


# That it is whole, harmless and small


def hostile_result(result):
    """A result every label of which is dangerous, and a model with such a vocabulary and name."""
    n = len(result.clean_labels)
    labels = tuple((HOSTILE * n)[:n])
    more = {"answer_labels": (HOSTILE[0], HOSTILE[1]), "unit": f"logit({HOSTILE[0]})", "model": HOSTILE[1]}
    return replace(result, clean_labels=labels, corrupted_labels=labels[1:] + labels[:1], revision=HOSTILE[2], **more)


def hostile_model(bundled):
    model = GPT2(bundled.config, bundled.weights, name=HOSTILE[0])
    model.labels = lambda tokens: [HOSTILE[token % len(HOSTILE)] for token in tokens]
    return model


@pytest.mark.parametrize("site", ["resid_post", "pattern_entry"])
def test_nothing_of_a_token_is_markup(bundled, tmp_path, site):
    plain = sweep(bundled, PAIR, site)
    results = [hostile_result(plain)] * 2
    _, text, page = made(tmp_path, results, [HOSTILE[0], HOSTILE[1]], hostile_model(bundled), f"x '{HOSTILE[0]}'")
    _, _, tame = made(tmp_path, [plain] * 2, ["a", "b"], model=bundled, name="tame.html")
    for tag in ("script", "style", "td", "th", "table", "title", "meta", "img", "svg", "figure", "input"):
        assert len(page.all(tag)) == len(tame.all(tag)), tag
    assert not any(c for c in text if not c.isprintable() and c not in "\n\u2068\u2069")
    assert HOSTILE[0] in page.all("h1")[0]["text"] + page.all("code")[-1]["text"]
    for table in page.maps:
        for place, [(value, _)], _ in cells(table):
            assert abs(value - value_at(plain, place)) <= DIGITS * abs(value)


def test_nothing_is_loaded_and_nothing_foreign_can_run(bundled, tmp_path):
    _, text, page = made(tmp_path, sweep(bundled, PAIR), model=bundled, command="see https://example.org/x.js")
    for element in page.elements:
        names = set(element) - {"tag", "text", "inside"}
        assert not [name for name in names if name.startswith("on") or name in ("style", "srcset", "action", "data")]
        assert element.get("src") is None and element.get("href") in (None, "data:,")
    (style,), (script,) = page.all("style"), page.all("script")
    assert not re.search(r"url\(|@import|https?:", style["text"]) and "http" not in script["text"]
    policy = next(e["content"] for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for name, element in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(element["text"].encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert text.index("Content-Security-Policy") < text.index("<style>") and set(rules) == {
        "default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"
    }  # fmt: skip
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">') and page.all("title")[0]["text"]


def test_the_ink_can_be_read_on_every_colour():
    def light(colour):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for level in range(257):
        colour = to_hex(SIGNED(level))
        hexes = maps.ink(colour[1:]).lstrip("#")
        ink = [int(h, 16) / 255 for h in (re.findall("..", hexes) if len(hexes) == 6 else [c * 2 for c in hexes])]
        low, high = sorted((light(SIGNED(level)[:3]), light(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def large(axes, n_seq):
    """A result of random numbers with these axes, its tokens those of a model with 11 tokens."""
    rng = np.random.default_rng(0)
    shape, clean = [len(chosen) for chosen in axes.values()], rng.integers(0, 11, n_seq).tolist()
    corrupted = [*clean[:-5], (clean[-5] + 1) % 11, *clean[-4:]]
    labels = tuple(map(str, clean)), tuple(map(str, corrupted))
    site = ("mlp_out", "resid_post", "z", "pattern_entry")[len(axes) - 1]
    tokens = PairTokens(tuple(clean), tuple(corrupted), (1, 2))
    return Result(
        rng.normal(size=shape), 2.0, -2.0, axes, site, "denoising", "logit_difference", "logit(2) - logit(1)", 1.0,
        tokens, *labels, ("1", "2"), "seeded",
    )  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [
        {"layer": 48, "position": 1024},
        {"layer": 48, "head": 25, "position": 1024},
        {"layer": 4, "head": 4, "position": 400, "source": 400},
        {"layer": 300},
    ],
    ids=str,
)
def test_a_large_result_is_cut_and_says_so(tmp_path, sizes):
    model = random_model(Config(n_layer=1, n_head=1, n_embd=8, n_ctx=1024, n_vocab=11, d_mlp=8))
    result = large({axis: list(range(n)) for axis, n in sizes.items()}, sizes.get("position", 9))
    path, text, page = made(tmp_path, result, model=model)
    assert path.stat().st_size < 700_000
    shown = [place for table in page.maps for place, _, _ in cells(table)]
    assert len(shown) <= report.MOST_CELLS
    if len(sizes) > 1:
        assert all("with the largest changes (--save keeps all)" in table["caption"]["text"] for table in page.maps)
        assert "nearest to a change are shown" in text
        most = np.unravel_index(np.abs(result.values - result.base_value).argmax(), result.values.shape)
        assert dict(zip(result.axes, map(int, most))) in shown  # the largest change is never cut
    else:
        assert len(shown) == 300


def test_an_interrupted_write_leaves_the_old_file(bundled, tmp_path, monkeypatch):
    result, whole = sweep(bundled, PAIR), Path.write_text
    path, text, _ = made(tmp_path, result, model=bundled)

    def interrupted(self, data, **options):
        whole(self, data[: len(data) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write_page(path, [result], [""], both=[BothRuns(bundled, result.tokens)], command="another")
    assert path.read_text(encoding="utf-8") == text and [p.name for p in tmp_path.iterdir()] == ["x.html"]


def test_the_command_writes_it(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    args = ["--model", "bundled", "--out", "x.png", "--report", "x.html", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "patching.demo", *args],
        check=False, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "x.png\nx.html\n", "")
    page = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    assert [e["text"] for e in page.all("code") if "pre" in e["inside"]] == [
        f"python -m patching.demo {' '.join(args)}"
    ]
    result = sweep(GPT2.from_pretrained("bundled"), PAIR)
    assert all(abs(v - value_at(result, place)) <= DIGITS * abs(v) for place, [(v, _)], _ in cells(page.maps[0]))


# In a browser


@pytest.fixture(scope="module")
def browser():
    if chromium.find() is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    with chromium.Browser() as browser:
        try:
            browser.call("Browser.getVersion")
        except (OSError, RuntimeError) as error:
            pytest.skip(f"{chromium.find()} does not start: {error}")
        yield browser


READOUT = "document.querySelector('.readout').innerText.replace(/\\s+/g, ' ').trim()"
FOCUSED = "document.activeElement.tagName + ' ' + document.activeElement.getAttribute('aria-label')"
CONTRASTS = """(() => {
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const paper = (e) => { const c = numbers(getComputedStyle(e).backgroundColor);
    return c[3] === 0 ? (e.parentElement ? paper(e.parentElement) : [255, 255, 255]) : c; };
  return [...document.querySelectorAll("h1, p, li, dt, dd, th, td, mark, caption, bdi, sub, i, b, code, summary, .readout")]
    .map((e) => { const [a, b] = [light(numbers(getComputedStyle(e).color)), light(paper(e))].sort();
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; })
    .filter(([contrast]) => contrast < 4.5);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_renders_at_every_width(browser, bundled, tmp_path, width, scheme):
    results = [sweep(bundled, PAIR), attribute(bundled, PAIR)]
    path, _, page = made(tmp_path, results, ["exact", "attribution"], model=bundled, views=views_of(bundled))
    tab = browser.open(path.as_uri(), width=width, scheme=scheme)
    assert tab.run("document.documentElement.scrollWidth") <= width  # only the maps scroll sideways
    assert tab.run("document.querySelectorAll('td').length") == len(page.all("td"))
    assert tab.run(CONTRASTS) == []
    assert len(tab.screenshot()) > 20_000 and tab.problems == []
    colours = tab.run("[...document.querySelectorAll('figure td')].map((e) => getComputedStyle(e).backgroundColor)")
    wanted = [cell["class"].split()[0] for table in page.maps for _, _, cell in cells(table)]
    assert ["c%02x%02x%02x" % tuple(map(int, re.findall(r"\d+", colour))) for colour in colours] == wanted  # noqa: UP031


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_hovering_shows_the_numbers(browser, bundled, tmp_path, site):
    result = sweep(bundled, PAIR, site)
    path, _, page = made(tmp_path, result, model=bundled)
    tab = browser.open(path.as_uri())
    every = [cell for table in page.maps for cell in cells(table)]
    for number in (0, 12, 23, 45, len(every) - 1):
        tab.hover("figure td", number)
        place, [(value, share)], cell = every[number]
        shown = tab.run(READOUT)
        assert shown == " ".join(cell["title"].rsplit(": ", 1)) and f" {value:.6g} (restores {share:.1f} %" in shown
        assert all(f"{axis} {i}" in shown for axis, i in place.items())
        lit = tab.run("[...document.querySelectorAll('th.on')].map((e) => e.innerText.replace(/\\s+/g, ' '))")
        assert str(place["layer"]) in lit and any(text.endswith(str(place["position"])) for text in lit)
    tab.hover("h1")
    assert tab.run(READOUT).startswith("Point at a cell") and tab.problems == []


def test_the_keyboard_goes_everywhere(browser, bundled, tmp_path):
    result = sweep(bundled, PAIR)
    path, _, page = made(tmp_path, result, model=bundled)
    tab = browser.open(path.as_uri(), width=360, height=420)
    titles = [[cell["title"] for cell in row[1:]] for row in page.maps[0]["rows"][1:]]
    for _ in range(10):
        tab.press("Tab")
        if tab.run(FOCUSED).startswith("TD"):
            break
    steps = [
        (None, 0, 0), ("ArrowRight", 0, 1), ("ArrowDown", 1, 1), ("ArrowDown", 2, 1), ("ArrowUp", 1, 1), ("End", 1, 10),
        ("ArrowRight", 1, 10), ("PageDown", 5, 10), ("ArrowDown", 5, 10), ("Home", 5, 0), ("ArrowLeft", 5, 0),
        ("PageUp", 0, 0), ("^End", 5, 10), ("^Home", 0, 0),
    ]  # fmt: skip
    for key, row, column in steps:
        if key:
            tab.press(key.lstrip("^"), ctrl=key.startswith("^"))
        assert tab.run(FOCUSED) == f"TD {titles[row][column]}", key
        assert tab.run(READOUT) == " ".join(titles[row][column].rsplit(": ", 1))
    box = "(() => { const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e);"
    box += "const below = Math.min(innerHeight, document.querySelector('.readout').getBoundingClientRect().top);"
    box += "return [r.left >= 0 && r.right <= innerWidth && r.bottom <= below, parseFloat(s.outlineWidth) >= 2]; })()"
    tab.press("End", ctrl=True)
    assert tab.run(box) == [True, True]  # the focus is in view, and visible
    assert tab.run("document.querySelectorAll('figure [tabindex=\"0\"]').length") == 1  # one stop of Tab
    tab.press("Tab")
    assert not tab.run(FOCUSED).startswith("TD") and tab.run(READOUT).startswith("Point at") and tab.problems == []


def test_a_screen_reader_is_told_what_a_cell_is(browser, bundled, tmp_path):
    path, _, page = made(tmp_path, sweep(bundled, PAIR), model=bundled)
    tree = browser.open(path.as_uri()).call("Accessibility.getFullAXTree")["nodes"]
    roles = {}
    for node in tree:
        roles.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value"))
    assert roles["gridcell"] == [cell["title"] for _, _, cell in cells(page.maps[0])]
    assert roles["heading"][0] == page.all("h1")[0]["text"] and len(roles["columnheader"]) == 12 + 2 * 4
    assert {"main", "grid", "table", "rowheader", "definition", "time"} <= set(roles)


def test_a_resting_pointer_does_not_take_over_from_the_keyboard(browser, bundled, tmp_path):
    path, _, page = made(tmp_path, sweep(bundled, PAIR), model=bundled)
    tab = browser.open(path.as_uri(), height=420)
    titles = [cell["title"] for _, _, cell in cells(page.maps[0])]
    tab.click("figure td", 12)
    for _ in range(4):
        tab.press("ArrowDown")
    tab.run("scrollBy(0, 25)")
    tab.run("new Promise((resolve) => setTimeout(resolve, 300))")  # the browser's own events of a moved page
    assert tab.run(READOUT) == " ".join(titles[12 + 44].rsplit(": ", 1))


def test_the_twin_of_a_cell_lights_up(browser, bundled, tmp_path):
    results = [sweep(bundled, PAIR, "z"), attribute(bundled, PAIR, "z")]
    path, _, _ = made(tmp_path, results, ["exact", "attribution"], model=bundled)
    tab = browser.open(path.as_uri(), width=1400)
    number = 66 * 2 + 13  # in the exact map of the second head
    tab.hover("figure td", number)
    lit = tab.run(
        "[...document.querySelectorAll('figure td')].flatMap((e, i) => e.classList.contains('on') ? [i] : [])"
    )
    assert lit == [number, number + 66] and "exact" in tab.run(READOUT) and ", estimate" in tab.run(READOUT)
    assert tab.problems == []


@pytest.mark.parametrize("scripts", [True, False])
def test_dangerous_tokens_are_harmless(browser, bundled, tmp_path, scripts):
    result = hostile_result(sweep(bundled, PAIR))
    path, _, _ = made(tmp_path, [result] * 2, HOSTILE[:2], hostile_model(bundled), HOSTILE[0])
    tab = browser.open(path.as_uri(), scripts=scripts)
    assert tab.problems == [] and tab.run("document.scripts.length + document.images.length") == 1
    assert tab.run("document.querySelectorAll('[onload], [onerror], main svg:not(td svg)').length") == 0
    if scripts:
        for number in (0, 1, 3, 6):
            tab.hover("figure td", number)
            assert tab.run(READOUT).startswith("layer 0, position ") and "of the gap)" in tab.run(READOUT)
            assert tab.run("document.querySelector('.readout').querySelectorAll('*').length") == 2
        assert tab.problems == []


def test_without_scripts_everything_is_there(browser, bundled, tmp_path):
    result = sweep(bundled, PAIR)
    path, _, page = made(tmp_path, result, model=bundled)
    tab = browser.open(path.as_uri(), scripts=False)
    assert tab.run("document.querySelector('.readout')") is None
    titles = tab.run("[...document.querySelectorAll('figure td')].map((e) => e.title)")
    assert titles == [cell["title"] for _, _, cell in cells(page.maps[0])]
    visible = tab.run("[...document.querySelectorAll('figure td')].map((e) => e.innerText)")
    assert np.allclose(np.array(visible, float).reshape(result.values.shape), result.values, atol=0.051)
    assert tab.run("document.querySelector('.scroll').tabIndex") == 0 and tab.problems == []  # keys can scroll it


def test_on_paper_it_is_light_and_without_controls(browser, bundled, tmp_path):
    path, _, _ = made(tmp_path, sweep(bundled, PAIR), model=bundled)
    tab = browser.open(path.as_uri(), scheme="dark", media="print")
    assert tab.run("getComputedStyle(document.querySelector('.readout')).display") == "none"
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = base64.b64decode(tab.call("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF") and tab.problems == []


def test_a_wide_map_can_show_its_numbers(browser, bundled, tmp_path):
    middle = " ".join(["was a top-notch student and"] * 5)
    pair = PromptPair(f"Michelle Jones {middle} Michelle", f"Michelle Smith {middle} Michelle", PAIR.answers)
    path, _, _ = made(tmp_path, sweep(bundled, pair), model=bundled)
    tab = browser.open(path.as_uri(), width=800, scripts=False)
    size = "getComputedStyle(document.querySelector('figure td')).fontSize"
    assert tab.run(size) == "0px" and tab.run("document.documentElement.scrollWidth") <= 800
    tab.click("figure input")
    assert tab.run(size) != "0px" and tab.problems == []


def test_the_browser_tests_see_what_a_page_should_not_do(browser, tmp_path):
    """The test of the tests: each of these must be noticed, and the policy must stop what it is for."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline'\">"
    for name, page in {
        "message": "<script>console.log(1)</script>",
        "exception": "<script>nothing()</script>",
        "request": "<img src='file:///nowhere.png'>",
        "style": f"{policy}<p style='color: red'>",
        "fetch": f"{policy}<script>fetch('http://127.0.0.1:9/').catch(() => 0)</script>",
    }.items():
        path = tmp_path / f"{name}.html"
        path.write_text(f"<!DOCTYPE html><html><head>{page}</head></html>")
        tab = browser.open(path.as_uri())
        tab.run("new Promise((resolve) => setTimeout(resolve, 200))")
        assert tab.problems, name
        assert json.dumps(tab.problems)


def stretched(result, n_layer, n):
    """The result with other sizes: n_layer layers, and n heads if it has heads, else n tokens."""
    axes = dict.fromkeys(result.axes) | {"layer": list(range(n_layer))}
    n_seq = len(result.tokens.clean) if "head" in axes else n
    axes |= {"position": list(range(n_seq))} | ({"head": list(range(n))} if "head" in axes else {})
    random = np.random.default_rng(0).random([len(chosen) for chosen in axes.values()])
    gap = result.target_value - result.base_value
    longer = {name: (getattr(result, name) * n)[:n_seq] for name in ("clean_labels", "corrupted_labels")}
    clean, corrupted = ((tokens * n)[:n_seq] for tokens in result.tokens[:2])
    tokens = result.tokens._replace(clean=clean, corrupted=corrupted)
    return replace(result, values=result.base_value + gap * random**6, axes=axes, tokens=tokens, **longer)


def test_many_maps_stand_three_in_a_row(browser, bundled, tmp_path):
    """As the picture of 12 heads has 3 x 4, so that the conclusions below are not pages away."""
    result = stretched(sweep(bundled, PAIR, "z"), 12, 12)
    path, _, _ = made(tmp_path, [result], model=bundled)
    tab = browser.open(path.as_uri(), width=1300)
    tops = tab.run(
        "[...document.querySelectorAll('.panels figure')].map((e) => Math.round(e.getBoundingClientRect().bottom))"
    )
    assert len(tops) == 12 and sorted(map(tops.count, set(tops))) == [3, 3, 3, 3]
    assert tab.run("document.querySelector('.meaning').getBoundingClientRect().top") < 3000


LAST = """(() => { const box = document.querySelector('.scroll'), cell = box.querySelector('tbody td:last-child');
  const a = box.getBoundingClientRect(), b = cell.getBoundingClientRect();
  return [box.scrollWidth > box.clientWidth, b.right <= a.right + 1 && b.left >= a.left,
          Number(getComputedStyle(cell, '::before').opacity)]; })()"""


@pytest.mark.parametrize(
    ("width", "n", "scrolls"), [(400, 11, False), (400, 61, True), (1300, 61, False), (1300, 90, True)]
)
def test_the_last_position_stays_in_sight(browser, bundled, tmp_path, width, n, scrolls):
    """The answer comes from there; a line beside it is the sign that other columns pass beneath."""
    path, _, _ = made(tmp_path, [stretched(sweep(bundled, PAIR), 12, n)], model=bundled)
    tab = browser.open(path.as_uri(), width=width)
    assert tab.run(LAST) == [scrolls, True, float(scrolls)]
    tab.run("document.querySelector('.scroll').scrollLeft = 1e6")
    tab.screenshot()  # the line follows the scroll with the next frame
    assert tab.run(LAST) == [scrolls, True, 0.0]
    assert tab.problems == []


def test_each_token_of_a_change_is_isolated(bundled, tmp_path):
    """One <bdi> around "clean → corrupted" is set from the right as a whole where both are Hebrew, corrupted first."""
    result = sweep(bundled, PAIR)
    (pos,) = (i for i, (a, b) in enumerate(zip(*result.tokens[:2])) if a != b)
    labels = [list(result.clean_labels), list(result.corrupted_labels)]
    labels[0][pos], labels[1][pos] = "␣שלום", "␣ירושלים"
    result = replace(result, clean_labels=tuple(labels[0]), corrupted_labels=tuple(labels[1]))
    text = made(tmp_path, [result], model=bundled)[0].read_text(encoding="utf-8")
    assert f"<mark><bdi>␣שלום</bdi> → <bdi>␣ירושלים</bdi></mark> <b>{pos}</b>" in text
    assert f"position {pos} \u2068␣שלום\u2069 → \u2068␣ירושלים\u2069: " in text
