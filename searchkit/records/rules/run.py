"""Applying rules to records: groups of records go from rule to rule. Records are never changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.reading.closures import Function, as_list
from searchkit.reading.expression import function
from searchkit.records.modelspace import CONVENTION, INPUT, Record, convention, convention_of, edge, flatten, image_size
from searchkit.records.rules.declare import SIZES, Eval, Merge, Parallel, Rule, Sample, Sequential, Sliced
from searchkit.seeds import rng_of

MAX_GROUPS = 100_000
LOOK = 200  # records whose names a message chooses from
COUNTED = ("flops", "convention")  # of `overhead`: these go together, and are named whole
SKIP_HINT = "say `missing: skip` in the rule to leave such records out"


@dataclass(frozen=True)
class Stage:
    """One rule of the pipeline: how many records each group had before and after it."""

    label: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """The records chosen (of several groups, one after another), the stages, and what should be said about them."""

    records: list[Record]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Records, and the branches of `parallel` that led to them: their numbers and their labels."""

    records: Sequence[Record]
    trail: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()


class Missing(Exception):
    """A record lacks a name that a rule reads."""


def apply(rule: Rule, records: list[Record], seed: int) -> Outcome:
    """What `rule` chooses. Random samples follow from (seed, place of the rule, place of the group) alone.

    Raises UsageError for names that records lack, values that a rule can't take, and mixed conventions of cost.
    """
    run = _Run(seed)
    if not records:
        run.notes.append("there are no records")
    groups = run.pipe(rule, [Group(records)])
    if len(groups) > 1:
        run.notes.append(f"{len(groups)} groups are left, listed one after another; `type: merge` makes them one")
    chosen = [record for group in groups for record in group.records]
    if records and not chosen:
        run.notes.append("no record is left")
    return Outcome(chosen, tuple(run.stages), tuple(run.notes))


@dataclass
class _Run:
    """One application: what was seen on the way."""

    seed: int
    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    convention: str = ""  # of the costs that rules have read so far
    checked: Any = None  # the records whose convention was looked at last

    def pipe(self, rule: Rule, groups: list[Group]) -> list[Group]:
        """Apply a rule of the pipeline, and write down what it does."""
        if isinstance(rule, Sequential):
            for each in rule.rules:
                groups = self.pipe(each, groups)
            return groups
        after = self.step(rule, groups)
        self.stages.append(Stage(rule.label, _sizes(groups), _sizes(after)))
        full = {group.trail for group in groups if group.records}
        empty = [g for g in after if not g.records and any(g.trail[:n] in full for n in range(len(g.trail) + 1))]
        if empty and not isinstance(rule, Merge):
            names = [" / ".join(g.labels) for g in empty[:3] if g.labels]
            listed = f": {'; '.join(names)}{' …' if len(empty) > len(names) else ''}" if names else ""
            self._note(rule, f"{len(empty)} of {len(after)} groups became empty{listed}")
        return after

    def step(self, rule: Rule, groups: list[Group]) -> list[Group]:
        """Apply any rule to groups."""
        match rule:
            case Sequential(rules=rules):
                for each in rules:
                    groups = self.step(each, groups)
                return groups
            case Parallel(rules=rules):
                if len(groups) * len(rules) > MAX_GROUPS:
                    raise UsageError(f"{rule.path}: {rule.label} of {len(groups)} groups are more than {MAX_GROUPS}")
                branches = [(_branch(group, i, each), each) for group in groups for i, each in enumerate(rules)]
                return [out for group, each in branches for out in self.step(each, [group])]
            case Sliced(rules=rules):
                if len(groups) != len(rules):
                    what = f"needs as many groups as it has rules, which are {len(rules)}, but there are {len(groups)}"
                    raise UsageError(f"{rule.path}: {rule.label} {what}", "make them by `type: parallel` before it")
                return [out for group, each in zip(groups, rules, strict=True) for out in self.step(each, [group])]
            case Merge():
                return [self._merge(rule, groups)]
            case Eval():
                self._one_convention(rule, rule.expr.names, groups)
                return self._each(groups, [self._filter(rule, group) for group in groups])
            case Sample():
                self._one_convention(rule, (rule.key,), groups)
                return self._sample(rule, groups)

    def _note(self, rule: Rule, what: str) -> None:
        self.notes.append(f"{rule.path} ({rule.label}): {what}")

    def _each(self, groups: list[Group], records: list[list[Record]]) -> list[Group]:
        return [replace(group, records=chosen) for group, chosen in zip(groups, records, strict=True)]

    def _one_convention(self, rule: Rule, names: Sequence[str], groups: list[Group]) -> None:
        """Costs of two conventions can't be compared, neither in one rule nor from rule to rule."""
        if not any(name.partition(".")[0] == "overhead" and name != CONVENTION for name in names):
            return
        for group in groups:
            if group.records is self.checked or not group.records:
                continue
            try:
                counted = convention(group.records)
            except UsageError as e:
                raise UsageError(f"{rule.path} ({rule.label}): {e.message}", e.hint) from e
            if self.convention and counted != self.convention:
                what = f"reads costs counted as {counted}, but an earlier one read some counted as {self.convention}"
                raise UsageError(f"{rule.path} ({rule.label}): {what}", "query one convention at a time")
            self.convention, self.checked = counted, group.records

    def _filter(self, rule: Eval, group: Group) -> list[Record]:
        holds = function(rule.expr, lambda name: _reader(name, rule.skip))
        kept = []
        lacking: dict[str, None] = {}  # ordered
        for i, record in enumerate(group.records):
            try:
                if holds(record):
                    kept.append(record)
            except Missing as e:
                lacking[str(e)] = None
            except UsageError as e:
                raise UsageError(f"{rule.path}: {e.message} (record {i + 1} of {len(group.records)})", e.hint) from e
        self._lacking(rule, group, lacking)
        return kept

    def _lacking(self, rule: Eval | Sample, group: Group, lacking: Iterable[str]) -> None:
        total = len(group.records)
        for name in lacking:
            read = _number(name) if isinstance(rule, Sample) else _reader(name, rule.skip)
            n = sum(_lacks(read, record) for record in group.records)
            if rule.skip:
                self._note(rule, f"{n} of {total} records lack {name}; where it was needed, they were left out")
                continue
            known = list({key: None for record in group.records[:LOOK] for key in flatten(record)})
            near = did_you_mean(name, known) if n == total else ""  # where others have it, the name is right
            what = f"{n} of {total} records lack {name!r}{near}"
            raise UsageError(f"{rule.path} ({rule.label}): {what}", SKIP_HINT)

    def _sample(self, rule: Sample, groups: list[Group]) -> list[Group]:
        short, raised, out = 0, 0, []
        for group in groups:
            records, values = self._ranked(rule, group)
            total = len(records)
            size = math.floor(rule.value * total) if rule.ratio else int(rule.value)
            if size < 1 and total:
                size, raised = 1, raised + 1
            short += 0 < total < size
            size = min(size, total)
            if rule.operation == "random":
                place = "/".join(map(str, group.trail))
                seed = self.seed if rule.seed is None else rule.seed
                order = sorted(rng_of(seed, rule.path, place).sample(range(total), size))
            else:  # stable: of equal ones, the first in the file
                order = sorted(range(total), key=values.__getitem__, reverse=rule.operation == "top")[:size]
            out.append(replace(group, records=[records[i] for i in order]))
        if raised:
            self._note(
                rule, f"{raised} of {len(groups)} groups are too small for that ratio; one record of each was taken"
            )
        if short:
            self._note(
                rule, f"{short} of {len(groups)} groups have fewer than {rule.value} records; all of them were taken"
            )
        return out

    def _ranked(self, rule: Sample, group: Group) -> tuple[Sequence[Record], list[float]]:
        """The records to choose from, and the values to rank them by; for a random choice all of them, and none."""
        if rule.operation == "random":
            return group.records, []
        read = _number(rule.key)
        records, values = [], []
        for i, record in enumerate(group.records):
            try:
                values.append(read(record))
                records.append(record)
            except Missing:
                continue
            except TypeError as e:
                at = f"in record {i + 1} of {len(group.records)}"
                raise UsageError(f"{rule.path} ({rule.label}): {rule.key} must be a number, but is {e} {at}") from e
        if len(records) < len(group.records):
            self._lacking(rule, group, [rule.key])
        return records, values

    def _merge(self, rule: Merge, groups: list[Group]) -> Group:
        seen: set[int] = set()
        texts: set[str] = set()
        kept, dropped = [], 0
        for record in (record for group in groups for record in group.records):
            text = "" if id(record) in seen else json.dumps(record, sort_keys=True)
            if not text or text in texts:
                dropped += 1
                continue
            seen.add(id(record))
            texts.add(text)
            kept.append(record)
        if dropped:
            self._note(rule, f"{dropped} exact duplicates were dropped")
        first, common = groups[0], 0  # inside a branch of `parallel`, the merged group stays in it
        while common < len(first.trail) and len({group.trail[: common + 1] for group in groups}) == 1:
            common += 1
        return Group(kept, first.trail[:common], first.labels[:common])


