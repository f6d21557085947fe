"""Elastic detectors: a subnet is the supernet at its architecture, bit for bit; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.resnet import ResNet
from searchkit.nas.models.elastic import arch_of, make_backbone, set_arch
from searchkit.nas.models.heads.faster_rcnn import SoftmaxRPNHead
from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig
from searchkit.nas.models.network import build
from searchkit.nas.models.subnet import subnet
from searchkit.nas.models.table import part_class
from searchkit.records.arch import Arch
from tests.nas.test_nn import lead, randomise
from tests.support.detectors import (
    FAMILIES,
    MINE,
    R18,
    R50,
    archs,
    config,
    copied,
    equal,
    images,
    make,
    targets,
)
from tests.support.marks import some_of

pytestmark = pytest.mark.usefixtures("one_thread")
KEPT = ("bottleneck, bn", "basic, gn, deep stem", "an elastic pyramid", "RetinaNet as in BigNAS")


# --- the laws --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", some_of(FAMILIES, *KEPT))
def test_a_subnet_is_the_supernet_at_its_architecture(family: str) -> None:
    net, sp, conf = make(family)
    net.eval()
    before = copied(net.state_dict())
    x, batch = images((64, 72), (80, 64)), torch.randn(1, 3, 65, 77)
    found = 0
    for arch in archs(sp, 80, family):
        set_arch(net, arch)
        assert arch_of(net) == arch
        with torch.no_grad():
            features, out = net.backbone.body(batch), net(x)
            sub = subnet(net, arch, conf)
            assert equal(sub.backbone.body(batch), features) and equal(sub(x), out), arch.text()
        assert [f.shape[1] for f in features.values()] == [*sub.backbone.body.channels(arch.part("backbone"))]
        assert arch_of(sub) == arch
        found += sum(len(one["scores"]) for one in out)
    assert found > 80, "the detections compared are too few"
    assert equal(before, net.state_dict()), "a forward in eval mode wrote to the supernet"


@pytest.mark.slow
@pytest.mark.parametrize("family", some_of(FAMILIES, *KEPT))
def test_losses_gradients_and_statistics_are_those_of_the_subnet(family: str) -> None:
    net, sp, conf = make(family)
    net.train()
    x, y = images((64, 72), (80, 64)), targets(2)
    for arch in archs(sp, 40, f"train {family}"):
        set_arch(net, arch)
        sub = subnet(net, arch, conf)
        before = copied(net.state_dict())
        losses = []
        for one in (net, sub):
            torch.manual_seed(1)
            one.zero_grad()
            losses.append(one(x, y))
            sum(losses[-1].values()).backward()
        assert equal(*losses), arch.text()
        grads = {name: p.grad for name, p in net.named_parameters()}
        own = dict(sub.named_parameters())
        for name, p in own.items():
            grad, full = p.grad, grads[name]
            assert (grad is None) == (full is None), name
            if grad is not None:
                assert torch.equal(lead(full, grad.shape), grad), (name, arch.text())
                assert torch.count_nonzero(full) == torch.count_nonzero(grad), name
        assert all(grads[name] is None for name in grads.keys() - own.keys()), "a block that did not run has a gradient"
        after = net.state_dict()
        for name, value in sub.state_dict().items():
            assert torch.equal(lead(after[name], value.shape), value), name
            lead(before[name], value.shape).copy_(value)
        assert equal(before, dict(after)), "statistics beyond the slices were written"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subnet_is_independent_and_a_supernet_of_its_own(family: str) -> None:
    net, sp, conf = make(family)
    rng, arch, least = random.Random(3), sp.maximum(), sp.minimum()
    while arch in (sp.maximum(), least):
        arch = sp.sample(rng)
    state = torch.get_rng_state()
    sub = subnet(net, arch, conf)
    assert torch.equal(state, torch.get_rng_state()), "a global random number was drawn"
    memory = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not memory & {t.untyped_storage().data_ptr() for t in sub.state_dict().values()}
    assert not any(t.is_meta for t in sub.state_dict().values())
    assert equal(subnet(sub, least, conf).state_dict(), subnet(net, least, conf).state_dict())
    fresh = build(conf, arch)
    assert [(k, v.shape) for k, v in fresh.state_dict().items()] == [(k, v.shape) for k, v in sub.state_dict().items()]
    assert {n: p.requires_grad for n, p in fresh.named_parameters()} == {
        n: p.requires_grad for n, p in sub.named_parameters()
    }
    with pytest.raises(UsageError, match="at most"):
        set_arch(sub, sp.maximum())


def test_a_subnet_has_the_flags_type_and_layout_of_the_supernet() -> None:
    net, sp, conf = make("bottleneck, bn")
    net = net.to(torch.float64).to(memory_format=torch.channels_last).eval()
    net.backbone.body.layer1.train()
    net.rpn.requires_grad_(False)
    net.transform.min_size = (48,)
    arch = sp.sample(random.Random(5))
    sub = subnet(net, arch, conf)
    modules = dict(net.named_modules())
    assert all(m.training == modules[name].training for name, m in sub.named_modules())
    assert all(p.requires_grad == net.get_parameter(n).requires_grad for n, p in sub.named_parameters())
    assert {t.dtype for t in sub.state_dict().values()} == {torch.float64, torch.int64}
    assert sub.transform.min_size == (48,) and sub.transform is not net.transform
    weight = sub.backbone.body.layer4.get_submodule("0").conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    net.eval(), sub.eval()
    set_arch(net, arch)
    x = [image.double() for image in images((64, 72))]
    with torch.no_grad():
        assert equal(net(x), sub(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu(family: str) -> None:
    net, sp, conf = make(family)
    net = net.cuda().eval()
    x = [image.cuda() for image in images((64, 72), (80, 64))]
    for arch in archs(sp, 12, family):
        set_arch(net, arch)
        with torch.no_grad():
            assert equal(net(x), subnet(net, arch, conf)(x)), arch.text()


def test_depth_is_the_first_blocks() -> None:
    net, sp, _ = make("bottleneck, bn")
    shallow = {**dict(sp.maximum().items), "backbone.body.depth": (1, 2, 3, 1)}
    set_arch(net.eval(), Arch.of(shallow))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net.backbone(x)
        for name in ("layer1.1", "layer1.2", "layer2.2", "layer4.1"):
            for p in net.backbone.body.get_submodule(name).parameters():
                p.fill_(float("nan"))
        assert equal(net.backbone(x), before)
        net.backbone.body.get_parameter("layer3.2.conv1.weight").add_(1)
        assert not equal(net.backbone(x), before)


# --- heads -----------------------------------------------------------------------------------------------------------


def test_softmax_objectness_is_the_softmax_of_two_outputs() -> None:
    head = SoftmaxRPNHead(6, 3)
    randomise(head)
    x = torch.randn(2, 6, 5, 4)
    (objectness,), (deltas,) = head([x])
    both = head.cls_logits(head.conv(x)).view(2, 2, 3, 5, 4)
    assert objectness.shape == (2, 3, 5, 4) and deltas.shape == (2, 12, 5, 4)
    torch.testing.assert_close(objectness.sigmoid(), both.softmax(1)[:, 1])
    truth = torch.randint(2, objectness.shape)
    loss = F.binary_cross_entropy_with_logits(objectness, truth.float())
    torch.testing.assert_close(loss, F.cross_entropy(both, truth))


def test_class_agnostic_boxes_are_the_same_for_all_classes() -> None:
    net = build(config(class_agnostic=True), FAMILIES["bottleneck, bn"][0].minimum())
    x = torch.randn(5, 16)
    scores, deltas = net.roi_heads.box_predictor(x)
    assert scores.shape == (5, 4) and deltas.shape == (5, 16)
    want = F.linear(x, net.roi_heads.box_predictor.bbox_pred.weight, net.roi_heads.box_predictor.bbox_pred.bias)
    assert all(torch.equal(deltas[:, 4 * i : 4 * i + 4], want) for i in range(4))


def test_parts_have_the_sizes_of_the_plan() -> None:
    for sp, conf in FAMILIES.values():
        if not isinstance(conf, DetectorConfig):
            continue
        net: Any = build(conf, sp.minimum())
        anchors = len(conf.anchor_ratios)
        assert net.rpn.head.cls_logits.out_channels == anchors * (1 + (conf.rpn_activation == "softmax"))
        levels = len(net.backbone(torch.randn(1, 3, 64, 64)))
        assert levels == len(conf.anchor_sizes) == len(net.rpn.anchor_generator.sizes)
        assert net.roi_heads.box_predictor.bbox_pred.out_features == 4 * (1 if conf.class_agnostic else 4)


# --- frozen parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages_neither_learn_nor_update_statistics(stages: int, deep: bool) -> None:
    arch = FAMILIES["bottleneck, bn"][0].maximum().part("backbone")
    net = ResNet(arch, frozen_stages=stages, deep_stem=deep).train()
    before = copied(net.state_dict())
    sum(f.mean() for f in net(torch.randn(2, 3, 64, 64)).values()).backward() if stages < 4 else None
    assert net.training
    for name, value in net.state_dict().items():
        part = name.partition(".")[0]
        frozen = stages > 0 and (not part.startswith("layer") or int(part[-1]) <= stages)
        if name.endswith("running_mean") and stages < 4:
            assert torch.equal(value, before[name]) is frozen, name
        if name in dict(net.named_parameters()):
            p = net.get_parameter(name)
            assert p.requires_grad is not frozen and (stages == 4 or (p.grad is None) is frozen), name
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in net.eval().modules()) and norms


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frozen_stages": 5}, "frozen_stages must be 0 to 4, but is 5"),
        ({"norm": "frozne"}, "norm must be one of bn, frozen, gn, sync_bn, but is 'frozne' (did you mean frozen?)"),
        ({"norm": "gn"}, "a group norm of 16 channels a group cannot take"),
        ({"norm": "frozen", "zero_init_residual": True}, "zero_init_residual needs norms that learn"),
        ({"block": "basik"}, "block must be one of bottleneck, basic"),
    ],
)
def test_what_a_resnet_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        ResNet(FAMILIES["bottleneck, bn"][0].minimum().part("backbone"), **options)
    assert said in e.value.message


# --- architectures and configs that don't fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"backbone.body.width": (6, 8, 10, 17)},
            "backbone.body.width is (6, 8, 10, 17), at most (6, 8, 10, 16) are there",
        ),
        ({"backbone.body.depth": (3, 4, 3, 3)}, "backbone.body.depth is (3, 4, 3, 3), at most (3, 3, 3, 3) are there"),
        ({"backbone.body.depth": (3, 0, 3, 3)}, "backbone.body.depth is (3, 0, 3, 3)"),
        ({"backbone.body.depth": (3, 3, 3)}, "backbone.body.depth must have the form of (3, 3, 3, 3)"),
        ({"backbone.stem.width": (4,)}, "backbone.stem.width must have the form of 12"),
        ({"backbone.stem.with": 4}, "backbone.stem.with is no dimension (did you mean backbone.stem.width?)"),
    ],
)
def test_an_architecture_beyond_the_supernet(change: dict[str, Any], said: str) -> None:
    net, sp, conf = make("bottleneck, bn")
    arch = Arch.of({**dict(sp.maximum().items), **change})
    set_arch(net, sp.minimum())
    for use in (lambda: set_arch(net, arch), lambda: subnet(net, arch, conf)):
        with pytest.raises(UsageError) as e:
            use()
        assert said in e.value.message and "was built at" in e.value.hint
    assert arch_of(net) == sp.minimum()


def test_a_missing_dimension() -> None:
    net, _, _ = make("bottleneck, bn")
    with pytest.raises(UsageError, match=r"backbone\.body\.depth is missing; backbone\.body\.width is missing"):
        set_arch(net, Arch.of({"backbone.stem.width": 4}))
    with pytest.raises(UsageError, match="is no supernet"):
        set_arch(nn.Linear(1, 1), R50)


def test_a_subnet_wants_the_config_of_its_supernet() -> None:
    net, sp, conf = make("bottleneck, bn")
    for other in ({"num_classes": 2}, {"fpn_channels": 4}, {"backbone_options": {"deep_stem": True}}):
        with pytest.raises(UsageError, match="built with another config"):
            subnet(net, sp.minimum(), dataclasses.replace(conf, **other))
    assert subnet(net, sp.minimum(), dataclasses.replace(conf, score_thresh=0.3)).roi_heads.score_thresh == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"rpn_activation": "relu"}, "rpn_activation must be sigmoid or softmax, but is 'relu'"),
        ({"anchor_sizes": []}, "at least one value"),
        (
            {"anchor_sizes": [8, 16, 32]},
            "must give out 1 to 3 features, one for each level of the pyramid, but it gives out 4",
        ),
        ({"backbone": "resnett"}, "unknown backbone 'resnett' (did you mean resnet?)"),
        ({"backbone": "no/such/file.py:Net"}, "cannot read the backbone's file no/such/file.py"),
        ({"backbone": MINE.replace("MobileNet", "MobilNet")}, "has no class 'MobilNet' (did you mean MobileNet?)"),
        ({"backbone": "searchkit.nnn:Net"}, "there is no module 'searchkit.nnn'"),
        (
            {"backbone": "searchkit.nas.models.backbones.resnet:ResNett"},
            "has no class 'ResNett' (did you mean ResNet?)",
        ),
    ],
)
def test_what_a_detector_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        build(config(**options), FAMILIES["bottleneck, bn"][0].minimum())
    assert said in e.value.message


def test_names_that_no_part_reads_are_refused() -> None:
    with pytest.raises(UsageError, match=r"neck\.width: this neck has no such dimension; it has no dimensions"):
        build(config(), Arch.of({**dict(R18.items), "neck.width": 8}))
    with pytest.raises(UsageError, match=r"neek\.width: .* begin with backbone\., neck\., head\."):
        build(config(), Arch.of({**dict(R18.items), "neek.width": 8}))
    with pytest.raises(UsageError, match=r"names below backbone\., but has none"):
        build(config(), Arch.of({}))


# --- a backbone of one's own -----------------------------------------------------------------------------------------


def test_a_backbone_is_found_by_file_and_by_module(tmp_path: Path) -> None:
    path = list(sys.path)
    assert part_class("backbone", MINE) is part_class("backbone", MINE)
    ours = part_class("backbone", "searchkit.nas.models.backbones.resnet:ResNet")
    assert ours is part_class("backbone", "resnet") is ResNet
    file = tmp_path / "one.py"
    file.write_text("class Net: a = 1\n")
    first = part_class("backbone", f"{file}:Net")
    file.write_text("class Net: a = 2\n")
    assert (first.a, part_class("backbone", f"{file}:Net").a) == (1, 2), "an edited file is read anew"
    file.write_text("import no_such_module\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            part_class("backbone", f"{file}:Net")
    assert sys.path == path


def test_a_backbone_without_weights() -> None:
    sp, conf = FAMILIES["a backbone of one's own"]
    with torch.device("meta"):
        body = make_backbone(conf.backbone, conf.backbone_options, sp.maximum())
    assert all(p.is_meta for p in body.parameters())
    assert body.channels(sp.minimum().part("backbone")) == (4, 4, 6)
