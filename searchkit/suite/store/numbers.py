"""What the result event of a job says of the numbers that it reported: of each scalar its last, lowest and highest.

So whoever ranks or lists 10,000 jobs opens no job's folder. The event also says by which config the numbers were read
(`monitor`, a digest); where that is not the reader's, or the event lacks what is needed, the files are read.

    "numbers": "acc 20 0.91 1 0.1 18 0.95|params 1 11.2"
    "monitor": "0f3a99c1"
    "more": 9970                 scalars that are not among them; a job may report any number of names
    "left": ["records", "pre"]   what else its callback folder holds that tables show
    "shared": ["acc"]            tags that several folders of event files hold (the first MAX_SHARED, needed ones first)

After `acc`: step and value of the last report, of the lowest finite one, of the highest; the first two alone where all
are one, or where none is finite. (One text, because every look at a task parses all of its events, and most need no
number: 10,000 lists of numbers take ten times as long.) In a name, %, space and | are written %25, %20 and %7C.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from searchkit.suite.store import trials
from searchkit.suite.store.job import Job
from searchkit.suite.store.journal import Event
from searchkit.suite.store.scalars import Reading, Series
from searchkit.suite.store.trials import digest
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config

MAX_BYTES = 1024  # of `numbers` in one event: about 20 scalars. All events are read by every look at a task
MAX_SHARED = 12
_ESCAPES = (("%", "%25"), (" ", "%20"), ("|", "%7C"))
LEFT = {"records.jsonl": "records", "pre.json": "pre", "after.json": "after"}


__all__ = ["LEFT", "MAX_BYTES", "Packed", "Summary", "digest", "of", "points", "recorded", "series_of", "summary"]


class Summary(NamedTuple):
    """One scalar of one attempt. `low` and `high` are finite, or NaN where no value is."""

    step: int
    last: float
    low_step: int
    low: float
    high_step: int
    high: float

    def best(self, mode: str) -> float:
        """The highest value (mode "max") or the lowest ("min")."""
        return self.high if mode == "max" else self.low

    def value(self, score: str, mode: str) -> float:
        """What ranks a job: the last value, or the best (`score` is "last" or "best")."""
        return self.best(mode) if score == "best" else self.last


def summary(series: Series) -> Summary:
    """Raises ValueError for an empty series."""
    step = max(series)
    finite = [(value, at) for at, value in series.items() if math.isfinite(value)]
    low, low_step = min(finite, default=(math.nan, step))
    high, high_step = max(finite, key=lambda pair: pair[0], default=(math.nan, step))
    return Summary(step, series[step], low_step, low, high_step, high)


def recorded(config: Config, reading: Reading, callback: str) -> Event:
    """The fields of an event that say what an attempt reported. Objectives that are expressions are among its scalars.

    What ranks the jobs comes first, then what the config names to be shown, then what was met first; the rest is
    counted.
    """
    series = {**reading.series, **trials.derived(config.objectives, reading.series)}
    needs = trials.scalars_needed(config.objectives)
    ends = tuple(f"/{name}" for name in needs)
    of_folders = (n for n in series if n.endswith(ends))  # to choose from, where a tag is in several
    first = (*(objective.name for objective in config.objectives), *config.monitor.scalars, *of_folders)
    packed: list[str] = []
    room = MAX_BYTES
    for name in dict.fromkeys((*(n for n in first if n in series), *series)):
        entry = _packed(name, summary(series[name]))
        room -= len(entry.encode()) + 1
        if room < 0:
            break
        packed.append(entry)
    fields: Event = {"numbers": "|".join(packed), "monitor": digest(config)}
    if len(series) > len(packed):
        fields["more"] = len(series) - len(packed)
    if reading.shared:
        fields["shared"] = sorted(reading.shared, key=lambda name: name not in needs)[:MAX_SHARED]
    left = [label for file, label in LEFT.items() if os.path.lexists(f"{callback}/{file}")]
    return {**fields, "left": left} if left else fields


def _packed(name: str, s: Summary) -> str:
    for char, code in _ESCAPES:
        name = name.replace(char, code)
    one_value = s.low == s.high == s.last and s.low_step == s.high_step == s.step
    return " ".join([name, *map(str, s[:2] if one_value or math.isnan(s.low) else s)])


class Packed(Mapping[str, Summary]):
    """The scalars of one event, unpacked once any is asked for: who ranks 10,000 jobs by their scores asks for none."""

    __slots__ = ("_by_name", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._by_name: dict[str, Summary] | None = None

    def _unpack(self) -> dict[str, Summary]:
        if self._by_name is None:
            self._by_name = dict(map(_unpacked, self._text.split("|"))) if self._text else {}
        return self._by_name

    def __getitem__(self, name: str) -> Summary:
        return self._unpack()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpack())

    def __len__(self) -> int:
        return len(self._unpack())


def of(job: Job, monitor: str, names: Collection[str] = ()) -> Mapping[str, Summary] | None:
    """What the events say that the highest attempt of a job reported; None where its files must be read instead.

    monitor: the digest of the config by which it is to be read. names: those that are needed (empty: all).
    """
    if job.numbers is None or job.monitor != monitor:
        return None
    numbers = Packed(job.numbers)
    return None if job.more and (not names or not numbers.keys() >= set(names)) else numbers


def _unpacked(entry: str) -> tuple[str, Summary]:
    name, *values = entry.split(" ")
    if "%" in name:
        for char, code in reversed(_ESCAPES):
            name = name.replace(code, char)
    step, last = int(values[0]), float(values[1])
    if len(values) == 6:
        return name, Summary(step, last, int(values[2]), float(values[3]), int(values[4]), float(values[5]))
    finite = last if math.isfinite(last) else math.nan
    return name, Summary(step, last, step, finite, step, finite)


def series_of(
    task: TaskPaths, project_name: str, config: Config, job: Job, names: Collection[str], monitor: str
) -> Mapping[str, Series]:
    """Series of a job that ended, with all steps or with those that the events know, the last and the best."""
    summaries = of(job, monitor, names)
    if summaries is None:
        return trials.series_of(task, project_name, config, job, ended=True, names=names).series
    return _points(summaries)


def points(job: Job) -> dict[str, Series]:
    """Of each scalar that the events know of a job, by whatever config it was read: the last value and the best."""
    return _points(Packed(job.numbers or ""))


def _points(summaries: Mapping[str, Summary]) -> dict[str, Series]:
    return {
        name: dict(sorted({s.low_step: s.low, s.high_step: s.high, s.step: s.last}.items()))
        for name, s in summaries.items()
    }
