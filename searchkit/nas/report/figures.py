"""The front of a report: APs against costs, as SVG within the page and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

# Okabe and Ito's colours, which people with any colour vision tell apart; forms tell them apart in print, too.
COLOURS = {"subnet": "#0072B2", "plain": "#D55E00", "pretrained": "#009E73", "scored": "#999999"}
FORMS = {"subnet": "circle", "plain": "square", "pretrained": "triangle", "scored": "dot"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 320, 64, 16, 14, 46  # of the SVG, px of its own
PT = 0.8  # points of a picture for a px of the SVG
TICKS = 5


@dataclass(frozen=True)
class Point:
    """One detector in a figure."""

    x: float
    y: float
    kind: str  # of COLOURS
    name: str = ""  # shown beside it; empty: none

    @property
    def label(self) -> str:
        """The name, not longer than a figure has room for."""
        return self.name if len(self.name) <= LONGEST else f"{self.name[: LONGEST - 1]}…"


def ticks(low: float, high: float, n: int = TICKS) -> list[float]:
    """About n round numbers from low to high."""
    if high <= low:
        return [low]
    raw = (high - low) / n
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def limits(values: Sequence[float], floor: float | None = None) -> tuple[float, float]:
    """A range with some room around values."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (low - room if floor is None else max(floor, low - room)), high + room


@dataclass(frozen=True)
class Place:
    """Where the name of a point stands, seen from it, px."""

    x: float
    y: float  # of the line of its letters
    anchor: str  # which end of it that is: start, middle, end

    def box(self, at: tuple[float, float], text: str) -> Box:
        """What it covers for a point at these px, about."""
        width = LETTER * len(text)
        left = at[0] + self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, at[1] + self.y - LINE + 2, left + width, at[1] + self.y + 2


Box = tuple[float, float, float, float]  # left, top, right, bottom
LETTER, LINE = 6.0, 11.0  # of names, px
LONGEST = 26  # letters of a name
MARK = 6.0  # from the middle of a mark to its end, px
PLACES = (
    *(Place(x, y, end) for y in (-6, 13) for x, end in ((8, "start"), (-8, "end"))),
    *(Place(0, y, "middle") for y in (-10, 18, -22, 30)),
)
FRAME = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


def places(named: Sequence[tuple[float, float, str]], taken: Sequence[Box] = ()) -> list[Place]:
    """Where the names of points (x, y, name; px) stand, so that they cover least of each other, of marks, and of what
    is taken, and stay in the frame."""
    marks = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y, _ in named]
    covered = list(taken)
    chosen = []
    for i, (x, y, name) in enumerate(named):
        others = [*covered, *marks[:i], *marks[i + 1 :]]

        def cost(place: Place, at: tuple[float, float] = (x, y), name: str = name, others: list[Box] = others) -> float:
            box = place.box(at, name)
            outside = _area(box) - _shared(box, FRAME)
            return outside + sum(_shared(box, other) for other in others)

        best = min(PLACES, key=cost)
        chosen.append(best)
        covered.append(best.box((x, y), name))
    return chosen


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class Axes:
    """The ranges of a figure, and what is where in it."""

    x: tuple[float, float]
    y: tuple[float, float]

    @staticmethod
    def of(points: Sequence[Point], lines: Sequence[tuple[float, str]]) -> Axes:
        """With all points and upright lines in it."""
        return Axes(limits([*(p.x for p in points), *(x for x, _ in lines)], 0.0), limits([p.y for p in points], 0.0))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """In px of the SVG."""
        (x0, x1), (y0, y1) = self.x, self.y
        return (
            LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )

    def places(self, points: Sequence[Point], lines: Sequence[tuple[float, str]]) -> list[tuple[Point, Place]]:
        """Those of the names of points, beside those of lines."""
        named = [p for p in points if p.name]
        tops = [(self.at(x, 0)[0], TOP + 12.0, text) for x, text in lines]
        taken = [Place(-4, 0, "end").box((x, y), text) for x, y, text in tops]
        return list(zip(named, places([(*self.at(p.x, p.y), p.label) for p in named], taken), strict=True))


