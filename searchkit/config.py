"""A YAML config as frozen dataclasses, or every fault of it in one report, each as `file:line:col: key: what must hold`.

The file is read as YAML events, not as Python objects: each value keeps its place and its source text (`1e-3` stays
`1e-3`), nothing in a file can make an object, and neither deep nesting nor a bomb of aliases can take us down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from searchkit import template as templates
from searchkit.errors import ConfigError, Fault, UsageError, did_you_mean
from searchkit.space import expand, expression
from searchkit.space.args import Arg, Categorical, Nested, Value, name_fault, row_faults, typed
from searchkit.template import Template

SAMPLERS = ("grid",)
MODES = ("max", "min")
ON_ERROR = ("continue", "stop")
MAX_DEPTH = 100  # of nested lists and mappings
MAX_NODES = 1_000_000  # with aliases written out


@dataclass(frozen=True)
class Task:
    """The command, what varies in it, and the expressions that every job must meet."""

    template: str | tuple[str, ...]
    search_args: tuple[Arg, ...] = ()
    constraints: tuple[str, ...] = ()
    reward_attribute: str | None = None


@dataclass(frozen=True)
class Search:
    """How points are chosen."""

    seed: int = 0
    sampler: str = "grid"


@dataclass(frozen=True)
class Resources:
    """What one job needs; `gpus` and `gpu_mem_bytes` are None where the config is silent."""

    gpus: int | None = None
    gpu_mem_bytes: int | None = None
    cpus: int = 1


@dataclass(frozen=True)
class Run:
    """How jobs are run; `timeout_s` is per attempt."""

    max_parallel: int | None = None
    timeout_s: float | None = None
    retries: int = 0
    on_error: str = "continue"


@dataclass(frozen=True)
class Callbacks:
    """Commands run before and after each job's own."""

    pre: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Monitor:
    """Which numbers are collected and shown. `tensorboard` is whether, or the folder where, event files are read."""

    reward_attribute: str | None = None
    mode: str = "max"
    scalars: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    tensorboard: bool | str = True
    compare_name: str | None = None
    compare_id: str | None = None


@dataclass(frozen=True)
class Config:
    """A whole config. `notes` are one-line notices for the user, none of which is a fault."""

    task: Task
    search: Search
    resources: Resources
    run: Run
    callbacks: Callbacks
    env: Mapping[str, str]
    monitor: Monitor
    template: Template
    notes: tuple[str, ...] = ()

    @property
    def reward_attribute(self) -> str | None:
        """The scalar that ranks the jobs: the monitor's, else the task's (they may not differ)."""
        return self.monitor.reward_attribute or self.task.reward_attribute

    @property
    def arg_names(self) -> tuple[str, ...]:
        """Every declared argument, in the order of declaration."""
        return tuple(name for arg in self.task.search_args for name in arg.names)


def load(path: str) -> tuple[Config, bytes]:
    """The config at `path`, and the bytes it was read from.

    Raises ConfigError with every fault of the file, UsageError for a file that can't be read or is not UTF-8.
    """
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except IsADirectoryError as e:
        raise UsageError(f"{path} is a folder, not a config file") from e
    except OSError as e:
        raise UsageError(f"can't read the config {path}: {e.strerror}") from e
    return parse(raw, path), raw


def parse(raw: bytes, filename: str) -> Config:
    """The config in `raw`; `filename` stands in the faults. Raises as `load`."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"{filename} is not UTF-8 (at byte {e.start})", "save it as UTF-8") from e
    report = Report(filename)
    config = None
    try:
        config = _config(_Reader(text, report).read(), text, report)
    except _UnreadableError:
        pass  # its fault is in the report
    if config is None or report.faults:
        raise ConfigError(filename, list(dict.fromkeys(report.faults)))
    return config


# --- sections --------------------------------------------------------------------------------------------------------

_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _config(root: Node, text: str, report: Report) -> Config | None:
    top = Section(report, root, "").only(KEYS)
    task_section = _sub(top, "task", "template", "search_args", "constraints", "reward_attribute")
    top.require("task")
    search = _sub(top, "search", "seed", "sampler")
    callbacks = _sub(top, "callbacks", "pre", "after")
    task, template = _task(task_section, text)
    monitor = _monitor(top, task_section)
    parts = (
        Search(search.whole("seed", 0) or 0, search.choice("sampler", SAMPLERS, "grid")),
        _resources(_sub(top, "resources", "gpus", "gpu_mem", "cpus")),
        _run(_sub(top, "run", "max_parallel", "timeout_s", "retries", "on_error")),
        Callbacks(callbacks.word("pre"), callbacks.word("after")),
        _env(top),
        monitor,
    )
    if task is None or template is None:
        return None
    return Config(task, *parts, template, tuple(dict.fromkeys(report.notes)))


def _sub(section: Section, key: str, *known: str) -> Section:
    return Section(section.report, section.get(key), section.at(key)).only(known)


def _task(section: Section, text: str) -> tuple[Task | None, Template | None]:
    node = section.require("template")
    items = [item for _, item in section.words("search_args")] if False else section.get("search_args")
    raise NotImplementedError
