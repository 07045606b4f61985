"""A report to keep: results as one HTML page that needs nothing else, neither network nor script.

In order: the two texts, the maps (maps.py), what they mean, the likeliest next tokens and the views of both runs from
inside (tables.py), and how to make it again. The style is report.css. report.js only makes the maps pleasant: it
shows what a cell says while the pointer or the keyboard is on it. A page's Content-Security-Policy names the hashes of
these two and allows nothing else, and all that came from a text or a token passes escaped(). What is too large for a page
is cut and says so; the whole result is what --save keeps.
"""

import base64
import hashlib
import time
from dataclasses import replace
from importlib import metadata, resources
from itertools import groupby

import numpy as np

from minigpt2.atomic import replacing
from minigpt2.terminal import known_as

from .. import save
from ..draw.panels import common_scale, cut_words, panels
from ..explain.conclusions import tell
from ..explain.findings import agreement
from ..explain.labels import ranges
from ..sites import SITES
from . import maps
from .maps import escaped
from .tables import inside, next_tokens

MOST_CELLS, MOST_TOKENS = 3000, 300  # of a page, of a text


def write_page(path, results, titles, *, both, command, views=()):
    """Write results, with a title for each where there are several, as one HTML file, in one move.

    A sweep and its attribution, in this order, stand side by side. both has the BothRuns of every pair of the results;
    command is what a reader types to make them again; views are those of explain/views.py. Raises OSError where the file
    cannot be written.
    """
    text = page(results, titles, both, command, views)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


# The page


