"""Points that people add to a task by hand, and points that they take out of it.

Both are done by whoever decides for the task at that moment: the scheduler that runs it, or search-ctl while it holds
the lease.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.errors import ConfigError, UsageError
from searchkit.reading import nodes
from searchkit.reading.nodes import typed
from searchkit.suite.algorithms import drawing
from searchkit.suite.config.settings import Config
from searchkit.suite.space.args import Arg, Best, Categorical, Nested, Range, Subnet, Value
from searchkit.suite.space.expand import shared_level
from searchkit.suite.space.genes import dim_of, gene_of, named
from searchkit.suite.space.space import Genes, Space
from searchkit.suite.store import creation, trials
from searchkit.suite.store.job import State
from searchkit.suite.store.state import TaskState
from searchkit.suite.store.tasks import OpenTask

Texts = dict[str, str]  # the arguments of a point, each as its text

_NAME = r"[^\s=,'\"\[\]{}]+"  # what may be meant as the name of an argument


def parse(config: Config, text: str) -> Texts:
    """`lr=0.1,epochs=3` as names and texts. A comma belongs to a value where no name and `=` follow it, or where it is
    within quotes or brackets that the value begins with. Raises UsageError."""
    listed = f"the arguments are {', '.join(config.arg_names) or 'none'}"
    names = sorted(config.arg_names, key=len, reverse=True)
    head = re.compile(rf"\s*({'|'.join([*map(re.escape, names), _NAME])})=")
    texts: Texts = {}
    at = 0
    while at <= len(text):
        begin = head.match(text, at)
        if not begin:
            raise UsageError(f"a point is NAME=VALUE,…, not {text!r}", listed)
        name, end = begin[1], _end(text, begin.end(), head)
        if name not in names:
            quote = f"; a comma within a value needs quotes around it: {next(iter(texts))}='a,b'" if texts else ""
            raise UsageError(f"no argument {name!r}", listed + quote)
        if name in texts:
            raise UsageError(f"{text!r} names an argument twice")
        texts[name] = text[begin.end() : end].strip()
        if not texts[name]:
            raise UsageError(f"{name} has no value in {text!r}", f"An empty text is {name}=''")
        at = end + 1
    return texts


def _end(text: str, start: int, head: re.Pattern[str]) -> int:
    """Where the value that begins at `start` ends: at the end, or at a comma before the `head` of another."""
    start += len(text[start:]) - len(text[start:].lstrip())
    bracketed = text[start : start + 1] in ("[", "{")
    depth, quote = 0, ""
    for i in range(start, len(text)):
        c = text[i]
        if quote:
            quote = "" if c == quote and not (quote == '"' and text[i - 1] == "\\") else quote
        elif c in "'\"" and (i == start or depth):
            quote = c
        elif bracketed and c in "[{":
            depth += 1
        elif bracketed and c in "]}":
            depth -= 1
        elif c == "," and depth <= 0 and head.match(text, i + 1):
            return i
    return len(text)


def _values(config: Config, texts: Texts) -> dict[str, Value]:
    """Each text as a value. In quotes or brackets it is read as in a config, unless a list has it as it stands. Raises
    UsageError."""
    listed = {
        (name, value.text): value
        for arg in config.space.args
        if not isinstance(arg, Range)
        for point in arg.points()
        for name, value in point.items()
    }
    return {name: listed.get((name, text)) or _value(name, text) for name, text in texts.items()}


def _value(name: str, text: str) -> Value:
    if text[:1] not in ("[", "{", "'", '"'):
        return Value(typed(text), text)
    try:
        document = nodes.parse(text.encode("utf-8", "surrogateescape"), f"{name}={text}")
        document.check()
    except ConfigError as e:
        raise UsageError(f"{name}={text}: {e.faults[0].what}", f"A text that begins so needs quotes: {name}='…'") from e
    return Value(document.root.data, document.root.text)


def _plain(values: Mapping[str, Value]) -> dict[str, Any]:
    """Values as a space reads them: lists and mappings by what they mean, all others by their text."""
    return {name: v.data if isinstance(v.data, list | dict) else v.text for name, v in values.items()}


def _texts(values: Mapping[str, Value]) -> Texts:
    return {name: value.text for name, value in values.items()}


# --- added -----------------------------------------------------------------------------------------------------------


def add(task: OpenTask, config: Config, points: Sequence[Texts]) -> tuple[list[int], list[int]]:
    """Make jobs of points; returns (new jobs, jobs that had such a point already). Raises UsageError where any point
    is wrong; nothing is recorded then.

    A grid takes values that its lists do not have; a search only what its sampler can choose. What a point of a search
    leaves open is drawn.
    """
    is_search, state = trials.is_search(config), task.state
    job_of = {_key(job.text, job.values): n for n, job in state.jobs.items()}
    fields: list[dict[str, Any]] = []
    old: list[int] = []
    for texts in points:
        made = (_of_search if is_search else _of_grid)(config, _values(config, texts), state.next_job + len(fields))
        key = _key(made["text"], made["values"])
        if key in job_of:
            old.append(job_of[key])
        else:
            job_of[key] = state.next_job + len(fields)
            fields.append(made)
    new = list(range(state.next_job, state.next_job + len(fields)))
    for n, made in zip(new, fields, strict=True):
        task.record("create", job=n, added=True, **made)
    return new, old


def _key(text: Mapping[str, str], values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What makes two points the same: their texts, and for lists and mappings their meaning."""
    meant = {name: repr(data) for name, data in values.items() if isinstance(data, list | dict)}
    return tuple(sorted({**text, **meant}.items()))


