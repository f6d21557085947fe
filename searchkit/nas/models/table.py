"""The parts of networks by name, and the user's own: their classes, loaded when they are asked for.

A part of ours has two: its plan side, which reading a config and pricing need, and which imports no torch; and the
whole of it. One of the user's own is one class.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from typing import Any, NamedTuple

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.part import BACKBONE, HEAD, NECK

_MODELS = "searchkit.nas.models"


class Sides(NamedTuple):
    """Where the two classes of a part are, each as "module:Class" below searchkit.nas.models."""

    plan: str  # its options, and what it is made of: without torch
    whole: str  # a subclass of that, which also makes and runs the modules


BACKBONES: dict[str, Sides] = {
    "resnet": Sides("backbones.resnet_plan:ResNetPlan", "backbones.resnet:ResNet"),
    "mobilenet_v2": Sides("backbones.mobilenet_plan:MobileNetV2Plan", "backbones.mobilenet:MobileNetV2"),
    "mobilenet_v3": Sides("backbones.mobilenet_v3_plan:MobileNetV3Plan", "backbones.mobilenet_v3:MobileNetV3"),
    "efficientnet_lite": Sides(
        "backbones.efficientnet_lite_plan:EfficientNetLitePlan", "backbones.efficientnet_lite:EfficientNetLite"
    ),
    "attentive_nas": Sides("backbones.attentive_nas_plan:AttentiveNASPlan", "backbones.attentive_nas:AttentiveNAS"),
    "big_resnet": Sides("backbones.big_resnet_plan:BigResNetPlan", "backbones.big_resnet:BigResNet"),
    "regnet": Sides("backbones.regnet_plan:RegNetPlan", "backbones.regnet:RegNet"),
    "darknet": Sides("backbones.darknet_plan:DarknetPlan", "backbones.darknet:Darknet"),
    "shufflenet_v2": Sides("backbones.shufflenet_plan:ShuffleNetV2Plan", "backbones.shufflenet:ShuffleNetV2"),
}
NECKS: dict[str, Sides] = {
    "fpn": Sides("necks.fpn_plan:FPNPlan", "necks.fpn:FPNNeck"),
    "elastic_fpn": Sides("necks.elastic_fpn_plan:ElasticFPNPlan", "necks.elastic_fpn:ElasticFPN"),
    "ssd_extras": Sides("necks.ssd_extras_plan:SSDExtrasPlan", "necks.ssd_extras:SSDExtras"),
    "yolo": Sides("necks.yolo_plan:YOLONeckPlan", "necks.yolo:YOLONeck"),
    "none": Sides("necks.none:NoNeck", "necks.none:NoNeck"),
    "hidden": Sides("necks.hidden_plan:HiddenPlan", "necks.hidden:HiddenNeck"),
}
HEADS: dict[str, Sides] = {  # the first of each task is that of configs that name none
    "faster_rcnn": Sides("heads.faster_rcnn_plan:FasterRCNNPlan", "heads.faster_rcnn:FasterRCNNHead"),
    "retinanet": Sides("heads.retinanet_plan:RetinaNetPlan", "heads.retinanet:RetinaNetHead"),
    "ssd": Sides("heads.ssd_plan:SSDPlan", "heads.ssd:SSDHead"),
    "yolo": Sides("heads.yolo_plan:YOLOPlan", "heads.yolo:YOLOHead"),
    "linear": Sides("heads.linear_plan:LinearPlan", "heads.linear:LinearHead"),
}
TABLES: Mapping[str, Mapping[str, Sides]] = {BACKBONE: BACKBONES, NECK: NECKS, HEAD: HEADS}


def plan_class(part: str, name: str) -> Any:
    """The plan side of a backbone, neck or head, without torch; of the user's own the one class that it is.

    Raises UsageError.
    """
    sides = TABLES[part].get(name)
    return part_class(part, name) if sides is None else _in_table(sides.plan)


def part_class(part: str, name: str) -> Any:
    """The class of a backbone, neck or head by its name, "path/to/file.py:Class" or "package.module:Class".

    Raises UsageError.
    """
    place, colon, cls = name.rpartition(":")
    if not colon:
        table = TABLES[part]
        if name not in table:
            hint = 'Your own class is given as "path/to/file.py:Class" or "package.module:Class".'
            raise UsageError(f"unknown {part} {name!r}{did_you_mean(name, tuple(table))}", hint)
        return _in_table(table[name].whole)
    if place.endswith(".py"):
        module = _module_of_file(part, place)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as e:
            if e.name is None or not f"{place}.".startswith(f"{e.name}."):
                raise  # the module is there; what it imports is not
            hint = "Install it, or give the file: path/to/file.py:Class."
            raise UsageError(f"{part} {name!r}: there is no module {e.name!r}", hint) from e
    chosen = getattr(module, cls, None)
    if not isinstance(chosen, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(f"{part} {name!r}: {place} has no class {cls!r}{did_you_mean(cls, classes)}")
    return chosen


def name_of(part: str, cls: type) -> str | None:
    """The name of a part's class in its table; None of one of the user's own."""
    place = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, sides in TABLES[part].items() if f"{_MODELS}.{sides.whole}" == place), None)


def options_of(backbone: type) -> tuple[dict[str, Any], bool]:
    """(the options that a backbone's constructor takes, with their defaults; whether it takes any other). What it
    passes on (`**options`) goes to the class that it extends, whose options are its own then."""
    options: dict[str, Any] = {}
    for cls in backbone.__mro__:
        if "__init__" not in vars(cls):
            continue
        given = [*inspect.signature(vars(cls)["__init__"]).parameters.values()][2:]  # behind self and the arch
        passed_on = [p for p in given if p.kind is p.VAR_KEYWORD]
        options |= {p.name: p.default for p in given if p not in passed_on and p.name not in options}
        if not passed_on:
            break
    options.pop("held", None)  # which the space says
    return options, bool(passed_on)


def heads_of(task: str) -> dict[str, Any]:
    """The plan sides of a task's heads by name, the default first."""
    classes = {name: plan_class(HEAD, name) for name in HEADS}
    return {name: cls for name, cls in classes.items() if task == cls.TASK}


def _in_table(place: str) -> Any:
    module, _, cls = place.partition(":")
    return getattr(importlib.import_module(f"{_MODELS}.{module}"), cls)


class FreshSource(SourceFileLoader):
    """Imports a file as it is now, and leaves no bytecode beside it: after an edit within the same second that keeps
    the length, the bytecode of the old file would be used."""

    def path_stats(self, path: str) -> Any:
        """None: so bytecode is neither looked for nor written."""
        raise OSError


def _module_of_file(part: str, path: str) -> Any:
    """A Python file as a module of its own name, run once for each content; sys.path stays as it is."""
    full = os.path.realpath(path)
    try:
        with open(full, "rb") as f:
            digest = hashlib.sha256(full.encode() + b"\0" + f.read()).hexdigest()[:16]
    except OSError as e:
        raise UsageError(f"cannot read the {part}'s file {path}: {e.strerror}", "Correct the path.") from e
    name = f"_searchkit_part_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full, loader=FreshSource(name, full))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
