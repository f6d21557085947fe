"""What a config says, as frozen dataclasses; read.py reads them from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from searchkit.errors import UsageError
from searchkit.reading import expression
from searchkit.reading.kinds import SCALARS, Bytes, Choice, Count, Key, Kind, Path, Seconds, Text, Whole
from searchkit.reading.nodes import Node
from searchkit.records import objective
from searchkit.suite.config import shells
from searchkit.suite.config.named import Function, StopRule
from searchkit.suite.config.shells import BASH, Shell
from searchkit.suite.config.template import Template
from searchkit.suite.space.args import Arg

if TYPE_CHECKING:  # `show` opens no space, and spares itself the import
    from searchkit.suite.space.space import Space

__all__ = ["StopRule"]

Mode = Annotated[str, Choice(*objective.MODES)]
Score = Annotated[str, Choice("last", "best")]


def _expression(node: Node) -> str:
    if not node.text.strip():
        raise ValueError
    expression.parse(node.text)
    return node.text


def _workers(node: Node) -> int | str | None:
    if isinstance(node.data, bool):
        return "auto" if node.data else None
    if not isinstance(node.data, int) or node.data < 1:
        raise ValueError
    return node.data


def _shell(node: Node) -> Shell:
    if node.kind == "list":
        return shells.of_words(tuple(item.text for item in node.items if item.kind == "scalar"))
    return shells.named(node.text)


EXPRESSION = Kind("a text", _expression, {"type": SCALARS, "pattern": r"\S"})
WORKERS = Kind("true, false, or a whole number of 1 or more", _workers, {"type": ["boolean", "integer"], "minimum": 1})
SHELL = Kind(f"bash, sh, or words that begin with {shells.LIKE}", _shell, shells.SCHEMA, shapes=("scalar", "list"))


@dataclass(frozen=True)
class Measures:
    """What gives numbers of a point that constraints may name: `module:function`, and the arguments it is called with
    (space/measures.py)."""

    call: Function
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """The command, what varies in it, and the expressions that every job must meet."""

    template: str | tuple[str, ...]
    search_args: tuple[Arg, ...] = ()
    constraints: tuple[str, ...] = ()
    reward_attribute: str | None = None
    measures: Measures | None = None


@dataclass(frozen=True)
class Objective(objective.Objective):
    """What a search is judged by: a scalar that jobs report, or with `value`, an expression over those; by its last
    value or, where `score` is "best", by its best one."""

    name: Text
    mode: Mode
    value: Annotated[str, EXPRESSION] | None = None
    score: Annotated[Score, Key("")] = "last"  # the monitor's


@dataclass(frozen=True)
class WarmStart:
    """Where a search finds finished trials: another task of the workspace, or a CSV file (relative to the project)."""

    task: Text | None = None
    csv: Path | None = None

    def __post_init__(self) -> None:
        if (self.task is None) == (self.csv is None):
            raise UsageError("must have either `task`, another task, or `csv`, a file of the project")


@dataclass(frozen=True)
class Search:
    """How points are chosen, and when there are enough. `sampler` is a name or `module:Class`; `enqueue` are the points
    tried first, argument to what it means; `time_budget_s` is that of the whole task."""

    seed: int = 0
    sampler: str = "grid"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    n_trials: int | None = None
    time_budget_s: float | None = None
    target: float | None = None
    objectives: tuple[Objective, ...] = ()
    stop: tuple[StopRule, ...] = ()
    enqueue: tuple[Mapping[str, Any], ...] = ()
    warm_start: WarmStart | None = None


@dataclass(frozen=True)
class Resources:
    """What one job needs; `gpus` and `gpu_mem_bytes` are None where the config is silent."""

    gpus: Whole | None = None
    gpu_mem_bytes: Annotated[Bytes | None, Key("gpu_mem")] = None
    cpus: Count = 1


@dataclass(frozen=True)
class Run:
    """How jobs are run; `timeout_s` is per attempt. `workers`: how many processes serve one trial after the other,
    "auto" for as many as there are slots; None: each job is a process of its own. `shell`: the words before
    `-c COMMAND` of commands and callbacks."""

    max_parallel: Count | None = None
    timeout_s: Seconds | None = None
    retries: Whole = 0
    on_error: Literal["continue", "stop"] = "continue"
    workers: Annotated[int | str | None, WORKERS] = None
    shell: Annotated[Shell, SHELL] = BASH


@dataclass(frozen=True)
class Callbacks:
    """Commands run before and after each job's own."""

    pre: Text | None = None
    after: Text | None = None


@dataclass(frozen=True)
class Monitor:
    """Which numbers are collected and shown. `tensorboard` is whether, or the folder where, event files are read;
    `mode_given` whether the config says the mode of the reward, or it is the default; `score` which value of a series
    ranks a job: "last" or "best"."""

    reward_attribute: str | None = None
    mode: str = "max"
    scalars: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    tensorboard: bool | str = True
    compare_name: str | None = None
    compare_id: str | None = None
    mode_given: bool = field(default=False, compare=False)
    score: str = "last"


@dataclass(frozen=True)
class Config:
    """A whole config. `notes` are one-line notices for the user, none of which is a fault. Where it has stages, the
    command, arguments and settings are those of each stage."""

    task: Task
    search: Search
    resources: Resources
    run: Run
    callbacks: Callbacks
    env: Mapping[str, str]
    monitor: Monitor
    template: Template
    notes: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()

    @property
    def reward_attribute(self) -> str | None:
        """The scalar that ranks the jobs: the monitor's, else the task's (they may not differ)."""
        return self.monitor.reward_attribute or self.task.reward_attribute

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the search is judged by: its objectives, else the reward; none where the config names neither."""
        reward = self.reward_attribute
        objectives = self.search.objectives or ((Objective(reward, self.monitor.mode),) if reward else ())
        return tuple(replace(objective, score=self.monitor.score) for objective in objectives)

    @property
    def is_search(self) -> bool:
        """Whether jobs are made one after the other, from what is known of those before; else all are known from the
        start."""
        s = self.search
        limits = s.n_trials is not None or s.time_budget_s is not None or s.target is not None
        return s.sampler != "grid" or limits or bool(s.stop or s.enqueue or s.warm_start)

    @cached_property
    def space(self) -> Space:
        """The space that the arguments and constraints declare, made once. Its measures are loaded, as samplers of the
        user's own are. Raises UsageError where they can't be."""
        from searchkit.suite.space import measures
        from searchkit.suite.space.space import Space

        task = self.task
        measure = measures.load(task.measures.call, task.measures.given) if task.measures else None
        return Space(task.search_args, task.constraints, measure)

    @property
    def unclear_reward(self) -> str:
        """The reward, where its name says that less is better and the config says neither that nor the opposite."""
        reward = self.reward_attribute or ""
        return reward if not self.monitor.mode_given and objective.sounds_low(reward) else ""

    @property
    def arg_names(self) -> tuple[str, ...]:
        """Every declared argument, in the order of declaration."""
        return tuple(name for arg in self.task.search_args for name in arg.names)


@dataclass(frozen=True)
class Stage:
    """One stage of a task; its config is whole, and has no stages."""

    name: str
    config: Config


def stage_variable(name: str) -> str:
    """The variable that names a finished stage's folder to those after it."""
    return f"SEARCHKIT_STAGE_{name.upper().replace('-', '_')}"
