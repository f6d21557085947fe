"""A neck and a head of one's own, for a detector: levels of one width, and one tower for classes and boxes, both
elastic.

model: {neck: "ladder.py:Ladder", head: "ladder.py:Shared", neck_options: {width: 16}, head_options: {depth: 2}}
space: {neck.width: {choices: [8, 16]}, head.depth: {choices: [1, 2]}, …}
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from searchkit.nas.models.heads.dense import Dense, DenseDetector
from searchkit.nas.models.heads.dense_head import DenseHead, conv_rows
from searchkit.nas.models.part import LEVELS, Piece, feature
from searchkit.nas.models.plan import Layer, Row
from searchkit.nas.nn import Chain, add_layers, attach, norm_of, run_layers


@dataclass(frozen=True, kw_only=True)
class LadderOptions:
    """Levels of one width."""

    width: int = 32  # where the space has no `neck.width`


@lru_cache(None)
def rung(i, cin, width):
    """What makes a level of a feature, and that it runs there."""
    layers = (Layer("conv", "conv", cin, width), Layer("norm", "norm", width, width, bias=True))
    return Piece((Row(f"rung{i}", i, 0, layers),), feature(i), "level")


class Ladder:
    """A neck: what it is made of, without weights."""

    Options, NAMES, MODULE = LadderOptions, ("width",), "ladder"

    def __init__(self, options):
        self.options = options

    def plan(self, arch, features):
        width = arch.get("width", self.options.width)
        return tuple(rung(i, cin, width) for i, cin in enumerate(features))

    def module(self, arch, features):
        return Rungs(self, arch, features)


class Rungs(nn.Module):
    """The weights of a ladder, as many as its maximum has."""

    def __init__(self, neck, arch, features):
        super().__init__()
        self.neck = neck
        self.set_arch(arch, features)
        for piece in self.pieces:
            attach(self, piece.rows[0].name, Chain(piece.rows[0], norm_of("bn", 1, 1e-5)))

    def set_arch(self, arch, features):
        self.arch, self.pieces = arch, self.neck.plan(arch, features)

    def forward(self, features):
        rows = [piece.rows[0] for piece in self.pieces]
        levels = [self.get_submodule(row.name)(x, row) for row, x in zip(rows, features.values(), strict=True)]
        return OrderedDict(zip(features, levels, strict=True))


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Dense):
    """One tower for classes and boxes."""

    depth: int = 2  # convs of the tower, where the space has no `head.depth`
    sizes: tuple[int, ...] = (12, 24, 48)  # px of the anchors, one for each level


@lru_cache(None)
def tower(depth, width, columns):
    """The rows of the tower, then those of the last convs, which both read its end."""
    rows = []
    for i in range(depth):
        conv = Layer("conv", f"convs.{i}", width, width, kernel=3, padding=1, bias=True)
        rows.append(Row("head", 0, i, (conv, Layer("relu", "relu", width, width))))
    rows.append(Row("head", 1, 0, (Layer("conv", "classes", width, columns, bias=True),)))
    rows.append(Row("head", 1, 1, (Layer("conv", "boxes", width, 4, bias=True),)))
    return tuple(rows)


class Shared(DenseHead):
    """A head: one square anchor on each place."""

    KIND, Options, NAMES = "Detector with one tower", SharedOptions, ("depth",)

    def plan(self, arch, levels):
        rows = tower(arch.get("depth", self.options.depth), levels[0], self.num_classes)
        return (Piece(rows, LEVELS),)

    def network(self, trunk, arch, config, min_size=64, max_size=64):
        anchors = AnchorGenerator(tuple((size,) for size in self.options.sizes), ((1.0,),) * len(self.options.sizes))
        transform = self.transform(config, min_size, max_size)
        return Detector(trunk, Tower(self, arch, trunk.channels), self.num_classes, anchors, transform)

    def class_rows(self):
        return conv_rows("head.classes", 1)


class Tower(nn.Module):
    """The weights of the head, as many as its maximum has."""

    def __init__(self, part, arch, levels):
        super().__init__()
        self.part = part
        self.set_arch(arch, levels)
        for row in self.rows:
            add_layers(self, row, nn.Identity)  # it has no norms

    def set_arch(self, arch, levels):
        self.arch, self.rows = arch, self.part.plan(arch, levels)[0].rows

    def forward(self, levels):
        *convs, classes, boxes = self.rows
        outputs = []
        for x in levels:
            for row in convs:
                x = run_layers(self, row.layers, x)
            outputs.append((run_layers(self, classes.layers, x), run_layers(self, boxes.layers, x)))
        return outputs


class Detector(DenseDetector):
    """Losses and boxes are those of all dense detectors."""

    def __init__(self, trunk, head, num_classes, anchors, transform):
        super().__init__(num_classes, anchors, transform, **head.part.options.settings())
        self.backbone, self.head = trunk, head

    def levels(self, x):
        return self.head([*self.backbone(x).values()])
