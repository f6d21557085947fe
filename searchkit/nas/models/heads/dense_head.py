"""What the heads of dense detectors promise in the same way, so that one of your own has its layers to write alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.heads.dense import level_logits, moved_classes
from searchkit.nas.models.heads.dense_plan import Dense, DensePlan
from searchkit.nas.models.heads.dense_source import DenseForm
from searchkit.nas.models.heads.inputs import Transform
from searchkit.nas.models.part import NEVER
from searchkit.nas.nn import enough


class ClassRows(NamedTuple):
    """A tensor with a row for each class of each anchor, the classes of an anchor side by side."""

    name: str
    anchors: int  # on each place
    never: float  # what the rows of a class hold that is never predicted


class DenseHead(DensePlan):
    """A head (searchkit.nas.models.part.Head) whose network is a DenseDetector.

    A subclass has NAMES, Options (a Dense), `plan`, `network`, `class_rows` and `anchors_source`, and says in KIND what
    its detector is called.
    """

    def class_rows(self) -> Sequence[ClassRows]:
        """The tensors of its network that have rows for classes; those that a network lacks don't count."""
        raise NotImplementedError

    def anchors_source(self, net: Any) -> str:
        """The anchors of a network as the text of an expression, of the class that it has them from."""
        generator = net.anchor_generator
        return f"AnchorGenerator({generator.sizes}, {generator.aspect_ratios})"

    def transform(self, config: Any, min_size: int | tuple[int, ...], max_size: int) -> GeneralizedRCNNTransform:
        """What a detector's images go through first."""
        return Transform(min_size, max_size, list(config.image_mean), list(config.image_std))

    @property
    def norms_of_one(self) -> bool:
        """Its coarsest level may be one place, and have norms."""
        return False

    @property
    def needs_boxes(self) -> bool:
        """Whether an image without boxes teaches nothing."""
        options: Dense = self.options
        return options.normalizer == "image_with_positives" or options.class_loss == "multibox"

    @property
    def form(self) -> DenseForm:
        """How its network looks as source code."""
        options: Dense = self.options
        return DenseForm(self.KIND, options, self.anchors_source)

    def class_logits(self, net: Any) -> ClassLogits:
        """Those of all levels, of a network whose module MODULE gives out what `levels` does."""
        return level_logits(self.MODULE, self.num_classes, self.options)

    def outputs(self, net: Any, inputs: Sequence[Tensor]) -> None:
        """See Head: all but anchors and boxes."""
        batch, _ = net.transform(inputs)
        net.levels(batch.tensors)

    def set_options(self, net: Any, options: Mapping[str, Any]) -> None:
        """See Head: its network has them by the same names."""
        for name, value in options.items():
            setattr(net, name, value)

    def statistics(self, net: Any, inputs: Sequence[Tensor]) -> None:
        """All of it is run."""
        with enough(inputs):
            self.outputs(net, inputs)

    def silence(self, net: nn.Module, known: int) -> None:
        """The rows of each anchor's classes behind the first `known`."""
        tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        with torch.no_grad():
            for name, anchors, never in self._rows_in(tensors):
                tensors[name].unflatten(0, (anchors, -1))[:, self._first + known :] = never

    def adapt(
        self,
        state: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        old: Sequence[str],
        new: Sequence[str],
        to_train: bool,
    ) -> dict[str, Tensor]:
        """See Head; rows are counted by anchor, then by class, the background first where there is one."""
        result, rows = dict(state), self._rows_in(own)
        if not all(self._fits(state.get(each.name), own[each.name], each.anchors, len(old)) for each in rows):
            return result  # whoever loads it names what else differs
        if list(old) == list(new) and all(state[each.name].shape == own[each.name].shape for each in rows):
            return result
        for name, anchors, never in rows:
            silent = None if to_train else never
            result[name] = moved_classes(state[name], own[name], old, new, anchors, self._first, silent)
        return result

    @property
    def _first(self) -> int:
        """The column of the first class."""
        return int(self.options.background)

    def _rows_in(self, tensors: Mapping[str, Tensor]) -> list[ClassRows]:
        return [each for each in self.class_rows() if each.name in tensors]

    def _fits(self, theirs: Tensor | None, own: Tensor, anchors: int, classes: int) -> bool:
        """Whether a tensor of another net differs from ours in the number of its classes alone."""
        if theirs is None or len(theirs) % anchors or theirs.shape[1:] != own.shape[1:]:
            return False
        return len(theirs) // anchors >= self._first + classes


def conv_rows(name: str, anchors: int) -> tuple[ClassRows, ClassRows]:
    """Those of a conv with a bias."""
    return ClassRows(f"{name}.weight", anchors, 0.0), ClassRows(f"{name}.bias", anchors, NEVER)
