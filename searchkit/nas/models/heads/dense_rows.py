"""The functions that options of dense detectors name: which anchors are to find which boxes, losses, what they count,
what deltas lead to.

Their names, and the options of each, are in dense_plan.py too, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from searchkit.nas.models.heads.assigners import ASSIGNERS
from searchkit.nas.models.heads.boxes import DECODERS
from searchkit.nas.models.heads.dense_losses import BOX_LOSSES, CLASS_LOSSES, NORMALIZERS

TABLES: dict[str, Mapping[str, Callable[..., Tensor]]] = {  # as ROWS of dense_plan.py
    "assigner": ASSIGNERS,
    "class_loss": CLASS_LOSSES,
    "box_loss": BOX_LOSSES,
    "normalizer": NORMALIZERS,
    "decoder": DECODERS,
}
