"""A search over the subnets of a supernet: what defines it, what its trials report, where it stands.

The suite runs it (search-run, warm workers); this side meets it at files alone. A search has a folder:

    search.json    what defines the search, and where its files lie now: config, checkpoint, current folder
    search.yaml    the same for search-run, made from it
    results.jsonl  one record for each arch that was scored, appended by the workers
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from searchkit import fsio
from searchkit.errors import ConflictError, UsageError, did_you_mean
from searchkit.nas.cost.latency import NO_TABLES, Table
from searchkit.nas.cost.rules import METERS
from searchkit.nas.space import shapes
from searchkit.nas.space.shapes import InputShape, among, plain_shape, shape_text
from searchkit.nas.space.space import Space
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.values import text_of
from searchkit.reading import expression
from searchkit.records import modelspace
from searchkit.records.arch import Arch
from searchkit.records.objective import MODES, Objective

Record = dict[str, Any]

DIRECT, PROXY = "direct", "proxy"  # tags of scores with the supernet's weights, and after a short tuning
COSTS = {"macs": "overhead.flops", "params": "overhead.params"}  # short names of what a record holds
PLAN, CONFIG, RESULTS, LOG = "search.json", "search.yaml", "results.jsonl", "search.log"
INPUT = "input_shape"  # the argument of the suite, where there are several
TASK = "search"  # of the suite
HIDDEN = (".search-run", ".searchignore")  # of the suite, in the folder of a search
OLD = "old-"  # what the folders of searches that were moved away begin with
VERBS, OLD_VERBS = "searchkit.nas.cli", "searchkit.nas_cli"  # the module of search-nas, and its name of before
MEASURES = f"{VERBS}.score:measures"  # what constraints may name beside the knobs
LONG = ("arch.", "data.", "overhead.", "metric.")  # names as records have them
SECTIONS = ("model", "space", "data", "test", "finetune")  # of a config; finetune counts in proxy mode alone

# name on the command line -> (the suite's sampler, its option for each of ours, our defaults)
ALGORITHMS: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, Any]]] = {
    "random": ("random", {}, {}),
    "evolution": (
        "spos",
        {"population": "population", "top_k": "top_k", "mutation": "mutation"},
        {"population": 50, "top_k": 10, "mutation": 0.1},
    ),
    "regularized": ("evolution", {"population": "population"}, {"population": 50}),
    "nsga2": ("nsga2", {"population": "population", "mutation": "mutation"}, {"population": 50}),
}


@dataclass(frozen=True)
class Plan:
    """What defines a search: two runs of equal plans in one folder are one search. Plain data."""

    algorithm: str
    options: Mapping[str, Any]  # of the suite's sampler
    objectives: tuple[tuple[str, str], ...]  # (name, max or min)
    constraints: tuple[str, ...]
    input_shapes: tuple[InputShape, ...]  # several: one of them is a choice of the search, as those of the space are
    split: str
    seed: int
    tag: str
    overrides: tuple[str, ...]  # section.key=value
    checkpoint: str  # sha256
    sections: Mapping[str, str]  # of the config, by digest
    enqueue: tuple[Mapping[str, Any], ...] = ()  # knob values

    @property
    def wanted(self) -> tuple[Objective, ...]:
        return tuple(Objective(name, mode) for name, mode in self.objectives)

    def shape_of(self, values: Mapping[str, Any]) -> InputShape:
        """The input shape of a trial's values."""
        text = str(values.get(INPUT, shape_text(self.input_shapes[0])))
        return next(shape for shape in self.input_shapes if shape_text(shape) == text)

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @staticmethod
    def of(data: Mapping[str, Any]) -> Plan:
        """From `data`."""
        shapes = tuple(tuple(shape) if isinstance(shape, list) else shape for shape in data["input_shapes"])
        objectives = tuple((name, mode) for name, mode in data["objectives"])
        lists = {key: tuple(data[key]) for key in ("constraints", "overrides", "enqueue")}
        return Plan(**{**data, **lists, "objectives": objectives, "input_shapes": shapes})


