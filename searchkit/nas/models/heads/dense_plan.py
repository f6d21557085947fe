"""How dense detectors learn, and what they make of their outputs, as options; what their heads say of themselves.

No torch: the functions that the options name are in dense_rows.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from searchkit.errors import did_you_mean
from searchkit.nas.models.part import SCORES, NetConfig, PlainConfig, Setting
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import LATER

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = ("classification", "bbox_regression")  # torchvision's names
OF_CELLS = ("assigner", "box_loss", "decoder")  # fields whose row `cell` is of anchors that know their cell
EVALUATION = ("score_thresh", "nms_thresh", "detections_per_image", "candidates", "candidates_of")  # fields of Dense
ROWS: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # field of Dense -> what it may be, and the options of that
    "assigner": {"iou": ("positive", "negative", "force"), "atss": ("nearest",), "cell": ("positive", "negative")},
    "class_loss": {
        "focal": ("alpha", "gamma"),
        "quality_focal": ("gamma",),
        "clamped_focal": ("alpha", "gamma", "eps"),
        "multibox": ("negatives",),
        "objectness": (),
    },
    "box_loss": {"l1": (), "smooth_l1": ("beta", "weight"), "giou": (), "cell": ("centre", "size")},
    "normalizer": {"image": (), "image_with_positives": (), "batch": (), "sum": ()},
    "decoder": {"anchor": (), "cell": ()},
}


@dataclass(frozen=True, kw_only=True)
class Dense:
    """How a dense detector learns, and what it makes of its outputs. Defaults are those of torchvision's
    retinanet_resnet50_fpn.

    `*_options`: keywords of the row of the table, such as assigner_options: {positive: 0.6}.
    """

    CELLS: ClassVar[bool] = False  # whether its anchors know their cell: a YOLO's

    assigner: str = "iou"  # which anchors are to find which boxes: iou or atss; of a YOLO cell
    assigner_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    class_loss: str = "focal"
    """focal, quality_focal, clamped_focal; multibox with scores: softmax; objectness with scores: objectness."""
    class_loss_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    box_loss: str = "l1"  # l1, smooth_l1 or giou; of a YOLO cell
    box_loss_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    normalizer: str = "image"
    """image, image_with_positives or batch: whose positives losses are means over; sum: they are sums of the batch."""
    coder: tuple[float, float] = (1.0, 1.0)  # weights of centres and sizes in box deltas
    decoder: str = field(default="anchor", metadata=LATER)  # what deltas move: an anchor, or of a YOLO one in its cell
    background: bool = False  # logits begin with the background's, or with objectness
    scores: Literal["sigmoid", "softmax", "objectness"] = "sigmoid"
    """What makes them of logits; all but sigmoid need the background. objectness: a class's times the first logit's."""
    score_thresh: float = 0.05  # above which a detection is one
    nms_thresh: float = 0.5  # IoU of two boxes of a class, above which the weaker one is left out
    detections_per_image: int = 300  # the best ones
    candidates: int = 1000  # that enter NMS at most, of each level or of each class
    candidates_of: Literal["level", "class"] = "level"

    def __post_init__(self) -> None:
        object.__setattr__(self, "coder", tuple(self.coder))  # a list of a YAML file
        refuse(self.faults())

    def faults(self) -> Iterator[At]:
        """What is wrong with the values; a subclass has more of it."""
        for name in ROWS:
            yield from self._row_faults(name)
        if len(self.coder) != 2 or not all(weight > 0 for weight in self.coder):
            yield At("coder", f"must be two weights above 0, of centres and of sizes, but is {self.coder}")
        for name in OF_CELLS:
            if (getattr(self, name) == "cell") != self.CELLS:
                must = "must be cell of a YOLO" if self.CELLS else "can be cell of a YOLO alone"
                yield At(name, f"{must}, whose anchors know their cell, but is {getattr(self, name)}")
        if self.scores != "sigmoid" and not self.background:
            what = f"{self.scores} needs background: true, a score for whether there is an object"
            yield At("scores", what, beside=("background",))
        if self.class_loss == "multibox" and self.scores != "softmax":
            what = f"multibox is a softmax over the classes, but scores is {self.scores}: set softmax"
            yield At("class_loss", what, beside=("scores",))
        if (self.class_loss == "objectness") != (self.scores == "objectness"):
            what = f"objectness goes with scores: objectness alone, but they are {self.class_loss} and {self.scores}"
            yield At("class_loss", what, beside=("scores",))

    def _row_faults(self, name: str) -> Iterator[At]:
        """Whether a table has no such row, or its row no such option."""
        rows, chosen = ROWS[name], getattr(self, name)
        if chosen not in rows:
            known = ", ".join(rows)
            yield At(name, f"must be one of {known}, but is {chosen!r}{did_you_mean(chosen, tuple(rows))}")
            return
        known = f"it has {', '.join(rows[chosen])}" if rows[chosen] else "it has none"
        for key in getattr(self, f"{name}_options", {}):
            if key not in rows[chosen]:
                what = f"{chosen} has no option {key!r}{did_you_mean(key, rows[chosen])}; {known}"
                yield At(f"{name}_options", what, beside=(name,))

    def row(self, name: str) -> Callable[..., Tensor]:
        """The chosen row of a table, with its options."""
        from searchkit.nas.models.heads.dense_rows import TABLES

        options: Mapping[str, Any] = getattr(self, f"{name}_options", {})
        chosen = TABLES[name][getattr(self, name)]
        return partial(chosen, **options) if options else chosen

    def settings(self) -> dict[str, Any]:
        """What a DenseDetector is called with, but for its anchors, its classes and its transform."""
        return {
            **{name: self.row(name) for name in ROWS},
            "coder": self.coder,
            "background": self.background,
            "scores": self.scores,
            "score_thresh": self.score_thresh,
            "nms_thresh": self.nms_thresh,
            "detections_per_image": self.detections_per_image,
            "candidates": self.candidates,
            "candidates_of": self.candidates_of,
        }


class DensePlan:
    """The plan side of a dense detector's head: a subclass has NAMES, Options (a Dense) and `plan`, and says in KIND
    what its detector is called."""

    TASK: ClassVar[str] = "det"
    KIND: ClassVar[str] = "Dense detector"
    Config: ClassVar[type[NetConfig]] = PlainConfig
    MODULE: ClassVar[str] = "head"
    LOSSES: ClassVar[tuple[str, ...]] = LOSSES
    EVALUATION: ClassVar[tuple[str, ...]] = EVALUATION
    SETTINGS: ClassVar[Mapping[str, Setting]] = SCORES

    def __init__(self, options: Any, num_classes: int) -> None:
        self.options: Any = options
        self.num_classes = num_classes
