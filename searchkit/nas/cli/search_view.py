"""What a search shows: a live display in a terminal, lines in a pipe, a table and a picture of the front."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import click

from searchkit import console
from searchkit.nas.cli.options import save_picture, say
from searchkit.nas.cli.progress import QUIET_S
from searchkit.nas.cli.records import human, short
from searchkit.nas.space.space import Space
from searchkit.nas.subnet.search import COSTS, value_of
from searchkit.nas.subnet.standing import Standing
from searchkit.records.arch import Arch

RECENT = 50  # evaluations that the rate is told from
REFRESH_S = 0.25
ROWS = 30  # of a table
GAP, ARCH_WIDTH = 2, 8  # between its columns; what an arch has of it at least
# Okabe and Ito's colours, which people with any colour vision tell apart; the front is marked by form, too.
FRONT, OTHERS = "#D55E00", "#0072B2"


def number(name: str, value: float) -> str:
    """A cost in K, M, G; a score with four digits."""
    return human(value) if name in COSTS or name.startswith("overhead.") else f"{value:.4g}"


class View:
    """`with View(standing, total, space) as view: view.update(fresh)`; the rate counts this run's evaluations alone."""

    def __init__(self, standing: Standing, total: int, space: Space, earlier: int = 0) -> None:
        self.standing, self.total, self.space = standing, total, space
        self.arrived: deque[float] = deque(maxlen=RECENT + 1)
        self.began = self.said = time.monotonic()
        self.fresh, self.failed, self.earlier = 0, earlier, earlier  # failed: in this run and earlier
        self.note = ""
        self._live: Any = None
        self._drawn = 0.0

    def __enter__(self) -> View:
        if console.is_terminal("stderr"):
            from rich.live import Live

            self._live = Live(console=console.rich_console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, fresh: int) -> None:
        """So many records came since the last time."""
        now = time.monotonic()
        self.arrived.extend([now] * fresh)
        self.fresh += fresh
        if self._live is not None:
            if now - self._drawn >= REFRESH_S:
                self._drawn = now
                self._live.update(self._rendered(), refresh=True)
        elif now - self.said >= QUIET_S and self.standing.records:
            self.said = now
            say("  ".join(part for part in (self._head(), *self._best(), self._rate(), self.note) if part))

    def message(self, text: str) -> None:
        """One line for people, above the display."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            say(text)

    def rate(self) -> float:
        """Evaluations a second, of the last ones; 0 where that can't be told yet."""
        if len(self.arrived) < 2 or self.arrived[-1] <= self.arrived[0]:
            return 0.0
        return (len(self.arrived) - 1) / (self.arrived[-1] - self.arrived[0])

    def _head(self) -> str:
        failed = f" ({self.failed} failed)" if self.failed else ""
        return f"search {len(self.standing.records)}/{self.total}{failed}"

    def _best(self) -> list[str]:
        s = self.standing
        best = [(o.name, s.scores[s.best[o.name]][k]) for k, o in enumerate(s.wanted) if o.name in s.best]
        front = [f"front {len(s.front)}"] if len(s.wanted) > 1 else []
        return [f"best {name} {number(name, value)}" for name, value in best] + front

    def _phase(self) -> str:
        """What it waits for where no subnet is being scored."""
        if len(self.standing.records) + self.failed >= self.total:
            return "the search ends"
        return "" if self.fresh or self.failed > self.earlier else "the workers load the supernet and the data"

    def _rate(self) -> str:
        rate = self.rate()
        if not rate:
            return ""
        left = self.total - len(self.standing.records) - self.failed
        return f"{rate:.3g} subnets/s" + (f"  about {console.span(left / rate)} left" if left > 0 else "")

    def _rendered(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        s, bar = self.standing, Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=max(1, self.total), completed=min(len(s.records), self.total), width=60))
        lines: list[Any] = [Text(f"{self._head()}   {self._rate()}"), bar, Text("   ".join(self._best()), style="bold")]
        if s.records:
            scores = "  ".join(f"{o.name} {number(o.name, v)}" for o, v in zip(s.wanted, s.scores[-1], strict=True))
            arch = short(Arch.of(s.records[-1]["arch"]), self.space)
            lines.append(Text(f"last  {scores}  {arch}", style="dim", no_wrap=True, overflow="ellipsis"))
        if note := self.note or self._phase():
            lines.append(Text(note, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)


def print_front(standing: Standing, rows: Sequence[int], space: Space) -> None:
    """Records as a table that fits the terminal: their objectives, their cost, their archs."""
    from rich.table import Table

    names = list(dict.fromkeys((*(o.name for o in standing.wanted), "macs", "params")))
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len({str(record["data"]["input_shape"]) for record in standing.records}) > 1
    heads, body = [*names, *(["input"] if several else [])], []
    for i in rows[:ROWS]:
        record = standing.records[i]
        values = [number(name, value_of(record, name, standing.tag)) for name in names]
        shape = [str(record["data"]["input_shape"])] if several else []
        body.append([*values, *shape, short(Arch.of(record["arch"]), space)])
    taken = GAP  # rich counts one of the last column
    for k, head in enumerate(heads):
        width = max(len(head), *(len(row[k]) for row in body))
        taken += width + GAP
        table.add_column(head, justify="right", no_wrap=True, min_width=width)
    # Wide enough for all in a pipe: a machine cuts no columns. In a terminal the archs are cut, never a number.
    shown = console.rich_console(240)
    shown.width = max(shown.width, taken + ARCH_WIDTH)
    table.add_column("arch", no_wrap=True, overflow="ellipsis", max_width=shown.width - taken)
    for row in body:
        table.add_row(*row)
    shown.print(table)
    if len(rows) > ROWS:
        click.echo(f"… and {len(rows) - ROWS} more")


def draw(path: str, standing: Standing) -> bool:
    """A picture of the objectives against each other (of one, against MACs), the front marked. False without
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    objectives = [(o.name, o.mode) for o in standing.wanted]
    ys = [objectives[0]]
    xs = objectives[1:3] or [("macs", "min")] if objectives[0][0] != "macs" else [("params", "min")]
    figure = Figure(figsize=(6.5 * len(xs), 4.8), layout="constrained")
    front = set(standing.front)
    for axes, (x, x_mode) in zip(figure.subplots(1, len(xs), squeeze=False)[0], xs, strict=True):
        (y, y_mode), tag = ys[0], standing.tag
        points = [(value_of(r, x, tag), value_of(r, y, tag)) for r in standing.records]
        others = [p for i, p in enumerate(points) if i not in front]
        best = sorted(p for i, p in enumerate(points) if i in front)
        size = 10 if len(points) > 200 else 22
        if others:
            label = f"others ({len(others)})"
            axes.scatter(*zip(*others, strict=True), s=size, facecolors="none", edgecolors=OTHERS, label=label)
        if best:
            label = f"front ({len(best)})" if len(objectives) > 1 else "best"
            line = "--" if len(objectives) == 2 else ""
            step = "steps-post" if x_mode == "min" else "steps-pre"  # what is between two of them, neither beats
            form = {"linestyle": line, "linewidth": 0.8, "drawstyle": step, "marker": "D", "color": FRONT}
            axes.plot(*zip(*best, strict=True), label=label, **form)
        axes.set_xlabel(f"{x} ({x_mode})")
        axes.set_ylabel(f"{y} ({y_mode})")
        axes.grid(True, color="0.85", linewidth=0.5)
        axes.set_axisbelow(True)
        if x in COSTS or x.startswith("overhead."):
            axes.xaxis.set_major_formatter(lambda value, _: human(value))
        axes.legend(frameon=False)
    save_picture(figure, path)
    return True
