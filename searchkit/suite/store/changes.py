"""The config that a task goes on with, where that is not the one it began with: what may differ, and how it is kept.

What only reads, launches or ends jobs may change, and the space may grow. What says which jobs there are, or what they
run, may not: results of two such configs in one task could not be compared.

    configs/<k>.yaml    each config of the task by its number, once there are two
    run_config.yaml     the newest

The event `config` is what makes a config count. Whoever takes the lease of the task then updates `run_config.yaml`.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from searchkit import fsio
from searchkit.errors import ConflictError, OtherConfigError
from searchkit.suite.config.settings import Monitor, Objective, StopRule
from searchkit.suite.space import widen
from searchkit.suite.store import tasks, trials
from searchkit.suite.workspace import TaskPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config

LIMITS = ("search.n_trials", "search.time_budget_s", "search.target")
# No number is read by these. (Where the mode counts in a search, the objectives differ.)
SHOWN_ONLY = ("monitor.scalars", "monitor.compare.name", "monitor.compare.id", "monitor.mode")
_KEYS = {
    "resources.gpu_mem_bytes": "resources.gpu_mem",
    "monitor.compare_name": "monitor.compare.name",
    "monitor.compare_id": "monitor.compare.id",
    "search.sampler_options": "search.sampler",
}
_FIXED = {
    "search.sampler": "the trials so far were chosen by another sampler, or with other options",
    "search.seed": "the jobs so far were given another seed",
    "search.enqueue": "what is enqueued comes before all other points; add points now by search-ctl add",
    "search.warm_start": "a search takes its warm start once, when it begins",
    "run.shell": "the jobs so far ran in another shell",
}
_WIDTH = 60  # longer values are not shown whole
_BEFORE = 12  # characters of what two of them share that are shown before what differs


@dataclass(frozen=True)
class Part:
    """One key that differs: what it was and is, or why it may not differ. `lost`: points that were values, as
    search-ctl withdraw takes them."""

    key: str
    what: str
    lost: tuple[str, ...] = ()

    def below(self, prefix: str) -> Part:
        """The same of a key that stands below another."""
        return replace(self, key=prefix + self.key)


@dataclass(frozen=True)
class Change:
    """All that differs between two configs. `refused` is what may not.

    space: there may be further points. more: there may be further jobs. reread: scores are read differently;
    objectives: they differ. moved: by argument, the new positions of its list's values, by their old ones.
    """

    parts: tuple[Part, ...] = ()
    refused: tuple[Part, ...] = ()
    space: bool = False
    more: bool = False
    reread: bool = False
    objectives: bool = False
    moved: Mapping[str, list[int]] | None = None


@dataclass(frozen=True)
class Step:
    """What is to change in one task."""

    task: TaskPaths
    change: Change


# --- what differs ----------------------------------------------------------------------------------------------------


def compare(old: Config, new: Config) -> Change:
    """What differs between two configs of one task without stages."""
    parts, refused = _settings(old, new)
    grown, more_refused, moved = _space(old, new)
    keys = {part.key for part in parts}
    flips = trials.is_search(old) != trials.is_search(new)
    read = any(key.startswith("monitor.") and key not in SHOWN_ONLY for key in keys)
    objectives = old.objectives != new.objectives
    reread = read or objectives or flips
    space = bool(grown) or flips
    more = space or (reread and trials.is_search(new)) or not keys.isdisjoint(LIMITS)
    return Change((*grown, *parts), (*more_refused, *refused), space, more, reread, objectives, moved or None)


def _settings(old: Config, new: Config) -> tuple[list[Part], list[Part]]:
    parts: dict[str, str] = {}
    refused: dict[str, str] = {}
    if (old.task.template, old.template) != (new.task.template, new.template):
        refused["task.template"] = "the jobs so far ran another command"
    if old.task.reward_attribute != new.task.reward_attribute:
        parts["task.reward_attribute"] = _to(old.task.reward_attribute, new.task.reward_attribute)
    for section in ("search", "resources", "run", "callbacks", "monitor"):
        old_section, new_section = getattr(old, section), getattr(new, section)
        for name in (field.name for field in fields(old_section)):
            a, b = getattr(old_section, name), getattr(new_section, name)
            key = _KEYS.get(f"{section}.{name}", f"{section}.{name}")
            if a != b and key in _FIXED:
                refused[key] = _FIXED[key]
            elif key == "run.workers" and (a is None) != (b is None):
                refused[key] = f"the jobs so far ran {'in workers' if a else 'as processes of their own'}"
            elif key == "monitor.mode_given":
                if a != b and old_section.mode == new_section.mode:
                    parts["monitor.mode"] = " -> ".join(
                        _mode(section_settings) for section_settings in (old_section, new_section)
                    )
            elif a != b:
                parts[key] = _to(a, b)
    if old.env != new.env:
        names = [name for name in {**old.env, **new.env} if old.env.get(name) != new.env.get(name)]
        refused["env"] = f"the jobs so far ran with a different {', '.join(names)}"
    return [Part(*section_settings) for section_settings in parts.items()], [
        Part(*section_settings) for section_settings in refused.items()
    ]


def _mode(monitor: Monitor) -> str:
    return monitor.mode if monitor.mode_given else f"{monitor.mode} by default"


def _to(old: Any, new: Any) -> str:
    """Both in a few words. Of two long texts that begin alike, only what differs is shown."""
    texts = [_text(old), _text(new)]
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))) - _BEFORE
    if alike > 0 and max(map(len, texts)) > _WIDTH:
        texts = [f"…{text[alike:]}" for text in texts]
    return " -> ".join(text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…" for text in texts)


def _text(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, StopRule):
        options = ", ".join(f"{name}: {_text(option)}" for name, option in value.options.items())
        return f"{value.type} ({options})" if options else value.type
    if isinstance(value, Objective):
        return f"{value.name}{f' = {value.value}' if value.value else ''} ({value.mode})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _space(old: Config, new: Config) -> tuple[list[Part], list[Part], dict[str, list[int]]]:
    """What was added to the space, what may not change in it, and which values moved."""
    grown: list[Part] = []
    refused: list[Part] = []
    moved: dict[str, list[int]] = {}
    old_args, new_args = old.task.search_args, new.task.search_args
    if [arg.key for arg in old_args] != [arg.key for arg in new_args]:
        a, b = (", ".join(arg.key for arg in args) or "none" for args in (old_args, new_args))
        refused.append(Part("task.search_args", f"the arguments are {b}, and were {a}"))
        old_args = new_args = ()
    for i, (was, arg) in enumerate(zip(old_args, new_args, strict=True)):
        widened = widen.compare(was, arg)
        if widened is None:
            continue
        part = Part(f"task.search_args[{i}]", f"{arg.key}: {widened.fault or widened.summary}", widened.lost)
        (refused if widened.fault else grown).append(part)
        if widened.moved is not None:
            moved[arg.key] = widened.moved
    if lost := [text for text in old.task.constraints if text not in new.task.constraints]:
        grown.append(Part("task.constraints", f"without {'; '.join(lost)}"))
    if more := [text for text in new.task.constraints if text not in old.task.constraints]:
        refused.append(Part("task.constraints", f"{'; '.join(more)} is new, and jobs may break it already"))
    if old.task.measures != new.task.measures:
        refused.append(Part("task.measures", "the points so far were chosen by other measures"))
    return grown, refused, moved


def steps(task: TaskPaths, new: Config) -> list[Step]:
    """What differs from the config that a task is run by, and from those of its stages that have begun; those first
    that are to be recorded first. Raises ConflictError where the stages differ."""
    old = _parsed(task)
    if [stage.name for stage in old.stages] != [stage.name for stage in new.stages]:
        names = [", ".join(stage.name for stage in config.stages) or "none" for config in (new, old)]
        return [Step(task, Change(refused=(Part("stages", f"the stages are {names[0]}, and were {names[1]}"),)))]
    if not new.stages:
        return [Step(task, compare(old, new))]
    parts: list[Part] = []
    refused: list[Part] = []
    stage_steps: list[Step] = []
    paths = [task.workspace.task(f"{task.name}.{stage.name}") for stage in new.stages]
    begun = [tasks.exists(path) for path in paths]
    for k, (stage, path) in enumerate(zip(new.stages, paths, strict=True)):
        before = compare(old.stages[k].config, stage.config)
        prefix = f"stages[{k}]."
        if not begun[k]:  # nothing was made by it yet
            parts += [Part(prefix + part.key, "changed, before it began") for part in (*before.parts, *before.refused)]
            continue
        change = compare(tasks.config_of(path), stage.config)
        parts += [part.below(prefix) for part in before.parts]
        refused += [part.below(prefix) for part in change.refused]
        if change.more and any(begun[k + 1 :]):
            later = next(new.stages[i].name for i in range(k + 1, len(begun)) if begun[i])
            why = f"stage {later!r} has begun with what this one left"
            refused += [Part(prefix + part.key, why) for part in change.parts if _makes_more(part.key)]
        if change.parts:
            stage_steps.append(Step(path, replace(change, refused=())))  # those of the whole say it, by their places
    if old.reward_attribute != new.reward_attribute:
        parts.append(Part("task.reward_attribute", _to(old.reward_attribute, new.reward_attribute)))
    return [Step(task, Change(tuple(parts), tuple(refused))), *stage_steps]


def _makes_more(key: str) -> bool:
    return key in LIMITS or key.startswith(("task.search_args", "task.constraints"))


# --- what is kept ----------------------------------------------------------------------------------------------------


def _parsed(task: TaskPaths) -> Config:
    from searchkit.suite.config import read as configs

    return configs.parse(tasks.newest_config(task), task.run_config, begun=tasks.shell_of(task))


def record(step: Step, raw: bytes) -> int:
    """Make `raw` the config of a task; return its number. Raises ConflictError while another process holds the task,
    StorageError.

    Killed at any instant, the task has one of the two configs, and the same call again gives the same result.
    """
    task, change = step.task, step.change
    with tasks.held(task) as open_task:
        number = open_task.state.config + 1
        with fsio.storage():
            os.makedirs(os.path.dirname(task.config(0)), exist_ok=True)
            if number == 1:
                fsio.atomic_write(task.config(0), fsio.read_bytes(task.run_config) or b"", tmp=task.tmp)
            fsio.atomic_write(task.config(number), raw, tmp=task.tmp)
        more: dict[str, object] = {
            name: True for name in ("space", "more", "reread", "objectives") if getattr(change, name)
        }
        if change.moved:
            more["genes"] = change.moved
        changed = [part.key for part in change.parts]
        open_task.record("config", time=time.time(), number=number, changed=changed, **more)
        open_task.journal.commit()
        tasks.restore_config(open_task.paths, open_task.state)
    return number


def refusal(task: TaskPaths, file: str, raw: bytes, refused: Sequence[Part]) -> ConflictError:
    """Why a task can't go on with the config `raw` of the file `given`, where that differs, and what to do instead."""
    import difflib

    where = "\n".join(f"{_place(file, raw, part.key)}: {part.key}: {part.what}" for part in refused)
    old = tasks.newest_config(task).decode("utf-8", "replace").splitlines()
    diff = difflib.unified_diff(
        old, raw.decode("utf-8", "replace").splitlines(), task.run_config, file, lineterm="", n=1
    )
    source = f"{task.group}.STAGE" if tasks.stage_names(task) else task.name
    ways = [f"search-ctl withdraw --task {_owner(task, part)} {shlex.join(part.lost)}" for part in refused if part.lost]
    advice = f"Keep values in their lists, and take out what has not run: {'; '.join(ways)}. Or t" if ways else "T"
    return OtherConfigError(
        f"task {task.name!r} exists with another config, and this can't change in a task:\n{where}\n" + "\n".join(diff),
        f"{advice}ake another name (--task), which may learn from this task by search: {{warm_start: "
        f"{{task: {source}}}}}; or move the old task away (--overwrite)",
    )


def _owner(task: TaskPaths, part: Part) -> str:
    """The name of the task, or of the stage, that a key belongs to."""
    stages = {f"stages[{k}]": stage.name for k, stage in enumerate(tasks.stage_tasks(task))}
    return stages.get(part.key.partition(".")[0], task.name)


def _place(file: str, raw: bytes, key: str) -> str:
    """`file:line:col` of a key, or of what it would stand below."""
    import re

    from searchkit.reading import nodes

    place = node = nodes.parse(raw, file).root
    for word in re.findall(r"[^.\[\]]+", key):
        if word.isdigit() and int(word) < len(node.items):
            place = node = node.items[int(word)]
        elif word in node.entries:
            place, node = node.entries[word]
        elif word == "monitor" and "pavi" in node.entries:
            place, node = node.entries["pavi"]
    return f"{file}:{place.line}:{place.col}"
