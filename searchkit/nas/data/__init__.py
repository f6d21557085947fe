"""Data: COCO and labelled sets, augmentation, loaders whose batches depend on (seed, step) alone, scores, toys."""

from searchkit.nas.data.augment import Augment
from searchkit.nas.data.coco import CocoSet, ImageInfo, load_coco, require_boxes, subset
from searchkit.nas.data.coco_eval import Evaluator, evaluate
from searchkit.nas.data.images import DetectionData
from searchkit.nas.data.label_augment import LabelAugment
from searchkit.nas.data.labelled import LabelSet, open_labelled
from searchkit.nas.data.loader import batch_ids, eval_loader, steps_per_epoch, train_loader
from searchkit.nas.data.report import DataReport
from searchkit.nas.data.toy import make_digits_det, make_toy_det
from searchkit.nas.data.toy_cls import make_digits_cls, make_toy_cls

__all__ = [
    "Augment",
    "CocoSet",
    "DataReport",
    "DetectionData",
    "Evaluator",
    "ImageInfo",
    "LabelAugment",
    "LabelSet",
    "batch_ids",
    "eval_loader",
    "evaluate",
    "load_coco",
    "make_digits_cls",
    "make_digits_det",
    "make_toy_cls",
    "make_toy_det",
    "open_labelled",
    "require_boxes",
    "steps_per_epoch",
    "subset",
    "train_loader",
]