def svg(points: Sequence[Point], x_title: str, y_title: str, lines: Sequence[tuple[float, str]] = ()) -> str:
    """A scatter plot. lines: upright ones with names, such as budgets. Colours of text and axes are the page's."""
    axes = Axes.of(points, lines)
    (x0, x1), (y0, y1) = axes.x, axes.y
    at = axes.at
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_title)} against {escape(x_title)}">',
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>',
    ]
    for x in ticks(x0, x1):
        px, py = at(x, y0)
        parts.append(f'<line class="grid" x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{px:.1f}" y="{py + 16:.1f}" text-anchor="middle">{x:g}</text>')
    for y in ticks(y0, y1):
        px, py = at(x0, y)
        parts.append(f'<line class="grid" x1="{px:.1f}" y1="{py:.1f}" x2="{WIDTH - RIGHT}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{px - 6:.1f}" y="{py + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x, name in lines:
        px, py = at(x, y0)
        parts.append(f'<line class="budget" x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{px - 4:.1f}" y="{TOP + 12}" text-anchor="end">{escape(name)}</text>')
    for p in sorted(points, key=lambda p: p.kind != "scored"):
        parts.append(_mark(FORMS[p.kind], *at(p.x, p.y), COLOURS[p.kind], p.name))
    for p, place in axes.places(points, lines):
        px, py = at(p.x, p.y)
        where = f'x="{px + place.x:.1f}" y="{py + place.y:.1f}" text-anchor="{place.anchor}"'
        parts.append(f"<text {where}>{escape(p.label)}</text>")
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {middle})"'
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" {turned}>{escape(y_title)}</text></svg>')
    return "".join(parts)


def _mark(form: str, x: float, y: float, colour: str, name: str) -> str:
    title = f"<title>{escape(name)}</title>" if name else ""
    if form == "square":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}">{title}</rect>'
    if form == "triangle":
        points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y + 5:.1f} {x - 6:.1f},{y + 5:.1f}"
        return f'<polygon points="{points}" fill="{colour}">{title}</polygon>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 if form == "dot" else 5}" fill="{colour}">{title}</circle>'


Plot = tuple[Sequence[Point], str, Sequence[tuple[float, str]]]  # points, title of the x axis, upright lines


def picture(plots: Sequence[Plot], y_title: str) -> Any:
    """The same plots side by side, as a figure of matplotlib's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * max(1, len(plots)), 3.8), layout="constrained")
    forms = {"circle": "o", "square": "s", "triangle": "^", "dot": "."}
    for i, (points, x_title, lines) in enumerate(plots, 1):
        axes = figure.add_subplot(1, len(plots), i)
        for kind in dict.fromkeys(p.kind for p in points):
            own = [p for p in points if p.kind == kind]
            look: dict[str, Any] = {"c": COLOURS[kind], "marker": forms[FORMS[kind]], "clip_on": False}
            axes.scatter([p.x for p in own], [p.y for p in own], label=kind, zorder=3, **look)
        ranges = Axes.of(points, lines)
        axes.set(xlim=ranges.x, ylim=ranges.y)
        for p, place in ranges.places(points, lines):
            ha = {"start": "left", "middle": "center", "end": "right"}[place.anchor]
            offset = place.x * PT, -place.y * PT
            axes.annotate(
                p.label, (p.x, p.y), offset, textcoords="offset points", ha=ha, fontsize=7, parse_math=False, zorder=3
            )
        for x, name in lines:
            axes.axvline(x, color="black", linewidth=0.8, linestyle=":")
            top: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(name, (x, 1), xytext=(-3, -10), ha="right", fontsize=7, parse_math=False, **top)
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
