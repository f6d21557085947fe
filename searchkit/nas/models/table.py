"""The parts of networks by name, and the user's own: their classes, loaded when they are asked for."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from typing import Any

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.part import BACKBONE, HEAD, NECK

BACKBONES: dict[str, str] = {
    "resnet": "searchkit.nas.models.backbones.resnet:ResNet",
    "mobilenet_v2": "searchkit.nas.models.backbones.mobilenet:MobileNetV2",
    "mobilenet_v3": "searchkit.nas.models.backbones.mobilenet_v3:MobileNetV3",
    "efficientnet_lite": "searchkit.nas.models.backbones.efficientnet_lite:EfficientNetLite",
    "attentive_nas": "searchkit.nas.models.backbones.attentive_nas:AttentiveNAS",
    "big_resnet": "searchkit.nas.models.backbones.big_resnet:BigResNet",
    "regnet": "searchkit.nas.models.backbones.regnet:RegNet",
    "shufflenet_v2": "searchkit.nas.models.backbones.shufflenet:ShuffleNetV2",
}
NECKS: dict[str, str] = {
    "fpn": "searchkit.nas.models.necks.fpn:FPNNeck",
    "elastic_fpn": "searchkit.nas.models.necks.elastic_fpn:ElasticFPN",
    "ssd_extras": "searchkit.nas.models.necks.ssd_extras:SSDExtras",
    "none": "searchkit.nas.models.necks.none:NoNeck",
    "hidden": "searchkit.nas.models.necks.hidden:HiddenNeck",
}
HEADS: dict[str, str] = {  # the first of each task is that of configs that name none
    "faster_rcnn": "searchkit.nas.models.heads.faster_rcnn:FasterRCNNHead",
    "retinanet": "searchkit.nas.models.heads.retinanet:RetinaNetHead",
    "ssd": "searchkit.nas.models.heads.ssd:SSDHead",
    "linear": "searchkit.nas.models.heads.linear:LinearHead",
}
TABLES: Mapping[str, Mapping[str, str]] = {BACKBONE: BACKBONES, NECK: NECKS, HEAD: HEADS}


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
        return part_class(part, table[name])
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


def heads_of(task: str) -> dict[str, Any]:
    """The classes of a task's heads by name, the default first."""
    classes = {name: part_class(HEAD, name) for name in HEADS}
    return {name: cls for name, cls in classes.items() if task == cls.TASK}


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
