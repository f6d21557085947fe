"""Average precision of detections, as COCO defines it (https://cocodataset.org/#detection-eval).

The numbers are those of pycocotools, or of faster-coco-eval, which gives the same ones faster; nothing is computed here
but means over the precision table that both return.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.data.coco import CocoSet, ImageInfo, Truth
from searchkit.nas.data.metrics import AREAS, EVERYWHERE, FEWER, IOUS, MAX_DETS, PER_CLASS, metric_names

_PACKAGES = {"faster": "faster_coco_eval", "pycocotools": "pycocotools"}  # `auto` takes the first that is installed

Predictions = Mapping[int, Mapping[str, Any]]


def evaluate(data: CocoSet, predictions: Predictions, backend: str = "auto") -> dict[str, Any]:
    """Score predictions once. To score many on one set, keep an `Evaluator`."""
    return Evaluator(data, backend).evaluate(predictions)


class Evaluator:
    """The ground truth of a set, indexed once, for any number of evaluations.

    backend: `pycocotools`, `faster` (faster-coco-eval), or `auto`: the latter where it is installed. max_dets: how many
    detections of one class in one image count, the best by score. areas: further ranges by name, px^2, beside COCO's
    s, m, l; per_class: whether single classes are among the metrics.

    The truth is all boxes of the file (`Truth`), so that scores equal those of pycocotools on that file, provided that
    pycocotools reads it correctly: its annotations have areas and distinct ids, none of them 0.
    """

    def __init__(
        self,
        data: CocoSet,
        backend: str = "auto",
        *,
        max_dets: int = MAX_DETS,
        areas: Mapping[str, Sequence[float]] | None = None,
        per_class: bool = False,
    ) -> None:
        self.backend = _backend(backend)
        self._coco, self._cocoeval = _classes(self.backend)
        self._sizes = {image.id: (image.width, image.height) for image in data.images}
        self.names, self.per_class, self.max_dets = data.names, per_class, max_dets
        own = {name: (name, float(low), float(high)) for name, (low, high) in (areas or {}).items()}
        self.areas = {**AREAS, **own}
        truths = [(image.id, image.truth or _truth(image)) for image in data.images]
        self._truth = self._index([row for number, truth in truths for row in _truth_rows(number, truth)])
        most = max(int(np.bincount(truth.labels[~truth.crowd], minlength=1).max()) for _, truth in truths)
        self.notes: tuple[str, ...] = ()  # about the set, whatever is predicted
        if most > max_dets:
            note = f"an image has {most} boxes of one class: AP 1 is out of reach, {max_dets} detections count"
            self.notes = (f"{note} (test.max_dets)",)
        labels = np.concatenate([truth.labels[~truth.crowd] for _, truth in truths])
        self.examples = np.bincount(labels, minlength=len(data.names) + 1)[1:]  # boxes of each class
        self._solid = any(bool((truth.xywh[~truth.crowd, 2:] > 0).all(1).any()) for _, truth in truths)
        self._counted = np.concatenate([truth.area[~truth.crowd] for _, truth in truths])

    def evaluate(self, predictions: Predictions) -> dict[str, Any]:
        """Predictions per image id: boxes (N, 4) xyxy px, scores (N,), labels (N,) in 1..C; tensors, arrays or lists.
        An image that is not named has none. Detections that are not finite are left out.

        Returns the metrics of `metric_names` (bbox_AR: at max_dets), all in [0, 1], -1 where there is no truth to find;
        per_class: the mean AP over IoU 0.50:0.95 for every class by its name (-1: no truth, and not in the means);
        notes: list of sentences about what was odd, mostly empty.

        Raises UsageError for image ids or labels that the set does not have, and for arrays that don't fit together.
        """
        rows, notes = self._rows(predictions)
        # The result object is made by hand, since loadRes of pycocotools fails where there is no detection.
        detections = self._index(rows)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints, and has no option not to
            run = self._cocoeval(self._truth, detections, "bbox")
            run.params.maxDets = [*(n for n in FEWER if n < self.max_dets), self.max_dets]
            run.params.areaRngLbl = ["all", *(label for label, _, _ in self.areas.values())]
            run.params.areaRng = [[0.0, EVERYWHERE], *([low, high] for _, low, high in self.areas.values())]
            run.evaluate()
            run.accumulate()
        return _summary(run, self.names, self.areas, self.max_dets) | {"notes": [*self.notes, *notes]}

    def matches(self, predictions: Predictions) -> list[tuple[list[int], list[Any], np.ndarray]]:
        """What evaluating predictions compares, for each class: (the ids of all images, for each image what pycocotools
        says of it or None where it has neither truth nor detections, how many boxes there are to find on each). The
        evaluator's backend must be pycocotools: the other one keeps no such list."""
        detections = self._index(self._rows(predictions)[0])
        with contextlib.redirect_stdout(io.StringIO()):
            run = self._cocoeval(self._truth, detections, "bbox")
            run.params.maxDets = [self.max_dets]
            run.params.areaRngLbl, run.params.areaRng = ["all"], [[0.0, EVERYWHERE]]
            run.evaluate()
        images = [int(number) for number in run.params.imgIds]
        each = [run.evalImgs[k * len(images) : (k + 1) * len(images)] for k in range(len(run.params.catIds))]
        return [(images, rows, np.array([_objects(row) for row in rows])) for rows in each]

    def without_value(self) -> dict[str, str]:
        """Metrics that have no value on this set, whatever is predicted, and why: there is no truth to find."""
        reasons: dict[str, str] = {}
        for suffix, (_, low, high) in self.areas.items():
            if not ((self._counted >= low) & (self._counted <= high)).any():
                why = (
                    f"no object has an area of {low:g} to {high:g} px^2"
                    if high < EVERYWHERE
                    else (f"no object has an area of {low:g} px^2 or more")
                )
                reasons |= {f"bbox_mAP_{suffix}": why, f"bbox_AR_{suffix}": why}
        reasons |= {
            f"{PER_CLASS}{name}": f"there is no object of class {name}"
            for name, n in zip(self.names, self.examples, strict=True)
            if not n
        }
        if not self.examples.any():
            reasons |= dict.fromkeys(self._all_names(), "there is no object at all")
        elif not self._solid:
            reasons |= dict.fromkeys(self._all_names(), "no box has a width and a height above 0")
        return reasons

    def _all_names(self) -> tuple[str, ...]:
        return metric_names([name for name in self.areas if name not in AREAS], self.max_dets)

    def _index(self, rows: list[dict[str, Any]]) -> Any:
        """A COCO object of annotations without ids; their ids begin at 1, since 0 means `unmatched` to the matching."""
        coco = self._coco()
        coco.dataset = {
            "images": [{"id": number, "width": w, "height": h} for number, (w, h) in self._sizes.items()],
            "categories": [{"id": label, "name": name} for label, name in enumerate(self.names, 1)],
            "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _rows(self, predictions: Predictions) -> tuple[list[dict[str, Any]], list[str]]:
        unknown = [number for number in predictions if number not in self._sizes]
        if unknown:
            message = (
                f"{len(unknown)} predictions are for images that the set does not have, e.g. image id {unknown[0]!r}"
            )
            raise UsageError(message, "Score them on the set they were made from.")
        rows: list[dict[str, Any]] = []
        dropped = 0
        for number, prediction in predictions.items():
            boxes, scores, labels = _arrays(number, prediction, len(self.names))
            finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
            dropped += int((~finite).sum())
            rows += _rows_of(number, _xywh(boxes[finite]), labels[finite], scores[finite])
        return rows, [f"{dropped} detections had a NaN or infinite box or score and were left out"] * bool(dropped)


def _objects(row: Any) -> int:
    """The boxes to find on one image, of what pycocotools says of it."""
    return 0 if row is None else int(np.count_nonzero(np.asarray(row["gtIgnore"]) == 0))


def _backend(name: str) -> str:
    names = ("auto", *_PACKAGES)
    if name not in names:
        raise UsageError(f"unknown backend {name!r}{did_you_mean(name, names)}")
    packages = _PACKAGES if name == "auto" else {name: _PACKAGES[name]}
    for backend, package in packages.items():
        if importlib.util.find_spec(package):
            return backend
    needed = " or ".join(package.replace("_", "-") for package in packages.values())
    raise UsageError(f"scoring detections needs {needed}", "pip install 'searchkit[nas]' installs pycocotools.")


def _classes(backend: str) -> tuple[Any, Any]:
    """(class of an indexed annotation file, class of an evaluation) of a package."""
    if backend == "faster":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, partial(COCOeval_faster, print_function=_silent)
    from pycocotools.coco import COCO as PlainCOCO
    from pycocotools.cocoeval import COCOeval

    return PlainCOCO, COCOeval


def _silent(*_: object) -> None:
    """Print nothing."""


def _truth(image: ImageInfo) -> Truth:
    return Truth(_xywh(image.boxes.astype(np.float64)), image.area.astype(np.float64), image.labels, image.crowd)


def _truth_rows(number: int, truth: Truth) -> list[dict[str, Any]]:
    columns = (truth.xywh.tolist(), truth.area.tolist(), truth.labels.tolist(), truth.crowd.tolist())
    return [
        {"image_id": number, "category_id": label, "bbox": bbox, "area": area, "iscrowd": int(crowd)}
        for bbox, area, label, crowd in zip(*columns, strict=True)
    ]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _rows_of(number: int, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Result annotations of one image; boxes (N, 4) xywh. The fields are those that loadRes of pycocotools adds."""
    return [
        {"image_id": number, "category_id": label, "bbox": box, "score": score, "area": box[2] * box[3], "iscrowd": 0}
        for box, label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True)
    ]


def _arrays(number: int, prediction: Mapping[str, Any], n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """boxes (N, 4) float64, scores (N,) float64, labels (N,) int64."""
    boxes, scores, labels = (_array(prediction[key]) for key in ("boxes", "scores", "labels"))
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != labels.shape or scores.shape != boxes.shape[:1]:
        shapes = f"boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape}"
        raise UsageError(f"image {number}: boxes (N, 4), scores (N,) and labels (N,) must fit together; got {shapes}")
    wrong = labels[(labels < 1) | (labels > n_classes)]
    if wrong.size:
        hint = "Labels count from 1; 0 is background. Was the model trained with other classes?"
        raise UsageError(f"image {number}: labels must lie in 1..{n_classes}; got {wrong[0]:g}", hint)
    return boxes.astype(np.float64), scores.astype(np.float64), labels.astype(np.int64)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _summary(
    run: Any, names: tuple[str, ...], areas: Mapping[str, tuple[str, float, float]], max_dets: int
) -> dict[str, Any]:
    """Means over the tables of precisions (thresholds, recalls, classes, area ranges, maxDets) and recalls (without
    `recalls`); -1 is `no truth`."""
    at = run.params.maxDets.index(max_dets)
    precision, recall = np.asarray(run.eval["precision"])[..., at], np.asarray(run.eval["recall"])
    all_areas = precision[..., 0]
    result: dict[str, Any] = {"bbox_mAP": _mean(all_areas)}
    for metric, threshold in IOUS.items():
        result[metric] = _mean(all_areas[np.isclose(run.params.iouThrs, threshold)])
    result |= {f"bbox_mAP_{suffix}": _mean(precision[..., k]) for k, suffix in enumerate(areas, 1)}
    result["bbox_AR"] = _mean(recall[..., 0, at])
    result |= {f"bbox_AR_{n}": _mean(recall[..., 0, k]) for k, n in enumerate(run.params.maxDets[:-1])}
    result |= {f"bbox_AR_{suffix}": _mean(recall[..., k, at]) for k, suffix in enumerate(areas, 1)}
    result["per_class"] = {name: _mean(all_areas[:, :, k]) for k, name in enumerate(names)}
    return result


def _mean(table: np.ndarray) -> float:
    counted = table[table > -1]
    return float(counted.mean()) if counted.size else -1.0


def as_results(data: CocoSet, predictions: Predictions) -> tuple[list[dict[str, Any]], int]:
    """(detections as COCO's results have them: image_id, category_id of the file, bbox xywh, score; how many were left
    out, since they are of classes that the file does not declare, or not finite)."""
    rows: list[dict[str, Any]] = []
    left_out = 0
    file_ids = {image.id: image.file_id for image in data.images}
    for number, prediction in predictions.items():
        boxes, scores, labels = _arrays(number, prediction, len(data.names))
        ids = [data.categories[label - 1][0] for label in labels]
        usable = np.isfinite(boxes).all(1) & np.isfinite(scores) & np.array([i is not None for i in ids], bool)
        left_out += int((~usable).sum())
        for box, score, k in zip(
            _xywh(boxes[usable]).tolist(), scores[usable].tolist(), np.flatnonzero(usable), strict=True
        ):
            rows.append({"image_id": file_ids[number], "category_id": ids[k], "bbox": box, "score": score})
    return rows, left_out
