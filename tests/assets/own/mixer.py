"""A backbone of one's own: ConvMixer (Trockman and Kolter 2022) in stages, elastic in width, depth and kernel.

model: {backbone: "mixer.py:Mixer", backbone_options: {patch: 2}}
"""

from collections import OrderedDict
from functools import lru_cache

from torch import nn

from searchkit.nas.models.plan import Layer, Row, channels
from searchkit.nas.nn import BatchNorm2d, Chain, attach


def conv(name, cin, cout, kernel=1, stride=1, padding=0, groups=1):
    """A convolution, relu, and the norm behind it, as the paper has it."""
    return (
        Layer("conv", name, cin, cout, kernel=kernel, stride=stride, padding=padding, groups=groups),
        Layer("relu", "relu", cout, cout),
        Layer("norm", f"{name}_norm", cout, cout, bias=True),
    )


@lru_cache(None)
def patches(stage, cin, cout, size, output):
    return Row(f"stage{stage}.patches", stage, 0, conv("conv", cin, cout, size, size), output)


@lru_cache(None)
def spatial(stage, index, width, kernel):
    """One filter a channel; its input is added behind it."""
    return Row(f"stage{stage}.{index}.space", stage, index, conv("conv", width, width, kernel, 1, kernel // 2, width))


@lru_cache(None)
def mixing(stage, index, width, output):
    return Row(f"stage{stage}.{index}.mix", stage, index, conv("conv", width, width), output)


class Mixer(nn.Module):
    def __init__(self, arch, patch=2):
        super().__init__()
        self.arch, self.patch = arch, patch
        for row in self.plan(arch):
            attach(self, row.name, Chain(row, BatchNorm2d))

    def plan(self, arch):
        rows, cin = [], 3
        for stage, (width, depth, kernel) in enumerate(
            zip(arch["body.width"], arch["body.depth"], arch["body.kernel"], strict=True)
        ):
            rows.append(patches(stage, cin, width, self.patch, False))
            for i in range(1, depth + 1):
                rows += [spatial(stage, i, width, kernel), mixing(stage, i, width, i == depth)]
            cin = width
        return tuple(rows)

    def channels(self, arch):
        return channels(self.plan(arch))

    def forward(self, x):
        features = OrderedDict()
        for row in self.plan(self.arch):
            y = self.get_submodule(row.name)(x, row)
            x = x + y if row.name.endswith("space") else y
            if row.output:
                features[str(row.stage)] = x
        return features
