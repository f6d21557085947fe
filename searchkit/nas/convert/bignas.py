"""What the block `bignas:` of United-Perception's configs says of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchkit.nas.convert.parts import count
from searchkit.reading.cursor import Cursor

_LEVELS = {
    **{f"neck.c{3 + i}_lateral": f"backbone.fpn.inner_blocks.{i}" for i in range(3)},
    **{f"neck.p{3 + i}_conv": f"backbone.fpn.layer_blocks.{i}" for i in range(3)},
}
MODULES = {  # of its big_fpn on C3 to C5, and ours: a conv with its norm, and the conv alone
    **_LEVELS,
    **{f"{theirs}.conv": f"{ours}.0" for theirs, ours in _LEVELS.items()},
    **{f"neck.p{i}_conv{end}": f"backbone.fpn.extra_blocks.p{i}" for i in (6, 7) for end in ("", ".conv")},
}
JOB_KEYS = ("loss_weight", "student", "warm_up_iters", "cfgs")  # and teacher0, teacher1 ...


def training_of(at: Cursor, notes: list[str]) -> dict[str, Any]:
    """What of `bignas:` is of the training."""
    train: dict[str, Any] = {}
    section = at.get("train")
    if section is not None and "sample_strategy" in section:
        train["sample_strategy"] = [item.data for item in section["sample_strategy"].items]
        several = section.get("sample_subnet_num")
        if several is not None and several.data == 1:
            notes.append("train.sample_subnet_num: 1 visits one subnet a step in turn there; here a step visits all")
    if section is not None and "valid_before_train" in section and section["valid_before_train"].data:
        notes.append("train.valid_before_train: test MAX and MIN beforehand by search-nas test")
    for section_name, keys in (
        ("data", ("share_interpolation", "share_input", "interpolation_type", "calib_meta_file", "metric1", "metric2")),
        ("subnet", ("baseline_flops", "subnet_sample_mode", "calib_bn")),
    ):
        inside = at.get(section_name)
        found = [key for key in keys if inside is not None and key in inside]
        if found:
            notes.append(f"bignas.{section_name}: {', '.join(found)}: see docs/coming-from.md for what stands for them")
    sampled = at.get("subnet")
    if sampled is not None and "flops_range" in sampled:
        ends = [item.node.text for item in sampled["flops_range"].items]
        if len(ends) != 2:
            sampled["flops_range"].fault("must be a list of the least and the greatest cost")
        number = sampled["subnet_count"].node.text if "subnet_count" in sampled else "500"
        notes.append(
            f"subnet.flops_range: search-nas flops CONFIG --sample {number} --range {' '.join(ends)} --out FILE"
        )
    distill = _distill(at, notes)
    if distill:
        train["distill"] = distill
    return train


def _distill(at: Cursor, notes: list[str]) -> dict[str, Any]:
    """What is learnt from teachers."""
    distiller = at.get("distiller")
    if distiller is None:
        return {}
    inside = distiller.get("mimic")
    if inside is not None and "task_loss" in inside:
        notes.append("mimic.task_loss: left out: it has no effect there; train.distill.label_weight weighs the labels")
    teachers: dict[str, Any] = {}
    mimic = [entry for job in _jobs(distiller, notes) for entry in _mimic(job, distiller, teachers, notes)]
    if not mimic:
        return {}
    if teachers:
        notes.append(
            f"distiller: {', '.join(teachers)}: networks of their own there; name their config and checkpoint below "
            "train.distill.teachers, of trainings by search-nas"
        )
    return {"weight": 0, "mimic": mimic} | ({"teachers": teachers} if teachers else {})


def _jobs(distiller: Cursor, notes: list[str]) -> list[Cursor]:
    """The jobs of `distiller.mimic`, which may itself be one. In the documentation of United-Perception the keys of
    mimic_job0 are indented as if they were its neighbours: that is read as it was meant."""
    mimic = distiller.get("mimic")
    if mimic is None or mimic.node.kind != "map":
        return []
    jobs = [mimic[key] for key in mimic.node.entries if key.startswith("mimic_job")]
    if not jobs:
        return [mimic]
    empty = [job for job in jobs if job.node.is_null]
    beside = [key for key in mimic.node.entries if key in JOB_KEYS or key.startswith("teacher")]
    if len(empty) == 1 and beside:
        line = empty[0].node.line
        notes.append(
            f"line {line}: {empty[0].path} is empty, and {', '.join(beside)} stand beside it: they are read as its own"
        )
        return [job for job in jobs if job is not empty[0]] + [mimic.only(beside)]
    for job in empty:
        job.fault("must have loss_weight, teacher0 and student")
    return [job for job in jobs if not job.node.is_null]


def _mimic(at: Cursor, distiller: Cursor, teachers: dict[str, Any], notes: list[str]) -> list[Mapping[str, Any]]:
    """One job: whose features are to be like whose. Its loss is, of each teacher, a mean over its modules. teachers:
    gets those that are networks of their own."""
    given = [key for key in at.node.entries if key.startswith("teacher")]
    students = _names(at, "student", notes)
    if not given:
        at.fault("must have a teacher0, the one that is learnt from")
    weight = at["loss_weight"].data if "loss_weight" in at else 1
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        at["loss_weight"].fault(f"must be a number, not {at['loss_weight'].shown}")
        weight = 1
    common: dict[str, Any] = {} if weight == len(students) else {"weight": weight / max(1, len(students))}
    if "warm_up_iters" in at and at["warm_up_iters"].data not in (-1, 0, None):
        common["warmup_steps"] = count(at["warm_up_iters"])
    if "cfgs" in at and at["cfgs"].data:
        notes.append(f"{at.path}.cfgs: left out: the loss is l2, of features as vectors of length 1, as is its default")
    entries: list[Mapping[str, Any]] = []
    for key in given:
        names = _names(at, key, notes)
        if len(names) != len(students):
            at.fault(f"{key}.mimic_name and student.mimic_name must be as long, not {len(names)} and {len(students)}")
        settings = distiller.get(key)
        own = settings is not None and bool(settings.data)
        if own:
            weights = at[key].get("teacher_weight")
            path = f"{key}.pth" if weights is None else str(weights.data)
            teachers[key] = {"config": f"{key}.yaml", "checkpoint": path}
        for ours, theirs in zip(students, names, strict=False):
            other = {} if theirs == ours else {"teacher": theirs}
            entries.append({"student": ours, **other, "of": key if own else "max", **common})
    return entries


def _names(at: Cursor, side: str, notes: list[str]) -> list[str]:
    """The modules of one side of a job, by our names where these are known."""
    inside = at.get(side)
    given = [] if inside is None or "mimic_name" not in inside else inside["mimic_name"].items
    if not given:
        at.fault(f"{side}.mimic_name must be a list of names")
    for name in {str(item.data): None for item in given}:
        called = f"is called {MODULES[name]} here" if name in MODULES else "keeps its name, which is another here"
        notes.append(f"{name} {called} (search-nas modules lists all)")
    return [MODULES.get(str(item.data), str(item.data)) for item in given]
