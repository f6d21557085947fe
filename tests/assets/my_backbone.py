"""A backbone of one's own: a small MobileNetV2 (https://arxiv.org/abs/1801.04381), elastic in width, depth and kernel.

model: {backbone: "my_backbone.py:MobileNet", backbone_options: {expand: 2}, num_classes: 20}
"""

from collections import OrderedDict
from functools import lru_cache

from torch import nn

from searchkit.nas.models.plan import Layer, Row, channels
from searchkit.nas.nn import BatchNorm2d, Chain, attach


def conv(name, cin, cout, kernel=1, stride=1, groups=1, relu=True):
    """A convolution with its norm, and a relu."""
    layers = (
        Layer("conv", name, cin, cout, kernel=kernel, stride=stride, padding=kernel // 2, groups=groups),
        Layer("norm", f"{name}_norm", cout, cout, bias=True),
    )
    return (*layers, Layer("relu", "relu", cout, cout)) if relu else layers


@lru_cache(None)
def block(stage, index, cin, cout, kernel, expand, output):
    """Widen, one kxk filter per channel, narrow; the first block of a stage halves the size."""
    mid = expand * cin
    wide = conv("widen", cin, mid)
    each = conv("each", mid, mid, kernel, stride=1 if index else 2, groups=mid)
    return Row(f"stage{stage}.{index}", stage, index, (*wide, *each, *conv("narrow", mid, cout, relu=False)), output)


@lru_cache(None)
def stem(width):
    return Row("stem", -1, 0, conv("conv", 3, width, kernel=3, stride=2))


class MobileNet(nn.Module):
    def __init__(self, arch, expand=2):
        super().__init__()
        self.arch, self.expand = arch, expand
        for row in self.plan(arch):
            attach(self, row.name, Chain(row, BatchNorm2d))

    def plan(self, arch):
        rows, cin = [stem(arch["stem.width"])], arch["stem.width"]
        stages = zip(arch["body.width"], arch["body.depth"], arch["body.kernel"], strict=True)
        for stage, (width, depth, kernel) in enumerate(stages):
            for i in range(depth):
                rows.append(block(stage, i, cin, width, kernel, self.expand, i == depth - 1))
                cin = width
        return tuple(rows)

    def channels(self, arch):
        return channels(self.plan(arch))

    def forward(self, x):
        features = OrderedDict()
        for row in self.plan(self.arch):
            y = self.get_submodule(row.name)(x, row)
            x = x + y if row.index else y
            if row.output:
                features[str(row.stage)] = x
        return features