def _of_search(config: Config, values: Mapping[str, Value], n: int) -> dict[str, Any]:
    space = config.space
    fixed = _genes(space, values)
    genes = drawing.filled(space, fixed, config.search.seed, n)
    level = () if config.search.sampler == "grid" else shared_level(space)
    more = {"level": level} if level else {}
    return {**_described(config, space, genes), "genes": genes, "given": True, **more}


def _of_grid(config: Config, values: Mapping[str, Value], n: int) -> dict[str, Any]:
    declared = config.space
    values = {**{name: v for arg in declared.args if _is_set(arg) for name, v in arg.points()[0].items()}, **values}
    space = Space(tuple(_with_value(arg, values) for arg in declared.args), declared.constraints, declared.measure)
    genes = _genes(space, values)
    if fault := space.fault(genes):
        raise UsageError(f"{named(_texts(values))}: {fault}", "Give every argument that exists at the point")
    if not space.feasible(genes):
        raise UsageError(
            f"{named(_texts(values))} does not meet the constraints", f"task.constraints: {space.constraints}"
        )
    return _described(config, space, genes)


def _genes(space: Space, values: Mapping[str, Value]) -> Genes:
    try:
        return space.genes(_plain(values))
    except UsageError as e:
        raise UsageError(f"{named(_texts(values))}: {e.message}", e.hint or "Add the value in the config first") from e


def _is_set(arg: Arg) -> bool:
    """Whether there is nothing to choose."""
    return arg.size == 1 and not arg.when


def _with_value(arg: Arg, values: Mapping[str, Value]) -> Arg:
    """The argument with its value in `values` as one more choice, where it lacks it."""
    row = {name: values[name] for name in arg.names if name in values}
    if len(row) < len(arg.names) or isinstance(arg, Subnet | Best):
        return arg
    try:
        gene_of(dim_of(arg), _plain(row))
    except UsageError:
        if isinstance(arg, Range):
            return Categorical(arg.name, (row[arg.name],), arg.when)
        if isinstance(arg, Nested):
            return replace(arg, rows=(*arg.rows, row))
        return replace(arg, values=(*arg.values, row[arg.name]))
    return arg


def _described(config: Config, space: Space, genes: Genes) -> dict[str, Any]:
    values, text, command = creation.describe(config, space.point(genes))
    return {"values": values, "text": text, "command": command}


# --- withdrawn -------------------------------------------------------------------------------------------------------


def withdraw(
    task: OpenTask, config: Config, jobs: Sequence[int], points: Sequence[Texts], busy: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """Take out jobs that never ran: those of `jobs`, and all that have the values of one of `points`, which a grid does
    not make later either. Returns (jobs that are gone, those of `jobs` that have run or run now). `busy`: run now.

    Raises UsageError for a value that no job can have.
    """
    state = task.state
    rules = [_as_written(config, state, texts) for texts in points]
    free = {n for n, job in state.jobs.items() if job.state is State.PENDING and not job.attempt}.difference(busy)
    chosen = free.intersection(jobs)
    chosen |= {n for n in free if any(rule.items() <= state.jobs[n].text.items() for rule in rules)}
    kept = rules if leaves_out(config) else []
    if chosen or kept:
        task.record("withdraw", time=time.time(), jobs=sorted(chosen), points=kept)
    return sorted(chosen), sorted(n for n in jobs if n in state.jobs)


def leaves_out(config: Config) -> bool:
    """Whether points that are withdrawn are not made later: a grid, also one with a limit, goes through them all."""
    return not trials.is_search(config) or config.search.sampler == "grid"


def _as_written(config: Config, state: TaskState, texts: Texts) -> Texts:
    """Values as jobs have them as texts: 0.10 may be the 0.1 of a list."""
    values, written = _values(config, texts), Texts()
    for arg in config.space.args:
        for name in arg.names:
            if name not in values:
                continue
            value = values[name]
            in_jobs = {job.text[name]: job.values[name] for job in state.jobs.values() if name in job.text}
            meant = [text for text, data in in_jobs.items() if isinstance(data, list | dict) and data == value.data]
            if value.text in in_jobs or meant:
                written[name] = value.text if value.text in in_jobs else meant[0]
                continue
            point = arg.at(gene_of(dim_of(arg), _plain({name: value})))
            written[name] = point[name].text
    return written