def digests(recipe: Recipe, proxy: bool, tables: Mapping[str, Table] = NO_TABLES) -> dict[str, str]:
    """A digest of each section of a config that scores depend on, and of each of its tables of times. Where files lie
    makes no difference."""
    folder = os.path.dirname(os.path.abspath(recipe.path))
    texts = {name: text_of(getattr(recipe, name)).replace(folder + os.sep, "") for name in SECTIONS}
    if not proxy:
        del texts["finetune"]
    texts |= {"task": recipe.task.name, "train": f"{recipe.train.precision} {recipe.train.channels_last}"}
    of_tables = {f"meters.{name}": table.digest[:16] for name, table in tables.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()} | of_tables


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two searches, one line each."""
    lines = []
    for key in dict.fromkeys((*old, *new)):
        was, now = old.get(key, {}), new.get(key, {})
        if was == now:
            continue
        if key == "sections":
            names = [name for name in dict.fromkeys((*was, *now)) if was.get(name) != now.get(name)]
            lines.append(f"the config differs in {', '.join(names)}")
        elif key in ("checkpoint", "enqueue"):
            lines.append(f"{key} differs")
        else:
            lines.append(f"{key}: {_shown(was)} there, {_shown(now)} here")
    return lines


def _shown(value: Any) -> str:
    return json.dumps(value)


# --- what objectives and constraints may name -----------------------------------------------------------------------


def objectives(texts: Sequence[str], algorithm: str, metrics: Sequence[str], sample: Mapping[str, Any]) -> list[Any]:
    """(name, mode) of each NAME[:max|min]; without any, the task's first metric, with the cost for nsga2.

    `metrics` are those of the task, `sample` is a record with all that the records of the search hold. Raises
    UsageError for a name that none of them has, and for a mode that can't be told.
    """
    texts = texts or ([metrics[0], "macs"] if algorithm == "nsga2" else [metrics[0]])
    chosen: list[tuple[str, str]] = []
    for text in texts:
        meters = [name for name in sample["overhead"] if name not in ("flops", *COSTS)]
        names = [*metrics, *COSTS, *meters, *(n for n, v in modelspace.flatten(sample).items() if _is_number(v))]
        name, _, mode = (text, "", "") if text in names else text.rpartition(":") if ":" in text else (text, "", "")
        if name not in names:
            raise UsageError(f"--objective {text}: the records of this search have no {name!r}{_near(name, names)}")
        if not mode:
            is_cost = name in (*COSTS, *meters) or name.startswith("overhead.")
            mode = "min" if is_cost else "max" if name in metrics or name.startswith("metric.") else ""
        if mode not in MODES:
            fault = f"must end in :max or :min, not {mode!r}" if mode else "say which end is best, :max or :min"
            raise UsageError(f"--objective {text}: {fault}", f"Such as --objective {name}:max")
        if name in [other for other, _ in chosen]:
            raise UsageError(f"--objective {name} is given twice")
        chosen.append((name, mode))
    return chosen


def _near(name: str, names: Sequence[str]) -> str:
    first, slash, last = name.partition("/")
    classes = [n.removeprefix(f"{first}/") for n in names if n.startswith(f"{first}/")] if slash else []
    if classes:  # of which the nearest is not that of all names
        near = did_you_mean(last, classes)
        return near if near.startswith(" (did") else f" (classes: {', '.join(classes)})"
    near = did_you_mean(name, list(names))
    return near if near.startswith(" (did") else f" (valid: {', '.join(n for n in names if not n.startswith(LONG))})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sample_record(recipe: Recipe, plan_tag: str, shape: Any, metrics: Sequence[str]) -> Record:
    """A record with every name that those of a search hold; its numbers stand for nothing."""
    names = {prefixed(recipe, name): 0.0 for name in metrics}
    overhead = {"flops": 0, "params": 0, **dict.fromkeys(recipe.meters, 0.0)}
    arch = recipe.space.maximum().nested()
    return {"arch": arch, "data": {"input_shape": shape}, "overhead": overhead, "metric": {plan_tag: names}}


def tells_classes(recipe: Recipe, texts: Sequence[str]) -> bool:
    """Whether objectives name metrics of single classes."""
    return any(recipe.task.per_class in text for text in texts)


def check_values(recipe: Recipe, split: str, objectives: Iterable[tuple[str, str]], reasons: Mapping[str, str]) -> None:
    """Raises UsageError for an objective (name, mode) that can have no value, since the images have nothing of the kind
    to find. reasons: the metrics, each with why it has none, see searchkit.nas.train.bench.metrics_on."""
    by_name = {**reasons, **{prefixed(recipe, name): why for name, why in reasons.items()}}
    for name, _ in objectives:
        if why := by_name.get(name.partition("metric.")[2].partition(".")[2] or name):
            with_value = ", ".join(n for n, reason in reasons.items() if not reason)
            raise UsageError(
                f"--objective {name} has no value on data.{split}: {why}", f"With a value: {with_value or 'none'}"
            )


def with_enqueued(plan: Plan, recipe: Recipe, records: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan with the archs of records, which are scored first. Raises UsageError for one that is not of the grid."""
    points = []
    for i, record in enumerate(records, 1):
        try:
            arch = Arch.of(record.get("arch") or {})
            if wrong := recipe.space.faults(arch):
                raise UsageError("; ".join(wrong))
            point: dict[str, Any] = dict(recipe.space.values_of(arch))
            if len(plan.input_shapes) > 1:
                shape = record.get("data", {}).get("input_shape")
                shape = plan.input_shapes[0] if shape is None else among(shape, plan.input_shapes)
                if shape not in plan.input_shapes:
                    raise UsageError(f"its input shape {shape_text(shape)} is not one of the search")
                point[INPUT] = shape_text(shape)
            points.append(point)
        except UsageError as e:
            raise UsageError(f"--enqueue: record {i}: {e.message}", e.hint) from e
    unique = {json.dumps(point, sort_keys=True): point for point in points}
    return replace(plan, enqueue=tuple(unique.values()))


