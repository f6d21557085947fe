"""RetinaNets: pyramid and towers are torchvision's, and narrower ones are slices of theirs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.retinanet import RetinaNetHead as TheirHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from searchkit.errors import UsageError
from searchkit.nas.models.heads.dense import flat_level
from searchkit.nas.models.heads.retinanet import RetinaNetHead, RetinaNetOptions, Towers
from searchkit.nas.models.necks.elastic_fpn import ElasticFPN
from searchkit.nas.models.necks.elastic_fpn_plan import ElasticFPNOptions
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise

WIDTHS = (4, 8, 12, 20)  # of the features, the first of which the pyramid does not read
NOTHING = Arch(())


def features() -> dict[str, torch.Tensor]:
    return {str(i): torch.randn(2, c, 40 >> i, 24 >> i) for i, c in enumerate(WIDTHS)}


@pytest.mark.parametrize("p6", ["p5", "c5"])
def test_the_pyramid_is_torchvisions(p6: Any) -> None:
    theirs = FeaturePyramidNetwork([*WIDTHS[1:]], 16, LastLevelP6P7(16 if p6 == "p5" else WIDTHS[-1], 16))
    neck = ElasticFPN(ElasticFPNOptions(out_channel=16, p6=p6))
    ours = neck.module(NOTHING, WIDTHS)
    randomise(theirs)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    ours.load_state_dict(theirs.state_dict())
    x = features()
    got, want = ours(x), theirs({k: v for k, v in x.items() if k != "0"})
    assert [*got] == ["1", "2", "3", "p6", "p7"]
    assert all(torch.equal(a, b) for a, b in zip(got.values(), want.values(), strict=True))


@pytest.mark.parametrize("norm", ["none", "group"])
def test_the_towers_are_torchvisions(norm: Any) -> None:
    options = RetinaNetOptions(width=16, norm=norm, norm_group=4)
    ours = Towers(options, 5, NOTHING, (16,) * 5)
    theirs: Any = TheirHead(16, options.anchors, 5, partial(nn.GroupNorm, 4) if norm == "group" else None)
    assert torch.equal(
        ours.get_parameter("classification_head.cls_logits.bias"), theirs.classification_head.cls_logits.bias
    )
    randomise(theirs)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    ours.load_state_dict(theirs.state_dict())
    levels = [torch.randn(2, 16, *hw) for hw in ((12, 8), (6, 4), (3, 2), (2, 1), (1, 1))]
    got, want = ours(levels), theirs(levels)
    assert torch.equal(torch.cat([flat_level(logits, 5) for logits, _ in got], 1), want["cls_logits"])
    assert torch.equal(torch.cat([flat_level(deltas, 4) for _, deltas in got], 1), want["bbox_regression"])


def test_p6_of_the_lateral_and_norms_on_features_alone() -> None:
    """The form of BigNAS: P6 from the lateral of C5, no relu before P7, batch norms but for P6 and P7."""
    neck = ElasticFPN(ElasticFPNOptions(out_channel=6, norm="bn", p6="lateral", p7_relu=False))
    net = neck.module(NOTHING, WIDTHS).eval()
    names = {name.rpartition(".")[0] for name, _ in net.named_parameters()}
    assert names == {
        f"{block}.{i}.{j}" for block in ("inner_blocks", "layer_blocks") for i in range(3) for j in (0, 1)
    } | {
        "extra_blocks.p6",
        "extra_blocks.p7",
    }
    x = features()
    levels = [*net(x).values()]
    lateral = net.get_submodule("inner_blocks.2")
    p6 = net.get_submodule("extra_blocks.p6")(lateral.get_submodule("1")(lateral.get_submodule("0")(x["3"])))
    assert torch.equal(levels[3], p6) and torch.equal(levels[4], net.get_submodule("extra_blocks.p7")(p6))


def test_norms_of_each_level_are_its_own() -> None:
    head = Towers(RetinaNetOptions(width=8, depth=1, norm="per_level"), 2, NOTHING, (8, 8)).train()
    head([torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2) + 9])
    means = [head.get_buffer(f"classification_head.conv.0.1.{i}.running_mean") for i in range(2)]
    assert not torch.equal(*means)
    assert head.get_parameter("classification_head.conv.0.0.weight").shape == (8, 8, 3, 3)


@pytest.mark.parametrize(
    ("options", "arch", "words"),
    [
        ({"first": 4}, {}, "finest feature is number 4, but the backbone has 4"),
        ({}, {"depth": 6}, "at most 5, its neck_options.depth, but has 6"),
        ({}, {"depth": 2}, "at least 3 levels"),
        ({}, {"kernel": 4}, "neck.kernel must be odd"),
        ({}, {"out_channel": (8, 8)}, "neck.out_channel must be one integer"),
    ],
)
def test_pyramids_that_can_not_be(options: dict[str, Any], arch: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ElasticFPN(ElasticFPNOptions(**options)).plan(Arch(tuple(arch.items())), WIDTHS)


@pytest.mark.parametrize(
    ("levels", "arch", "words"),
    [
        ((8,) * 6, {}, "a size for each of the 6 levels of the neck, but has 5"),
        ((8, 8, 4), {}, "equally wide"),
        ((8,) * 5, {"cls.kernel": 2}, "head.cls.kernel must be odd"),
        ((8,) * 5, {"box.depth": (1, 2)}, "head.box.depth must be one integer"),
    ],
)
def test_heads_that_do_not_fit(levels: tuple[int, ...], arch: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RetinaNetHead(RetinaNetOptions(), 2).plan(Arch(tuple(arch.items())), levels)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"anchor_sizes": ()}, "anchor_sizes must have at least one value"),
        ({"anchor_scales": (1.0, 0.0)}, "all above 0"),
        ({"kernel": 2}, "kernel odd"),
        ({"norm": "bn"}, "must be none, per_level or group"),
        ({"prior": 1.0}, "between 0 and 1"),
        ({"background": True}, "no logits of a background"),
    ],
)
def test_options_that_can_not_be(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RetinaNetOptions(**keys)


def test_the_box_tower_follows_that_of_classes() -> None:
    head = RetinaNetHead(RetinaNetOptions(depth=4, width=16), 3)
    alone = head.plan(Arch((("cls.depth", 2), ("cls.width", 8))), (16,) * 5)
    assert [len(piece.rows) for piece in alone] == [3, 3] and {p.rows[0].cout for p in alone} == {8}
    both = head.plan(Arch((("box.depth", 1), ("cls.depth", 2))), (16,) * 5)
    assert [len(piece.rows) for piece in both] == [3, 2]
    assert head.plan(Arch((("cls.depth", 2), ("cls.width", 8))), (16,) * 5)[0] is alone[0]  # cached
