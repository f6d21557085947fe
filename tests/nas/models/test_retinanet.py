"""RetinaNets: pyramid and towers are torchvision's, and narrower ones are slices of theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.retinanet import RetinaNetHead as TheirHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from searchkit.errors import UsageError
from searchkit.nas.cost.price import price_net
from searchkit.nas.models.heads.dense import flat_level
from searchkit.nas.models.heads.retinanet import CLS, RetinaNetHead, Towers
from searchkit.nas.models.heads.retinanet_plan import RetinaNetConfig, RetinaNetOptions
from searchkit.nas.models.necks.elastic_fpn import ElasticFPN
from searchkit.nas.models.necks.elastic_fpn_plan import ElasticFPNOptions
from searchkit.nas.models.network import build, head_of
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.detectors import FAMILIES, R50, images, retinanet, same_found, targets, trained

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = (4, 8, 12, 20)  # of the features, the first of which the pyramid does not read
NOTHING = Arch(())
TWINS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], dict[str, Any]]] = {
    "v1": (retinanet_resnet50_fpn, {}, {}),
    "v2": (retinanet_resnet50_fpn_v2, {"p6": "c5"}, {"norm": "group", "box_loss": "giou"}),
}


def twin_config(version: str, norm: str = "bn", **options: Any) -> RetinaNetConfig:
    """torchvision's, whose classes count from 0, and its 91st is one too."""
    _, neck, head = TWINS[version]
    return RetinaNetConfig(
        num_classes=91,
        backbone_options={"norm": norm},
        neck_options=ElasticFPNOptions(**neck),
        head_options=RetinaNetOptions(**head, **options),
    )


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
        ({"anchor_sizes": ()}, "must have at least one value"),
        ({"anchor_scales": (1.0, 0.0)}, "all above 0"),
        ({"kernel": 2}, "must be odd, but is 2"),
        ({"norm": "bn"}, "must be none, per_level, group or sync_bn"),
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


# --- the whole network -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("version", TWINS)
def test_the_detector_is_torchvisions(version: str) -> None:
    """Its state dict loads as it is; losses, and boxes, scores and labels are the same."""
    theirs: Any = trained(TWINS[version][0](weights=None, weights_backbone=None, min_size=96, max_size=128))
    with torch.device("meta"):
        ours: Any = build(twin_config(version), R50, min_size=96, max_size=128)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x, y = images((80, 110), (96, 90)), targets(2)
    y[1] = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    want = theirs.train()(x, [{**t, "labels": t["labels"] - 1} for t in y])
    buffers = {name: b.clone() for name, b in theirs.named_buffers()}
    got = ours.train()(x, y)  # on the same tensors: only the running statistics go on
    assert [*got] == [*want]
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-6, atol=1e-6)
    theirs.load_state_dict(buffers, strict=False)
    with torch.no_grad():
        theirs.get_parameter(f"{CLS}.bias").fill_(-1)
        want, got = theirs.eval()(x), ours.eval()(x)
    assert len(want[0]["boxes"]) == 300
    assert all(map(same_found, ({**one, "labels": one["labels"] + 1} for one in want), got))


@pytest.mark.parametrize(
    ("version", "norm", "macs", "params"),
    [("v1", "frozen", 151_540_437_248, 34_014_999), ("v2", "bn", 152_238_199_040, 38_198_935)],
)
def test_published_costs_of_torchvisions(version: str, norm: str, macs: int, params: int) -> None:
    cost = price_net(twin_config(version, norm), R50, 800)
    assert (cost.flops, cost.params) == (macs, params)


def test_anchors_and_levels_that_differ() -> None:
    sizes = {"anchor_sizes": (16, 32, 64)}
    for neck, levels in (({"depth": 4}, 4), ({"depth": 5}, 5)):
        with pytest.raises(UsageError, match=f"a size for each of the {levels} levels of the neck, but has 3"):
            build(retinanet(neck, **sizes), R50)
    with pytest.raises(UsageError, match="a size for each of the 4 levels of the neck, but has 5"):
        build(retinanet({"depth": 4}), R50)
    assert RetinaNetConfig(num_classes=1, head_options=RetinaNetOptions(**sizes)).neck_defaults() == {"depth": 3}


def moved(
    head: RetinaNetHead, old: list[str], new: list[str], to_train: bool = False
) -> tuple[list[float], list[float]]:
    """(one weight, the bias) of each row of the classes; of the old ones they are ten times their anchor and their
    class, of new ones a half."""
    state, own = {}, {}
    for kind, rest in (("weight", (4, 3, 3)), ("bias", ())):
        places = [10.0 * anchor + i for anchor in range(2) for i in range(len(old))]
        state[f"{CLS}.{kind}"] = torch.stack([torch.full(rest, place) for place in places])
        own[f"{CLS}.{kind}"] = torch.full((2 * len(new), *rest), 0.5)
    result = head.adapt(state, own, old, new, to_train)
    return result[f"{CLS}.weight"][:, 0, 0, 0].tolist(), result[f"{CLS}.bias"].tolist()


def test_classes_move_by_name_on_every_anchor() -> None:
    head = RetinaNetHead(RetinaNetOptions(anchor_scales=(1.0,), anchor_ratios=(0.5, 2.0)), 3)
    assert moved(head, ["a", "b", "c"], ["c", "new", "a"]) == ([2, 0, 0, 12, 0, 10], [2, -100, 0, 12, -100, 10])
    assert moved(head, ["a", "b", "c"], ["c", "new"], to_train=True)[1] == [2, 0.5, 12, 0.5]
    assert moved(head, ["a", "b"], ["a", "b"])[1] == [0, 1, 10, 11]


def test_silent_classes_are_never_found() -> None:
    space, config = FAMILIES["RetinaNet, group norms, towers apart"]
    options = replace(config.head_options, candidates=10**6, detections_per_image=10**6)
    net: Any = build(replace(config, head_options=options), space.minimum(), min_size=64).eval()
    assert {int(x) for x in net(images((64, 64)))[0]["labels"]} == {1, 2, 3}
    RetinaNetHead(options, 3).silence(net, 2)
    assert {int(x) for x in net(images((64, 64)))[0]["labels"]} == {1, 2}


def test_one_image_whose_coarsest_level_is_one_place() -> None:
    space, config = FAMILIES["RetinaNet as in BigNAS"]
    net, head = build(config, space.maximum(), min_size=64).train(), head_of(config)
    with pytest.raises(UsageError, match="more than one image"):
        head.statistics(net, images((64, 64)))
    head.statistics(net, images((64, 64), (64, 64)))
    assert not head.norms_of_one and head_of(retinanet()).norms_of_one
