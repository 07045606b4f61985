"""The tables of a report beside its maps: the likeliest next tokens, and both runs from inside.

All that came from a text or a token passes escaped().
"""

import re

from ..explain.numbers import probability
from .maps import escaped

TOP = 20  # rows of a table of next tokens


def next_tokens(both, level):
    """The likeliest next tokens of both texts side by side, with the answers, wherever they rank."""
    lines = [f"<h{level}>The next token, before any patch</h{level}>", '<div class="tables">']
    answers = both.tokens.answers
    for name, rows in zip(("clean", "corrupted"), both.likeliest(TOP)):
        lines.append(f'<table class="next"><caption>After the <b>{name}</b> text</caption><thead><tr>')
        lines.append("".join(f'<th scope="col">{head}</th>' for head in ("Rank", "Token", "Id", "Probability")))
        lines.append("</tr></thead><tbody>")
        for rank, token, text, p in rows:
            kind = ' class="answer"' if token in answers else ""
            which = f" <i>{('clean', 'corrupted')[answers.index(token)]} answer</i>" if kind else ""
            bar = f'<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true"><rect width="{100 * p:.2f}" height="1"/></svg>'
            lines.append(f"<tr{kind}><td>{rank}</td><td><bdi>{escaped(text)}</bdi>{which}</td>")
            lines.append(f"<td>{token}</td><td>{probability(p)}{bar}</td></tr>")
        lines.append("</tbody></table>")
    return [*lines, "</div>"]


def inside(views):
    """The views of both runs (explain/views.py), each with its conclusions and its tables."""
    lines = []
    for view in views:
        lines += ["<section>", f"<h2>{escaped(view.heading)}</h2>", "<ul>"]
        lines += [f"<li>{escaped(text).replace(' %', '&nbsp;%')}</li>" for text in view.conclusions()]
        lines += ["</ul>", '<div class="tables">', *(table(*parts) for parts in view.tables()), "</div>", "</section>"]
    return lines


def table(title, head, rows):
    """A table whose columns of numbers stand to the right."""
    kinds = [
        ' class="number"' if all(re.fullmatch(r"[+-]?[\d.]+", cell) for cell in column) else "" for column in zip(*rows)
    ]
    lines = [f'<table class="inside"><caption><bdi>{escaped(title)}</bdi></caption><thead><tr>']
    lines += [f'<th scope="col"{kind}><bdi>{escaped(name)}</bdi></th>' for name, kind in zip(head, kinds)]
    lines.append("</tr></thead><tbody>")
    for first, *others in rows:
        lines.append(f'<tr><th scope="row"><bdi>{escaped(first)}</bdi></th>')
        lines += [f"<td{kind}><bdi>{escaped(cell)}</bdi></td>" for cell, kind in zip(others, kinds[1:])]
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody></table>"])
