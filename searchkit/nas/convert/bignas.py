"""What the block `bignas:` of United-Perception's configs says of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchkit.nas.convert.parts import count
from searchkit.reading.cursor import Cursor

MODULES = {f"neck.p{i}_conv.conv": f"backbone.fpn.extra_blocks.p{i}" for i in (6, 7)}
JOB_KEYS = ("loss_weight", "teacher0", "student", "warm_up_iters", "cfgs")


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
    mimics = [_mimic(job, notes) for job in _jobs(at, notes)]
    if mimics:
        train["distill"] = {"weight": 0, "mimic": [mimic for mimic in mimics if mimic]}
    return train


def _jobs(at: Cursor, notes: list[str]) -> list[Cursor]:
    """The jobs of `distiller.mimic`. In the documentation of United-Perception the keys of mimic_job0 are indented as
    if they were its neighbours: that is read as it was meant."""
    distiller = at.get("distiller")
    mimic = None if distiller is None else distiller.get("mimic")
    if mimic is None or mimic.node.kind != "map":
        return []
    jobs = [mimic[key] for key in mimic.node.entries if key.startswith("mimic_job")]
    empty = [job for job in jobs if job.node.is_null]
    beside = [key for key in JOB_KEYS if key in mimic]
    if len(empty) == 1 and beside:
        line = empty[0].node.line
        notes.append(
            f"line {line}: {empty[0].path} is empty, and {', '.join(beside)} stand beside it: they are read as its own"
        )
        return [job for job in jobs if job is not empty[0]] + [mimic.only(beside)]
    for job in empty:
        job.fault("must have loss_weight, teacher0 and student")
    return [job for job in jobs if not job.node.is_null]


def _mimic(at: Cursor, notes: list[str]) -> Mapping[str, Any]:
    """One job: whose features are to be like whose."""
    names = {}
    for side in ("student", "teacher0"):
        inside = at.get(side)
        given = [] if inside is None or "mimic_name" not in inside else inside["mimic_name"].items
        if len(given) != 1:
            at.fault(f"{side}.mimic_name must be a list of one name")
            return {}
        theirs = str(given[0].data)
        names[side] = MODULES.get(theirs, theirs)
        if theirs in MODULES:
            notes.append(f"{theirs} is called {MODULES[theirs]} here (search-nas modules lists all)")
        else:
            notes.append(f"{theirs} keeps its name, which is another here (search-nas modules lists all)")
    job: dict[str, Any] = {"student": names["student"], "of": "max"}
    if names["teacher0"] != names["student"]:
        job["teacher"] = names["teacher0"]
    if "loss_weight" in at:
        job["weight"] = at["loss_weight"].data
    if "warm_up_iters" in at and at["warm_up_iters"].data:
        job["warmup_steps"] = count(at["warm_up_iters"])
    return job
