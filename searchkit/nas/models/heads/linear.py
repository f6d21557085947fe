"""An image classifier: an elastic backbone, the mean over its last feature, dropout, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.heads import linear_source
from searchkit.nas.models.heads.linear_plan import ClassifierConfig, LinearPlan
from searchkit.nas.models.part import NEVER, Form
from searchkit.nas.models.trunk import Trunk
from searchkit.nas.nn import Linear, enough
from searchkit.records.arch import Arch


class Classifier(nn.Module):
    """`backbone`, and `fc`, which takes as many of its columns as the last level is wide."""

    def __init__(self, backbone: nn.Module, width: int, num_classes: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = Linear(width, num_classes)
        self.dropout = config.dropout
        self.image_mean, self.image_std = config.image_mean, config.image_std

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W), values in 0..1 -> scores of the classes (N, num_classes), no softmax."""
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.image_mean, self.image_std))
        x = (x - mean[:, None, None]) / std[:, None, None]
        last = list(self.backbone(x).values())[-1]
        scores: Tensor = self.fc(F.dropout(last.mean((2, 3)), self.dropout, self.training))
        return scores


class LinearHead(LinearPlan):
    """The head `linear`."""

    norms_of_one: ClassVar[bool] = False
    form: ClassVar[Form] = linear_source

    def network(self, trunk: Trunk, arch: Arch, config: Any, **sizes: Any) -> Classifier:
        """A classifier around a backbone; one without a neck has the backbone itself as `backbone`."""
        backbone = trunk.body if trunk.neck is None else trunk
        return Classifier(backbone, trunk.channels[-1], self.num_classes, config)

    def class_logits(self, net: Any) -> ClassLogits:
        """Its scores."""
        return ClassLogits("fc", lambda scores: scores, softmax=True, of_image=True, labels=lambda targets: targets[0])

    def statistics(self, net: Any, inputs: Tensor) -> None:
        """All of it is run."""
        with enough(inputs):
            net(inputs)

    def silence(self, net: nn.Module, known: int) -> None:
        """The rows of `fc` behind the first `known`."""
        with torch.no_grad():
            net.get_parameter("fc.weight")[known:] = 0
            net.get_parameter("fc.bias")[known:] = NEVER

    def adapt(
        self,
        state: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        old: Sequence[str],
        new: Sequence[str],
        to_train: bool,
    ) -> dict[str, Tensor]:
        """The state dict with the rows of `fc` moved to the new classes, by name."""
        result = dict(state)
        weight = state["fc.weight"]
        same = list(old) == list(new) and weight.shape == own["fc.weight"].shape
        if same or weight.shape[1:] != own["fc.weight"].shape[1:]:
            return result
        for kind, never in (("weight", 0.0), ("bias", NEVER)):
            rows = own[f"fc.{kind}"].clone()
            if not to_train:
                rows[:] = never
            for mine, name in enumerate(new):
                if name in old:
                    rows[mine] = state[f"fc.{kind}"][list(old).index(name)]
            result[f"fc.{kind}"] = rows
        return result
