"""What a config file may hold: all its keys, with their types. From this page files are filled, and the schema is made.

Where a section means just what it says, it is filled into its dataclass of settings.py; what is written otherwise than
it is meant has a form here: the file and its stages, the task and its arguments, the search, the monitor. In a form
None says that nothing is given; then it is as in the file's own sections, for a stage, else the default of settings.py.
(A form is never compared or printed: without the code for that, these classes take half the time at every start.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from searchkit.errors import UsageError
from searchkit.reading.fill import ABSENT, Part
from searchkit.reading.kinds import (
    SCALARS,
    Count,
    Kind,
    Number,
    Path,
    Seconds,
    Some,
    Text,
    Whole,
    file_of,
    matching,
    number,
    whole,
)
from searchkit.reading.nodes import Node
from searchkit.suite.config.named import Function, Sampler, Stopper
from searchkit.suite.config.settings import Callbacks, Measures, Mode, Objective, Resources, Run, Score, WarmStart
from searchkit.suite.space.args import LARGEST, Value

# --- arguments -------------------------------------------------------------------------------------------------------


def name_fault(name: str) -> str:
    """Why `name` can't be the name of an argument; empty when it can."""
    if not name:
        return "a name must be a text that is not empty"
    bad = next((c for c in name if c in "{}/" or c.isspace() or not c.isprintable()), "")
    return f"the name {name!r} must not contain {bad!r}" if bad else ""


def _name(node: Node) -> str:
    if what := name_fault(node.text):
        raise UsageError(what)
    return node.text


def _as_written(kind: Kind) -> Kind:
    """A number that stays whole where it is written so."""
    return Kind(kind.must, lambda node: (kind.of(node), node.data)[1], kind.schema)


Name = Annotated[str, Kind("a text", _name, {"type": SCALARS, "pattern": r"^[^\s{}/]+$"})]
Written = Annotated[
    Value, Kind("a value", lambda node: Value(node.data, node.text), {}, shapes=("scalar", "list", "map"))
]
Real = Annotated[float, _as_written(number())]
AboveZero = Annotated[float, _as_written(number(above=0))]
Integer = Annotated[int, whole(-LARGEST, LARGEST, "a whole number between -2**53 and 2**53")]
Natural = Annotated[int, whole(1, LARGEST, "a whole number between 1 and 2**53, as every one on a log scale")]


# `when` is a condition over other arguments: where it does not hold, there is no such argument.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CategoricalArg:
    """One argument, one of the values listed."""

    type: Literal["Categorical"]
    name: Name
    value: Annotated[tuple[Written, ...], Some()]
    when: Text | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NestedArg:
    """Several arguments that vary together: one of the rows listed, which all have the same keys."""

    type: Literal["Nested"]
    value: Annotated[tuple[Annotated[Mapping[Name, Written], Some("name and its value")], ...], Some()]
    when: Text | None = None
    INSTEAD: ClassVar[Mapping[str, str]] = {
        "name": "a Nested argument has no name of its own; the keys of its rows are the names"
    }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class UniformArg:
    """Any number from low to high, both included; with a step, only every so many."""

    type: Literal["Uniform"]
    name: Name
    low: Real
    high: Real
    step: AboveZero | None = None
    when: Text | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogUniformArg:
    """Any number from low to high, both included, even on a log scale."""

    type: Literal["LogUniform"]
    name: Name
    low: AboveZero
    high: AboveZero
    when: Text | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IntArg:
    """A whole number from low to high, both included; with a step, only every so many."""

    type: Literal["Int"]
    name: Name
    low: Integer
    high: Integer
    step: Count | None = None
    when: Text | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogIntArg:
    """A whole number from low to high, both included, even on a log scale."""

    type: Literal["LogInt"]
    name: Name
    low: Natural
    high: Natural
    when: Text | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SubnetArg:
    """A file of records of a model space, those that the rules pick, `per_job` to a file."""

    type: Literal["Subnet"]
    name: Name
    space: Annotated[str, file_of(".json", ".jsonl")]
    rules: Path | None = None
    per_job: Count = 1
    seed: Whole | None = None
    when: Text | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BestArg:
    """The arguments of the best jobs of a stage that runs before; all of them, or those that `args` names."""

    type: Literal["Best"]
    stage: Text
    number: Count
    args: tuple[Text, ...] | None = None
    folder: Name | None = None
    checkpoint: Name | None = None
    when: Text | None = None


RangeArg = UniformArg | LogUniformArg | IntArg | LogIntArg
AnyArg = CategoricalArg | NestedArg | SubnetArg | UniformArg | LogUniformArg | IntArg | LogIntArg | BestArg

# --- the task --------------------------------------------------------------------------------------------------------


