"""Points that people add to a task by hand, and points that they take out of it.

Both are done by whoever decides for the task, on what is there at that moment: the scheduler that runs it, or
search-ctl with the lease in its hands.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from searchkit.algorithms import drawing
from searchkit.errors import UsageError
from searchkit.nodes import typed
from searchkit.settings import Config
from searchkit.space.args import Arg, Best, Categorical, Nested, Range, Subnet, Value
from searchkit.space.expand import shared_level
from searchkit.space.genes import dim_of, gene_of, named
from searchkit.space.space import Genes, Space
from searchkit.store import creation, trials
from searchkit.store.state import State, TaskState
from searchkit.store.tasks import OpenTask

Texts = dict[str, str]  # the arguments of a point, each as its text


def parse(config: Config, text: str) -> Texts:
    """`lr=0.1,epochs=3` as names and texts; a comma within a value is one where no name and `=` follow it. Raises
    UsageError."""
    names = sorted(config.arg_names, key=len, reverse=True)
    heads = list(re.finditer(rf"(?:^|,)\s*({'|'.join(map(re.escape, names))})=", text)) if names else []
    if not heads or text[: heads[0].start()].strip():
        raise UsageError(f"a point is NAME=VALUE,…, not {text!r}", f"the arguments are {', '.join(names) or 'none'}")
    ends = [*(head.start() for head in heads[1:]), len(text)]
    found = {head[1]: text[head.end() : end].strip() for head, end in zip(heads, ends, strict=True)}
    if len(found) < len(heads):
        raise UsageError(f"{text!r} names an argument twice")
    return found


# --- added -----------------------------------------------------------------------------------------------------------


def add(task: OpenTask, config: Config, points: Sequence[Texts]) -> tuple[list[int], list[int]]:
    """Make jobs of points; returns (new jobs, jobs that had such a point already). Nothing is recorded where one of
    them is wrong: UsageError.

    A grid takes values that its lists do not have; a search only what its sampler can choose. What a point of a search
    leaves open is drawn.
    """
    is_search, state = trials.is_search(config), task.state
    there = {_key(job.text): n for n, job in state.jobs.items()}
    fields: list[dict[str, Any]] = []
    old: list[int] = []
    for given in points:
        made = (_of_search if is_search else _of_grid)(config, given, state.next_job + len(fields))
        key = _key(made["text"])
        if key in there:
            old.append(there[key])
        else:
            there[key] = state.next_job + len(fields)
            fields.append(made)
    new = list(range(state.next_job, state.next_job + len(fields)))
    for n, made in zip(new, fields, strict=True):
        task.record("create", job=n, added=True, **made)
    return new, old


def _key(text: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(text.items()))


def _of_search(config: Config, given: Texts, n: int) -> dict[str, Any]:
    space = trials.space_of(config)
    known = _genes(space, given)
    genes = drawing.filled(space, known, config.search.seed, n)
    level = () if config.search.sampler == "grid" else shared_level(space)
    more = {"level": level} if level else {}
    return {**_described(config, space, genes), "genes": genes, "given": True, **more}


def _of_grid(config: Config, given: Texts, n: int) -> dict[str, Any]:
    declared = trials.space_of(config)
    given = {**{name: v.text for arg in declared.args if _is_set(arg) for name, v in arg.points()[0].items()}, **given}
    space = Space(tuple(_with_value(arg, given) for arg in declared.args), declared.constraints, declared.measure)
    genes = _genes(space, given)
    if fault := space.fault(genes):
        raise UsageError(f"{named(given)}: {fault}", "Give every argument that exists at the point")
    if not space.feasible(genes):
        raise UsageError(f"{named(given)} does not meet the constraints", f"task.constraints: {space.constraints}")
    return _described(config, space, genes)


def _genes(space: Space, given: Texts) -> Genes:
    try:
        return space.genes(given)
    except UsageError as e:
        raise UsageError(f"{named(given)}: {e.message}", e.hint or "Add the value in the config first") from e


def _is_set(arg: Arg) -> bool:
    """Whether there is nothing to choose."""
    return arg.size == 1 and not arg.when


def _with_value(arg: Arg, given: Texts) -> Arg:
    """The argument with what is given of it as one more value, where it does not have that."""
    mine = {name: given[name] for name in arg.names if name in given}
    if len(mine) < len(arg.names) or isinstance(arg, Subnet | Best):
        return arg
    try:
        gene_of(dim_of(arg), mine)
    except UsageError:
        row = {name: Value(typed(text), text) for name, text in mine.items()}
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
    """Take jobs out that never ran: those of `jobs`, and all that have the values of one of `points`, which a grid does
    not make later either. Returns (jobs that are gone, those of `jobs` that have run, or run). `busy`: that run now.

    Raises UsageError for a value that no job can have.
    """
    state = task.state
    rules = [_as_written(config, state, given) for given in points]
    free = {n for n, job in state.jobs.items() if job.state is State.PENDING and not job.attempt}.difference(busy)
    chosen = free.intersection(jobs)
    chosen |= {n for n in free if any(rule.items() <= state.jobs[n].text.items() for rule in rules)}
    kept: list[Texts] = [] if trials.is_search(config) else rules
    if chosen or kept:
        task.record("withdraw", time=time.time(), jobs=sorted(chosen), points=kept)
    return sorted(chosen), sorted(n for n in jobs if n in state.jobs)


def _as_written(config: Config, state: TaskState, given: Texts) -> Texts:
    """Values as jobs have them as texts: 0.10 may be the 0.1 of a list."""
    found: Texts = {}
    for arg in trials.space_of(config).args:
        for name in arg.names:
            if name not in given:
                continue
            texts = {job.text[name] for job in state.jobs.values() if name in job.text}
            if given[name] in texts:
                found[name] = given[name]
                continue
            point = arg.at(gene_of(dim_of(arg), {name: given[name]}))
            found[name] = point[name].text
    return found
