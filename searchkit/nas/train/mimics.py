"""How features are learnt from a teacher's: a row of MIMICS for each loss, one of CONNECTORS for each way from the
student's features to the teacher's; and the two networks of factor transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.class_logits import kl
from searchkit.nas.nn import Conv2d

Shapes = list[tuple[int, ...]]
SLOPE = 0.1  # of the leaky ReLUs of factor transfer


@dataclass(frozen=True)
class MimicRow:
    """A loss of features. loss: of the student's and the teacher's, with a temperature, a mean over images. of_maps:
    whether both must be maps (N, C, H, W). any_width: whether their channels may differ."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    of_maps: bool = False
    any_width: bool = False

    def compared(self, shapes: Shapes) -> Shapes:
        """What of shapes must be the same on both sides."""
        return [(n, *size) for n, _, *size in shapes] if self.any_width else shapes


def _l2(ours: Tensor, theirs: Tensor, _: float) -> Tensor:
    ours, theirs = (F.normalize(each.flatten(1), dim=1) for each in (ours, theirs))
    return (ours - theirs).square().sum(1).mean()


def attention(ours: Tensor, theirs: Tensor, _: float = 1.0) -> Tensor:
    """The squared distance of both attention maps, the means of squares over channels, as vectors of length 1
    (Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, eq. 2)."""
    return _l2(ours.square().mean(1), theirs.square().mean(1), _)


def channel_wise(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over channels of the divergence of each as a distribution over places (Shu et al.,
    "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, eq. 2 and 3)."""
    log_q, log_p = (F.log_softmax(each.flatten(2) / temperature, 2) for each in (ours, theirs))
    return temperature**2 * kl(log_q, log_p).sum(2).mean()


def factors(ours: Tensor, theirs: Tensor, _: float = 1.0) -> Tensor:
    """The mean absolute difference of both as vectors of length 1 (Kim et al., "Paraphrasing Complex Network: Network
    Compression via Factor Transfer", NeurIPS 2018, eq. 4, with the mean of the authors' code)."""
    ours, theirs = (F.normalize(each.flatten(1), dim=1) for each in (ours, theirs))
    return (ours - theirs).abs().mean()


MIMICS: Mapping[str, MimicRow] = {
    "l2": MimicRow(_l2),
    "mse": MimicRow(lambda ours, theirs, _: F.mse_loss(ours, theirs)),
    "at": MimicRow(attention, of_maps=True, any_width=True),
    "cwd": MimicRow(channel_wise, of_maps=True),
    "ft": MimicRow(factors),
}
CRITERIA: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss}


class Translator(nn.Sequential):
    """The student's side of factor transfer: maps (N, C, H, W) to factors (N, K, H, W), three 3x3 convolutions, each
    with a norm and a leaky ReLU (Kim et al., 2018, §3.2). Maps of fewer channels are read by the first columns of its
    first convolution."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        for i, (cin, cout) in enumerate(((channels, channels), (channels, factors), (factors, factors))):
            self.add_module(f"conv{i}", Conv2d(cin, cout, 3, padding=1))
            self.add_module(f"norm{i}", nn.BatchNorm2d(cout))
            self.add_module(f"relu{i}", nn.LeakyReLU(SLOPE))


class Paraphraser(nn.Module):
    """The teacher's side of factor transfer: maps (N, C, H, W) to factors (N, K, H, W), and these to maps again; three
    3x3 convolutions to the factors, three transposed ones back, each with a leaky ReLU (Kim et al., 2018, §3.1)."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.channels = factors  # that the factors have
        there = ((channels, channels), (channels, factors), (factors, factors))
        back = ((factors, factors), (factors, channels), (channels, channels))
        self.encoder = nn.Sequential(*(layer for a, b in there for layer in (nn.Conv2d(a, b, 3, 1, 1), _relu())))
        self.decoder = nn.Sequential(
            *(layer for a, b in back for layer in (nn.ConvTranspose2d(a, b, 3, 1, 1), _relu()))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps to what is made of their factors."""
        again: Tensor = self.decoder(self.encoder(x))
        return again


def _relu() -> nn.LeakyReLU:
    return nn.LeakyReLU(SLOPE)


@dataclass(frozen=True)
class ConnectorRow:
    """A way from the student's features to the teacher's. make: from both channels, what learns along; None: nothing
    does. resizes: whether the student's are brought to the size of the teacher's first."""

    make: Callable[[int, int], nn.Module] | None = None
    resizes: bool = False


CONNECTORS: Mapping[str, ConnectorRow] = {
    "none": ConnectorRow(),
    "conv": ConnectorRow(lambda ours, theirs: Conv2d(ours, theirs, 1)),
    "resize": ConnectorRow(resizes=True),
    "conv_resize": ConnectorRow(lambda ours, theirs: Conv2d(ours, theirs, 1), resizes=True),
    "translator": ConnectorRow(Translator),
}


def resized(ours: Tensor, theirs: Tensor) -> Tensor:
    """Maps of the size of others."""
    if ours.shape[2:] == theirs.shape[2:]:
        return ours
    return F.interpolate(ours, theirs.shape[2:], mode="bilinear", align_corners=False)


def width_of(shapes: Shapes, said: str) -> int:
    """The one number of channels of maps. Raises UsageError for other shapes; said: whose they are."""
    widths = {shape[1] for shape in shapes if len(shape) == 4}
    if len(widths) != 1 or any(len(shape) != 4 for shape in shapes):
        raise UsageError(said, "Take each level by itself, or leave the connector out")
    return widths.pop()


@torch.no_grad()
def factors_of(paraphraser: Paraphraser | None, theirs: Tensor) -> Tensor:
    """The factors of a teacher's features; without a paraphraser the features themselves."""
    if paraphraser is None:
        return theirs
    made: Tensor = paraphraser.encoder(theirs)
    return made