def prefixed(recipe: Recipe, metric: str) -> str:
    """What a record calls a metric of the task."""
    name: str = recipe.task.objective.record_name(recipe.data, metric)
    return name


def value_of(record: Mapping[str, Any], name: str, tag: str) -> float:
    """The value of an objective in a record; NaN where it has none."""
    metrics = record.get("metric", {}).get(tag, {})
    for key, value in metrics.items():
        if key == name or key.endswith(f"_{name}"):
            return float(value)
    flat = modelspace.flatten(record)
    value = flat.get(COSTS.get(name, name), flat.get(f"overhead.{name}"))
    return float(value) if value is not None and _is_number(value) else math.nan


def facts_of(
    arch: Arch, shape: Any, costs: Mapping[str, float], meters: Collection[str] = tuple(METERS)
) -> dict[str, Any]:
    """What constraints may name beside the knobs: costs, and the names of records, those of an arch short or whole.
    Lists are there by position too: `backbone.body.depth.0`. costs: by meter; 0 for those that it lacks."""
    facts: dict[str, Any] = {name: costs.get(name, 0) for name in meters}
    facts |= {COSTS.get(name, f"overhead.{name}"): cost for name, cost in facts.items()}
    facts["data.input_shape"] = shape
    for name, value in arch.items:
        facts[name] = facts[f"arch.{name}"] = value
    for name, value in list(facts.items()):
        if isinstance(value, list | tuple):
            facts.update({f"{name}.{i}": v for i, v in enumerate(value)})
    return facts


def numeric(
    constraints: Iterable[str], knobs: Sequence[str], space: Space, shape: Any, tables: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """(the constraints over numbers alone, what they name beside the knobs): a list becomes `[name.0, name.1, …]`.

    `input_shape` becomes what records call it. Raises UsageError for unknown names, and for texts that are no
    expressions. tables: the names of the config's tables of times.
    """
    facts = facts_of(space.maximum(), shape, {}, (*METERS, *tables))
    texts: list[str] = []
    names_used: dict[str, None] = {}
    for text in constraints:
        text = re.sub(rf"(?<![\w.]){INPUT}(?![\w.])", shapes.INPUT, text)  # the argument is text, this one a number
        try:
            names = expression.parse(text, knobs).names
        except UsageError as e:
            raise UsageError(f"--constraint: {e.message}", e.hint) from e
        for name in names:
            if name not in facts and name not in knobs:
                plain = [n for n in (*facts, *knobs) if not n.rpartition(".")[2].isdigit()]
                raise UsageError(f"--constraint {text!r}: there is no {name!r}{did_you_mean(name, plain)}")
            value = facts.get(name, 0)
            parts = [f"{name}.{i}" for i in range(len(value))] if isinstance(value, list | tuple) else []
            if parts:
                text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.])", f"[{', '.join(parts)}]", text)
            names_used.update(dict.fromkeys(n for n in parts or [name] if n not in knobs))
        texts.append(text)
    return texts, list(names_used)