def page(results, titles, both, command, views):
    scale, most = common_scale([finite(r) for r in results]), MOST_CELLS // len(results)
    pairs = [list(group) for _, group in groupby(zip(results, titles), key=lambda entry: entry[0].tokens)]
    level, lines, runs = 2 + (len(pairs) > 1), [], {each.tokens: each for each in both}
    for group in pairs:
        some, names = zip(*group)
        lines += ["<section>", *([f"<h2>{escaped(names[0])}</h2>"] if len(pairs) > 1 else [])]
        lines += [*texts(some[0], level), *maps_of_pair(some, names, scale, most * len(some), level)]
        lines += [*next_tokens(runs[some[0].tokens], level), "</section>"]
    body = "\n".join([*lines, *inside(views), *reproduction(results, both[0].model, command)])
    style, script = "\n".join([asset("report.css"), *maps.rules(body)]), asset("report.js")
    policy = f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; img-src data:"
    sites = ", ".join(dict.fromkeys(r.site for r in results))
    title = escaped(f"Activation patching of {sites} in {known_as(results[0].model)}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{method(results)}
</header>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def method(results):
    """What was done, as a paragraph."""
    r, sites = results[0], list(dict.fromkeys(r.site for r in results))
    what = " or ".join(f"<code>{escaped(site)}</code> ({SITES[site].words.format('a')})" for site in sites)
    units = " or ".join(f"<b><bdi>{escaped(unit)}</bdi></b>" for unit in dict.fromkeys(r.unit for r in results))
    blend = f", blended in with alpha = {r.alpha:g}" if r.alpha != 1 else ""
    return (
        f"<p>Every cell of a map is an experiment of its own. The model runs on the {r.base} text, but in one place, {what}, "
        f"it is given what its run on the {r.target} text has there{blend}. The cell shows {units} at the end of that run: the "
        "further it moves, the more of what tells the two texts apart is in that place.</p>"
    )


def finite(result):
    """The result as the scale sees it: what is no number, as a user's metric may give, moves nothing."""
    return replace(result, values=np.where(np.isfinite(result.values), result.values, result.base_value))


def asset(name):
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def digest(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# What was compared


def texts(result, level):
    changed, n = result.tokens.differing, len(result.tokens.clean)
    near = set(sorted(range(n), key=lambda pos: min(abs(pos - c) for c in changed))[:MOST_TOKENS])
    lines = [f"<h{level}>The two texts</h{level}>", '<dl class="texts">']
    for i, name in enumerate(("clean", "corrupted")):
        ids, labels = result.tokens[i], (result.clean_labels, result.corrupted_labels)[i]
        value = (result.clean_value, result.corrupted_value)[i]
        lines.append(f"<dt>{name}</dt><dd><p>")
        for pos in sorted(near):
            gap, tag = "… " * (pos > 0 and pos - 1 not in near), "mark" if pos in changed else "span"
            token = f'<bdi title="{escaped(labels[pos])}, token {ids[pos]}">{escaped(maps.cut(labels[pos]))}</bdi>'
            lines.append(f"{gap}<{tag}>{token}<sub>{pos}</sub></{tag}>")
        answer = f"The {name} answer is <b><bdi>{escaped(result.answer_labels[i])}</bdi></b>."
        lines.append(f"{'…' * (n - 1 not in near)}</p><p>{answer}")
        lines.append(f"<bdi>{escaped(result.unit)}</bdi> is <b>{value:.4g}</b>.</p></dd>")
    some = f" Of the {n} tokens, the {len(near)} nearest to a change are shown." if len(near) < n else ""
    lines.append("</dl>")
    return [*lines, f'<p class="note">Marked are the tokens that differ; below each token is its position.{some}</p>']


# What came out


def maps_of_pair(results, names, scale, most, level):
    """The maps of one pair of texts, and what they mean."""
    twins = [r.method for r in results] == ["patching", "attribution"] and results[0].axes == results[1].axes
    drawn = [(panel, name) for r, name in zip(results[: 1 if twins else None], names) for panel in panels(r)]
    compared, figures = agreement(*results) if twins else None, []
    n = len(drawn) * (1 + twins)
    for panel, name in drawn:
        grid = maps.Grid(panel, most // len(drawn) // (1 + twins))
        for result, own in zip(results, names) if twins else [(panel.result, name)]:
            title = ", ".join(part for part in (own or result.site, panel.title) if part)
            figures.append(
                maps.table(grid, result, results if twins else [result], scale, title, compared and compared.worst, n)
            )
    kind = " twins" * twins + " many" * (len(figures) > 2)
    lines = [f'<div class="finding"><div class="maps"><h{level}>The map{"s" * (len(figures) > 1)}</h{level}>']
    lines += maps.legend([finite(r) for r in results], scale)
    if cut := cut_words(results[0]):
        lines.append(f'<p class="note">Shown are {cut}; --save keeps all.</p>')
    lines += [f'<div class="panels{kind}">', *figures]
    lines += [f'</div></div><div class="meaning"><h{level}>What it means</h{level}><div class="told">']
    for i, (result, name) in enumerate(zip(results, names)):
        meaning = ["<ul>", *(f"<li>{escaped(text).replace(' %', '&nbsp;%')}</li>" for text in tell(result)), "</ul>"]
        if twins and i:
            meaning = ["<details><summary>What the estimate alone would say</summary>", *meaning, "</details>"]
            meaning.insert(0, f"<p>The estimate against the exact map: {escaped(compared.words())} (outlined).</p>")
        elif len(results) > 1 and not twins:
            meaning.insert(0, f"<h{level + 1}>{escaped(name)}</h{level + 1}>")
        lines += ["<div>", *meaning, "</div>"]
    return [*lines, "</div></div></div>"]


# How to make it again


def reproduction(results, model, command):
    r, now = results[0], time.gmtime()
    try:
        own = metadata.version("minigpt2")
    except metadata.PackageNotFoundError:
        own = "(a checkout, not installed)"

    def every(name):
        return ", ".join(dict.fromkeys(str(getattr(result, name)) for result in results))

    chosen = {axis: ranges(indices) for axis, indices in r.axes.items()}
    rows = {"Model": f"{r.model}: {model!r}", "Revision": r.revision or "none: it was not loaded by a revision"}
    rows |= {name.capitalize(): every(name) for name in ("site", "direction", "metric", "unit", "method")}
    rows |= {"Alpha": f"{r.alpha:g}"}
    rows |= {f"{axis}s".capitalize(): indices for axis, indices in chosen.items()}
    rows |= {"Versions": ", ".join(f"{name} {v}" for name, v in ({"minigpt2": own} | save.versions()).items())}
    lines = [
        "<section>",
        "<h2>How to make this again</h2>",
        f"<pre><code>{escaped(command)}</code></pre>",
        '<dl class="facts">',
    ]
    lines += [f"<dt>{escaped(name)}</dt><dd><bdi>{escaped(value)}</bdi></dd>" for name, value in rows.items()]
    date, minute = time.strftime("%Y-%m-%d", now), time.strftime("%H:%M", now)
    made = f'<time datetime="{date}T{minute}Z">{date} {minute} UTC</time>'
    return [*lines, f"<dt>Made</dt><dd>{made}</dd></dl>", "</section>"]