Command = Annotated[str, Kind("a command for the shell", lambda node: node.text, {"type": SCALARS, "pattern": r"\S"})]
Words = Annotated[tuple[str, ...], Some("word")]


@dataclass(frozen=True, eq=False, repr=False)
class SharedTask:
    """What the task of a file with stages may say: the rest is said by each of these."""

    reward_attribute: Text | None = None
    INSTEAD: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("template", "search_args", "constraints", "measures"),
        "belongs to a stage: stages: [{name: …, task: {…}}]",
    )


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """The command, what varies in it, and the expressions that every job must meet."""

    template: Part[Command | Words]
    search_args: tuple[Part[AnyArg], ...] = ()
    constraints: tuple[Text, ...] = ()
    measures: Function | Measures | None = None
    reward_attribute: Text | None = None


# --- sections --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class SharedSearch:
    """How points are chosen, judged, ended early, and when there are enough: what stages may have in common."""

    sampler: Sampler | None = None
    n_trials: Count | None = None
    time_budget_s: Seconds | None = None
    target: Number | None = None
    seed: Whole | None = None
    objectives: Annotated[tuple[Objective, ...], Some("objective")] = ()
    stop: tuple[Stopper, ...] | Stopper | None = None
    INSTEAD: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("enqueue", "warm_start"), "belongs to the search of a stage, as its arguments do"
    )


@dataclass(frozen=True, eq=False, repr=False)
class Search(SharedSearch):
    """How points are chosen, judged, ended early, and when there are enough."""

    enqueue: tuple[Mapping[str, Any], ...] = ()
    warm_start: WarmStart | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Compare:
    """A group of runs of another service, and an id in it."""

    name: Text | None = None
    id: Text | None = None


def _pattern(node: Node) -> str:
    if not node.text:
        raise ValueError
    try:
        groups = re.compile(node.text).groupindex
    except (re.error, OverflowError, RecursionError) as e:
        raise UsageError(f"{node} is no regular expression: {e}") from None
    if not groups:
        raise UsageError("must name a group for each number, such as acc=(?P<acc>[0-9.]+)")
    return node.text


Pattern = Annotated[str, Kind("a text", _pattern, {"type": "string", "pattern": r"\(\?P<"})]


@dataclass(frozen=True, eq=False, repr=False)
class Monitor:
    """Which numbers are collected and shown, and which of them says which job is best."""

    reward_attribute: Text | None = None
    mode: Mode | None = None
    score: Score | None = None
    scalars: tuple[Text, ...] = ()
    regex: tuple[Pattern, ...] = ()
    tensorboard: bool | Text | None = None
    compare: Compare = field(default_factory=Compare)


def _variable(node: Node) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", node.text):
        raise UsageError("must be the name of a variable: letters, digits and _")
    if node.text.startswith("SEARCHKIT_"):
        raise UsageError("is reserved; every job is given its own SEARCHKIT_ variables")
    return node.text


Variable = Annotated[
    str, Kind("a text", _variable, {"type": "string", "pattern": "^(?!SEARCHKIT_)[A-Za-z_][A-Za-z0-9_]*$"})
]


StageName = Annotated[
    str,
    matching(
        "[A-Za-z0-9][A-Za-z0-9_-]{0,49}",
        "letters, digits, '_' and '-' (at most 50)",
        type=["string", "integer", "boolean"],
        minimum=0,
    ),
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sections:
    """What a file may say, and a stage of its own."""

    task: Part[Task | SharedTask]
    search: Part[Search | SharedSearch] = ABSENT
    resources: Part[Resources] = ABSENT
    run: Part[Run] = ABSENT
    callbacks: Part[Callbacks] = ABSENT
    env: Part[Mapping[Variable, str]] = ABSENT
    monitor: Part[Monitor] = ABSENT
    pavi: Part[Monitor] = ABSENT  # another name for monitor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stage(Sections):
    """One of several steps of a task, in the order listed."""

    name: StageName
    task: Part[Task]
    search: Part[Search] = ABSENT


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class File(Sections):
    """A config of search-run: a task, or the stages of one, and how its jobs are run."""

    task: Part[Task | SharedTask] = ABSENT
    stages: Annotated[tuple[Part[Stage], ...], Some("stage")] = ()
    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "if": {"required": ["stages"], "properties": {"stages": {"type": "array"}}},
        "then": {
            "properties": {
                "task": {"anyOf": [{"$ref": "#/definitions/form.SharedTask"}, {"type": "null"}]},
                "search": {"anyOf": [{"$ref": "#/definitions/form.SharedSearch"}, {"type": "null"}]},
            }
        },
        "else": {"required": ["task"], "properties": {"task": {"$ref": "#/definitions/form.Task"}}},
    }