# --- for search-run --------------------------------------------------------------------------------------------------


def document(plan: Plan, space: Space, folder: str, python: str, tables: Collection[str] = ()) -> str:
    """The config of the suite (YAML) for a search whose files lie in `folder`. tables: see `numeric`."""
    import yaml

    args = []
    for knob in space.knobs():
        arg: dict[str, Any] = {"type": "Categorical", "name": knob.name, "value": list(knob.choices)}
        if knob.when is not None:
            arg["when"] = f"{knob.when[0]} > {knob.when[1]}"
        args.append(arg)
    if len(plan.input_shapes) > 1:
        args.append({"type": "Categorical", "name": INPUT, "value": list(map(shape_text, plan.input_shapes))})
    path = os.path.join(folder, PLAN)
    task: dict[str, Any] = {
        "template": [_plain(python), "-m", VERBS, "score", _plain(path)],
        "search_args": args,
    }
    knobs, shape = [arg["name"] for arg in args], plain_shape(plan.input_shapes[0])
    texts, names = numeric(plan.constraints, knobs, space, shape, tables)
    texts += [f"{first} <= {second}" for first, second in space.orders()]
    if texts:
        task["constraints"] = texts
    if names:
        task["measures"] = {"call": MEASURES, "given": {"path": path, "names": names}}
    sampler = ALGORITHMS[plan.algorithm][0]
    body = {
        "task": task,
        "search": {
            "sampler": {"type": sampler, **plan.options},
            "seed": plan.seed,
            "objectives": [{"name": name, "mode": mode} for name, mode in plan.objectives],
        },
        "run": {"workers": True},
        "monitor": {"tensorboard": False},
    }
    if plan.enqueue:
        body["search"]["enqueue"] = [dict(point) for point in plan.enqueue]
    text = yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return f"# made by search-nas search; look at it with search-ctl --task {TASK} in this folder\n{text}"


def as_begun(text: str, before: bytes) -> str:
    """The config of a search that may have begun under the old name of the module: a template can't change."""
    return text.replace(VERBS, OLD_VERBS) if OLD_VERBS.encode() in before else text


def _plain(word: str) -> str:
    """A word of a template that stands for itself."""
    return word.replace("{", "{{").replace("}", "}}")


# --- its folder ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Here:
    """Where the files of a search lie now: these may be others when it goes on, in a later attempt of a job."""

    config: str
    checkpoint: str
    cwd: str  # paths in the config begin here
    device: str | None = None
    gpus: tuple[str, ...] = ()  # those of the job that the search itself is: its workers share them out


def save(folder: str, plan: Plan, here: Here) -> None:
    """Write PLAN of a search."""
    with fsio.storage():
        body = json.dumps({"search": plan.data(), "here": asdict(here)}, indent=1)
        fsio.atomic_write(os.path.join(folder, PLAN), body + "\n")


def load(path: str) -> tuple[Plan, Here]:
    """What `save` wrote. Raises UsageError for another file."""
    raw = fsio.read_bytes(path)
    try:
        body = json.loads(raw or b"")
        here = body["here"]
        return Plan.of(body["search"]), Here(**{**here, "gpus": tuple(here["gpus"])})
    except (ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{path} is not what search-nas search writes", "Name the search.json of a search") from e


def check_same(folder: str, plan: Plan) -> None:
    """Raises ConflictError where `folder` belongs to another search, or to something else."""
    if not os.path.isdir(folder):
        return
    path = os.path.join(folder, PLAN)
    if not os.path.exists(path):
        names = os.listdir(folder)  # hidden ones of the user may be there, and older searches that --overwrite put away
        if any(name in HIDDEN or not name.startswith((".", OLD)) for name in names):
            raise ConflictError(f"{folder} holds other files, and no search", "Name another --work-dir")
        return
    if lines := differences(load(path)[0].data(), plan.data()):
        raise ConflictError(
            f"{folder} has another search: {'; '.join(lines)}",
            "Take another --work-dir, or move the old search away (--overwrite)",
        )
