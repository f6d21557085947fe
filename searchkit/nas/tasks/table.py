"""The tasks. What they have in common is searchkit.nas.train.task; what is done in each stands in its own file, which
needs torch and is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchkit.nas.data.metrics import PER_CLASS, metric_names
from searchkit.nas.train.sections import Data, LabelData, LabelSplit, Split, path_of
from searchkit.nas.train.task import Functions, Task

if TYPE_CHECKING:
    from searchkit.nas.data.coco import CocoSet
    from searchkit.nas.data.labelled import LabelSet
    from searchkit.nas.data.pixels import Reading


def _open_coco(data: Data, name: str, split: Split, reading: Reading) -> CocoSet:
    """One split of the data, with the chosen classes; that of training must have them all."""
    from searchkit.nas.data import coco

    return coco.load_coco(
        path_of(split.annotations, f"data.{name}.annotations"),
        path_of(split.images, f"data.{name}.images"),
        classes=data.classes or None,
        partial=name != "train",
        reading=reading,
        min_box=data.augment.min_box,
    )


def _open_labelled(data: LabelData, name: str, split: LabelSplit, reading: Reading) -> LabelSet:
    """One split of the data, with the chosen classes; that of training must have them all."""
    from searchkit.nas.data import labelled

    return labelled.open_labelled(
        path_of(split.path, f"data.{name}.path"),
        labels=None if split.labels is None else path_of(split.labels, f"data.{name}.labels"),
        portion=split.portion,
        per_class=split.per_class,
        classes=data.classes,
        reading=reading,
        partial=name != "train",
    )


def _detection() -> Functions:
    from searchkit.nas.tasks.detection import DETECTION

    return DETECTION


def _classification() -> Functions:
    from searchkit.nas.tasks.classification import CLASSIFICATION

    return CLASSIFICATION


TASKS: dict[str, Task] = {
    "det": Task(
        name="det",
        section=Data,
        needs="annotations (COCO json) and images (folder)",
        open_split=_open_coco,
        input_shape=800,
        metrics=lambda test: metric_names(test.areas or (), test.max_dets),
        per_class=PER_CLASS,
        train_keys=(),
        test_keys=("max_dets", "areas"),
        functions=_detection,
    ),
    "cls": Task(
        name="cls",
        section=LabelData,
        needs="path (class folders, an idx file, CIFAR-10's binary files, or .npz)",
        open_split=_open_labelled,
        input_shape=224,
        metrics=lambda test: ("top1", "top5"),
        per_class="top1/",
        train_keys=("label_smoothing",),
        test_keys=(),
        functions=_classification,
    ),
}
