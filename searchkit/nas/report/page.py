"""The page of a report: plain data to one file of HTML that fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #fff; --faint: #767676; --line: #d8d8d8; --mark: #f3f6fa }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --back: #16181b; --faint: #9a9a9a; --line: #3a3d42; --mark: #22262c }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--back) }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
.lead { background: var(--mark); border-left: 4px solid #0072B2; padding: .6rem 1rem; margin: .6rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 7rem }
tr.best td { font-weight: 600; background: var(--mark) }
pre, code { font: .85rem/1.45 ui-monospace, monospace }
pre { overflow-x: auto; background: var(--mark); padding: .6rem }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } .plots svg { flex: 1 1 20rem; max-width: 100% }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; paint-order: stroke; stroke: var(--back);
  stroke-width: 3px } svg .frame { fill: none; stroke: var(--line) }
svg .grid { stroke: var(--line); stroke-width: .6 } svg .budget { stroke: var(--text); stroke-dasharray: 3 3 }
.images { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem }
@media (max-width: 40rem) { .images { grid-template-columns: repeat(2, 1fr) } }
.images img { width: 100%; display: block } figure { margin: 0 }
figcaption, .faint { font-size: .8rem; color: var(--faint) }
.key span { display: inline-block; margin-right: 1rem } .key i { display: inline-block; width: .8em; height: .8em;
  margin-right: .3em }
@media print {
  :root { color-scheme: light; font-size: 11px } body { max-width: none; padding: 0; font-size: 1rem }
  .lead, tr.best td, .key i, svg { print-color-adjust: exact } pre { white-space: pre-wrap; overflow-wrap: anywhere }
  .scroll { overflow: visible } th, td { padding: .2rem .35rem; white-space: normal }
  h2, p:has(+ .images) { break-after: avoid } tr, figure, .plots, .lead, li, pre { break-inside: avoid }
  details pre { break-inside: auto }
}
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">"
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n'
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading, and what stands below it; parts are HTML."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "</section>"


def text(words: str, kind: str = "") -> str:
    """A paragraph."""
    return f"<p{_class(kind)}>{escape(words)}</p>"


def lead(words: str) -> str:
    """A sentence that stands out."""
    return f'<p class="lead">{escape(words)}</p>'


def code(lines: Sequence[str]) -> str:
    """Commands."""
    return "<pre>" + escape("\n".join(lines)) + "</pre>"


def details(title: str, words: str) -> str:
    """A long text that opens where it is asked for."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(words)}</pre></details>"


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], best: Iterable[int] = ()) -> str:
    """A table; best: the rows that stand out."""
    marked = {*best}
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += [
        f"<tr{_class('best' if i in marked else '')}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for i, row in enumerate(rows)
    ]
    return '<div class="scroll"><table>' + "".join(lines) + "</table></div>"


def images(pictures: Sequence[tuple[str, str]]) -> str:
    """(data URI, caption) of each."""
    each = (
        f'<figure><img alt="{escape(caption)}" src="{escape(uri)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for uri, caption in pictures
    )
    return f'<div class="images">{"".join(each)}</div>'


def key(colours: Mapping[str, str]) -> str:
    """Which colour is what."""
    spans = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items()
    )
    return f'<p class="key">{spans}</p>'


def plots(svgs: Sequence[str]) -> str:
    """Figures side by side, where there is room."""
    return f'<div class="plots">{"".join(svgs)}</div>'


def number(value: Any, form: str = "{:.3f}") -> str:
    """A number in a cell; a dash where there is none."""
    return "–" if value is None else form.format(value)


def amount(value: float | None) -> str:
    """`2 G`, `350 M`, in front of a unit."""
    if value is None:
        return "? "
    unit, size = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("K", 1e3)) if value >= s), ("", 1.0))
    return f"{value / size:.3g} {unit}"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