def _sizes(groups: list[Group]) -> tuple[int, ...]:
    return tuple(len(group.records) for group in groups)


def _branch(group: Group, i: int, rule: Rule) -> Group:
    return Group(group.records, (*group.trail, i), (*group.labels, rule.label))


# --- reading records -------------------------------------------------------------------------------------------------


def _reader(name: str, skip: bool) -> Function:
    """The value of `name` in a nested or flat record; raises Missing, with `skip` also for null."""
    if name == CONVENTION:
        return convention_of
    if name == SIZES:
        shape = _plain(INPUT, skip)
        return lambda record: _as_sizes(shape(record))
    get = _plain(name, skip)
    return (lambda record: as_list(edge(get(record)))) if name == INPUT else get


def _number(name: str) -> Function:
    """As `_reader`, for ranking: raises Missing also for null and NaN, which have no rank, TypeError for no number."""
    read = _reader(name, True)

    def get(record: Record) -> Any:
        value = read(record)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(repr(value)[:60])
        if value != value:
            raise Missing(name)
        return value

    return get


def _lacks(read: Function, record: Record) -> bool:
    try:
        read(record)
    except Missing:
        return True
    except TypeError:
        pass
    return False


def _as_sizes(shape: Any) -> list[Any]:
    return list(shape) if isinstance(shape, (list, tuple)) else list(image_size(shape))


def _plain(name: str, skip: bool) -> Function:
    parts = name.split(".")

    def get(record: Record) -> Any:
        value: Any = record
        try:
            for part in parts:
                value = value[part]
        except (KeyError, TypeError):
            flat = flatten(record)  # some of it may be dotted already
            key = name if name in flat or name in COUNTED else f"overhead.{name}"  # a meter's short name
            if key not in flat:
                raise Missing(name) from None
            value = flat[key]
        if value is None and skip:
            raise Missing(name)
        return as_list(value) if type(value) is tuple else value

    return get
