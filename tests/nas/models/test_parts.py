"""The laws of networks for every part of the tables, on random archs of tiny spaces: a new part has its row here.

PARTS_ARCHS=200 takes as many archs of each network.
"""

from __future__ import annotations

import copy
import os
import random
import types
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.cost.price import plans_of, price, regions_of
from searchkit.nas.models.elastic import arch_of, set_arch, wiring_of
from searchkit.nas.models.network import build
from searchkit.nas.models.part import BACKBONE, HEAD, NECK, NetConfig, weightless
from searchkit.nas.models.plans import config_at
from searchkit.nas.models.subnet import subnet
from searchkit.nas.models.table import BACKBONES, HEADS, NECKS, name_of, options_of, part_class, plan_class
from searchkit.nas.space.space import Space, read_space
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train.evaluate import calibrate
from searchkit.records.arch import Arch
from tests.support.detectors import copied, targets, trained

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHS = int(os.environ.get("PARTS_ARCHS", "6"))


class Tiny(NamedTuple):
    """Small sizes of a part: its options, and its dimensions with their choices."""

    options: Mapping[str, Any] = MappingProxyType({})
    space: Mapping[str, Any] = MappingProxyType({})
    partner: str = ""  # of a head: the neck that it is tried with, if not its own; of a neck: the head
    without: tuple[str, ...] = ()  # of a head: dimensions of a neck that it doesn't go with


FOUR = {
    "stem.width": {"choices": [4, 8]},
    "body.width": {"choices": [[4, 8], [8, 12], [8, 12], [12, 16]]},
    "body.depth": {"choices": [[1, 2], [1], [1, 2], [1]]},
}
WIDENED = {"body.expand": {"choices": [[1, 3]] * 4}, "body.kernel": {"choices": [[3, 5]] * 4}}
BODIES = {
    "resnet": Tiny({"block": "basic"}, FOUR),
    "mobilenet_v3": Tiny(
        {
            "strides": [2, 2, 2, 2],
            "squeeze": [False, True, False, True],
            "activations": ["relu", "relu", "hswish", "hswish"],
            "features": ["c2", "c3.expand", "c4", "tail"],
            "transform": "chained",
        },
        {
            **FOUR,
            "body.expand": {"choices": [[1], [1, 3], [3, 4], [3, 4]]},
            "body.kernel": {"choices": [[3, 5, 7], [3], [3, 5], [3, 7]]},
            "head.width": {"choices": [12, 16]},
        },
    ),
    "efficientnet_lite": Tiny({"strides": [2, 2, 2, 2]}, {**FOUR, **WIDENED}),
    "attentive_nas": Tiny(
        {"strides": [2, 2, 2, 2], "squeeze": [False, True, False, True], "head_expand": 2}, {**FOUR, **WIDENED}
    ),
    "big_resnet": Tiny(
        {}, {**FOUR, "stem.kernel": {"choices": [3, 5]}, "body.expand": {"choices": [[1, 2], [1], [1], [1]]}}
    ),
    "mobilenet_v2": Tiny(
        {"strides": [2, 2, 2, 2], "stem_stride": 2},
        {**FOUR, "body.expand": {"choices": [[1, 2]] * 4}, "body.kernel": {"choices": [[3, 5]] * 4}},
    ),
    "regnet": Tiny(
        {"squeeze": "hidden"},
        {**FOUR, "body.groups": {"choices": [[1, 2]] * 4}, "body.kernel": {"choices": [[1, 3]] * 4}},
    ),
    "darknet": Tiny({}, {**FOUR, "body.hidden": {"choices": [[2, 4]] * 4}}),
    "shufflenet_v2": Tiny(
        {"stem_pool": False},
        {
            "stem.width": 8,
            "body.width": [8, 16, 16, 16],
            "body.depth": [1, 2, 1, 1],
            "body.choice": {"choices": [[0, 1, 2, 3]] * 5},
        },
    ),
}
TINY_NECKS = {
    "none": Tiny(partner="linear"),
    "hidden": Tiny({"width": 16, "activation": "swish"}, {"width": {"choices": [12, 16]}}, partner="linear"),
    "fpn": Tiny({"channels": 8}, partner="faster_rcnn"),
    "elastic_fpn": Tiny(
        {"norm": "bn", "p6": "lateral", "p7_relu": False},
        {"out_channel": {"choices": [4, 8]}, "kernel": {"choices": [1, 3]}, "depth": {"choices": [3, 4, 5]}},
        partner="retinanet",
    ),
    "ssd_extras": Tiny(
        {"channels": [16, 8], "transform": "direct"},
        {
            "width": {"choices": [[8, 16], [8]]},
            "hidden": {"choices": [[4, 8], [8]]},
            "kernel": {"choices": [[3, 5]] * 2},
        },
        partner="ssd",
    ),
    "yolo": Tiny({"channels": [6, 8, 8]}, {"hidden": {"choices": [[4, 6], [8], [8, 12]]}}, partner="yolo"),
}
SETTINGS = {
    "score_permille": {"choices": [1, 300, 340]},  # trained so little, three classes have about a third each
    "nms_permille": {"choices": [200, 500, 900]},
    "detections": {"choices": [2, 10, 100]},
}
TINY_HEADS = {
    "linear": Tiny({"dropout": 0.1}, partner="fpn"),
    "ssd": Tiny(
        {
            "ratios": [[2], [2, 3], [], [2]],
            "scales": [0.1, 0.3, 0.5, 0.7, 0.9],
            "score_thresh": 0.0,
            "transform": "chained",
        },
        {"kernel": {"choices": [[3, 5, 7]] * 4}, **SETTINGS},
    ),
    "yolo": Tiny(
        {
            "anchors": [[[8, 8]], [[16, 12], [12, 24]], [[40, 40]]],
            "channels": [8, 8, 8],
            "score_thresh": 0.0,
            "detections_per_image": 300,
            "candidates": 200,
        },
        {"width": {"choices": [[4, 8]] * 3}, **SETTINGS},
    ),
    "faster_rcnn": Tiny(
        {"box_head_width": 16, "score_thresh": 0.0, "rpn_pre_nms_test": 30, "rpn_post_nms_test": 20},
        {"proposals": {"choices": [3, 10, 40]}, **SETTINGS},
        partner="elastic_fpn",
        without=("depth",),
    ),
    "retinanet": Tiny(
        {"norm": "per_level", "anchor_scales": (1.0,), "score_thresh": 0.0, "detections_per_image": 10**6},
        {
            "cls.width": {"choices": [4, 8]},
            "cls.kernel": {"choices": [1, 3]},
            "box.depth": {"choices": [1, 2]},
            **SETTINGS,
        },
    ),
}


class Case(NamedTuple):
    backbone: str
    neck: str  # "": that of the head
    head: str


CASES = [
    *(Case(name, "", "linear") for name in BACKBONES),
    *(Case("resnet", name, TINY_NECKS[name].partner if name in TINY_NECKS else "") for name in NECKS),
    *(Case("resnet", TINY_HEADS[name].partner if name in TINY_HEADS else "", name) for name in HEADS),
    *(Case("mobilenet_v2", "", name) for name in HEADS),
]


def below(part: str, space: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": choices for name, choices in space.items()}


def config_of(case: Case) -> NetConfig:
    body, head = BODIES[case.backbone], TINY_HEADS[case.head]
    cls = part_class(HEAD, case.head)
    name = case.neck or cls.Config.neck
    neck, neck_cls = TINY_NECKS[name], part_class(NECK, name)
    flat = issubclass(cls.Config, cls.Options)
    parts: dict[str, Any] = {
        "backbone": case.backbone,
        "backbone_options": body.options,
        "neck": name,
        "head": case.head,
        **(head.options if flat else {"head_options": cls.Options(**head.options)}),
    }
    config: NetConfig = cls.Config(num_classes=3, **parts)
    defaults = {**config.neck_defaults(), **neck.options}
    return cls.Config(num_classes=3, neck_options=neck_cls.Options(**defaults), **parts)


def space_of(case: Case, config: NetConfig) -> Space:
    body, neck, head = BODIES[case.backbone], TINY_NECKS[config.neck], TINY_HEADS[case.head]
    of_neck = {name: choices for name, choices in neck.space.items() if name not in head.without}
    return read_space({**below(BACKBONE, body.space), **below(NECK, of_neck), **below(HEAD, head.space)})


def sizes_of(case: Case) -> dict[str, int]:
    """What a detector is built with beside its config."""
    return {"min_size": 64, "max_size": 96} if part_class(HEAD, case.head).TASK == "det" else {}


def supernet(case: Case) -> tuple[Any, Space, NetConfig]:
    config = config_of(case)
    space = space_of(case, config)
    net = trained(build(config, space.maximum(), space.held(), **sizes_of(case)))
    return net.eval(), space, config


def exported(static: nn.Module, config: NetConfig) -> Any:
    """The network that a model.py builds, with the weights of the one that it was written from."""
    form: Any = wiring_of(static).head.form
    text = form.model_source(static, config_at(config, arch_of(static)), "A test.", form.size_of(static, 64))
    module = types.ModuleType("model")
    module.__file__ = __file__
    exec(compile(text, "model.py", "exec"), module.__dict__)
    plain: Any = module.build()
    plain.load_state_dict(static.state_dict())
    return plain.eval()


def test_every_part_has_its_row() -> None:
    for table, tiny in ((BACKBONES, BODIES), (NECKS, TINY_NECKS), (HEADS, TINY_HEADS)):
        assert {*table} == {*tiny}, "a part of models/table.py needs small sizes in this file"


def test_what_runs_is_what_was_planned() -> None:
    """What is priced and checked without torch is the very code that modules are made by."""
    for part, table in ((BACKBONE, BACKBONES), (NECK, NECKS), (HEAD, HEADS)):
        for name in table:
            plan, whole = plan_class(part, name), part_class(part, name)
            assert issubclass(whole, plan) and whole.plan is plan.plan, name
            assert name_of(part, whole) == name
    for name in BACKBONES:
        assert options_of(plan_class(BACKBONE, name)) == options_of(part_class(BACKBONE, name)), name


@pytest.mark.slow
@pytest.mark.parametrize("case", dict.fromkeys(CASES), ids=lambda case: "-".join(filter(None, case)))
def test_the_laws(case: Case) -> None:
    """A subnet is the supernet at its arch, to the bit; costs are those that are measured; so is what is extracted."""
    net, space, config = supernet(case)
    before, form, plans = copied(net.state_dict()), wiring_of(net).head.form, plans_of(config, space.maximum())
    rng, picture = random.Random(str(case)), (255 * torch.rand(3, 64, 72)).to(torch.uint8)
    archs = [space.maximum(), space.minimum(), *(space.sample(rng) for _ in range(ARCHS - 2))]
    for i, arch in enumerate(archs):
        set_arch(net, arch)
        static = subnet(net, arch, config)
        assert arch_of(net) == arch == arch_of(static)
        assert form.equality(net, static, [picture], [0], 64, i)["bit_equal"]
        cost = price(plans, arch, (64, 80))
        assert cost.flops == form.measured_macs(static, config, arch, (64, 80)), arch
        assert cost.params == sum(p.numel() for p in static.parameters()), arch
        if i in (1, len(archs) - 1):
            plain = exported(static, config)
            assert form.equality(net, plain, [picture], [0], 64, i)["bit_equal"]
            learns(case, plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def learns(case: Case, net: Any) -> None:
    """One step of what was extracted."""
    images = torch.rand(2, 3, 64, 64)
    net.train()
    if sizes_of(case):
        losses = net([*images], targets(2))
        assert {*losses} == {*part_class(HEAD, case.head).LOSSES}
        loss: Tensor = sum(losses.values())
    else:
        loss = net(images).square().mean()
    loss.backward()
    assert torch.isfinite(loss) and any(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("head", [name for name in HEADS if weightless(plan_class(HEAD, name))])
def test_settings_need_no_weights(head: str) -> None:
    """What an arch says of them is what a config with such options does; without them it is the config's, before and
    after. Training never sees them."""
    case = Case("mobilenet_v2", "", head)
    net, space, config = supernet(case)
    plain_space, cls = space.without(weightless(plan_class(HEAD, head))), plan_class(HEAD, head)
    base = trained(build(config, plain_space.maximum(), plain_space.held(), **sizes_of(case))).eval()
    base.load_state_dict(net.state_dict())
    picture, rng = [torch.rand(3, 64, 72)], random.Random(head)
    whole = plain_space.sample(rng)
    found = boxes_at(base, whole, picture)
    for name, setting in cls.SETTINGS.items():
        for value in SETTINGS.get(name, {"choices": (3, 10)})["choices"]:
            arch = Arch.of({**dict(whole.items), f"head.{name}": value})
            option = value if setting.parts == 1 else value / setting.parts
            same = subnet(base, whole, with_option(config, cls, setting.option, option))
            theirs, ours = same(picture)[0], boxes_at(base, arch, picture)
            assert all(torch.equal(theirs[key], ours[key]) for key in ours), arch
            assert arch_of(base) == arch
            assert loss_of(base) == loss_of(same)
    again = boxes_at(base, whole, picture)
    assert all(torch.equal(found[key], again[key]) for key in found) and arch_of(base) == whole
    with pytest.raises(UsageError, match=r"head\.nms_permille must be one integer from 1 to 1,000, but is 1001"):
        set_arch(base, Arch.of({**dict(whole.items), "head.nms_permille": 1001}))


def boxes_at(net: Any, arch: Arch, picture: list[Tensor]) -> dict[str, Tensor]:
    set_arch(net, arch)
    with torch.no_grad():
        (found,) = net(picture)
    return dict(found)


def with_option(config: NetConfig, cls: Any, option: str, value: Any) -> NetConfig:
    """The config with another option of its head, wherever that stands."""
    whole: Any = config
    if isinstance(config, cls.Options):
        made: NetConfig = replace(whole, **{option: value})
        return made
    return replace(config, head_options=replace(whole.head_options, **{option: value}))


def loss_of(net: Any) -> float:
    """Of one batch, in a training whose random choices are the same each time; of a copy."""
    torch.manual_seed(0)
    losses = copy.deepcopy(net).train()([torch.rand(3, 64, 64) for _ in range(2)], targets(2))
    return sum(float(loss.detach()) for loss in losses.values())


def test_proposals_are_what_the_box_head_is_priced_on() -> None:
    _, space, config = supernet(Case("resnet", "", "faster_rcnn"))
    plans, arch = plans_of(config, space.maximum()), dict(space.minimum().items)
    costs = {n: price(plans, Arch.of({**arch, "head.proposals": n}), 64).flops for n in (3, 10, 1000)}
    del arch["head.proposals"]
    assert price(plans, Arch.of(arch), 64).flops == costs[1000]
    assert (costs[1000] - costs[10]) * 7 == (costs[10] - costs[3]) * 990 > 0
    assert [regions_of(plans, Arch.of({**arch, **more})) for more in ({}, {"head.proposals": 7})] == [1000, 7]


@pytest.mark.parametrize("head", HEADS)
def test_scores_leave_the_supernet_alone(head: str) -> None:
    """Calibrating, silencing and running a subnet change its own tensors alone, and every norm gets new statistics."""
    case = Case("resnet", "", head)
    net, space, config = supernet(case)
    task = TASKS[part_class(HEAD, head).TASK]
    before, static = copied(net.state_dict()), subnet(net, space.minimum(), config)
    own = copied(static.state_dict())
    images = (255 * torch.rand(4, 3, 64, 64)).to(torch.uint8)
    batch = [*images] if task.name == "det" else images
    assert calibrate(static, [batch], torch.device("cpu"), task=task) == 4
    wiring_of(static).head.silence(static, 2)
    statistics = [name for name in own if name.endswith("running_mean")]
    assert statistics and not any(torch.equal(static.state_dict()[name], own[name]) for name in statistics)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("head", HEADS)
def test_classes_are_moved_by_name(head: str) -> None:
    """In another order they have the scores that they had; a class that is new is never predicted."""
    case = Case("resnet", "", head)
    net, space, config = supernet(case)
    other = build(config, space.maximum(), space.held(), **sizes_of(case)).eval()
    image = torch.rand(3, 64, 64)
    for new, places in ((["c", "a", "b"], [3, 1, 2]), (["c", "d", "a"], [3, 0, 1])):
        state = wiring_of(net).head.adapt(net.state_dict(), other.state_dict(), ["a", "b", "c"], new, False)
        other.load_state_dict(state)
        with torch.no_grad():
            theirs, ours = best_scores(case, net, image), best_scores(case, other, image)
        if 0 in places:
            assert ours[1 + places.index(0)] < 1e-9
        else:
            assert [ours[label] for label in (1, 2, 3)] == pytest.approx([theirs[place] for place in places], rel=1e-4)


def best_scores(case: Case, net: Any, image: Tensor) -> dict[int, float]:
    """By label, from 1, the highest score."""
    if not sizes_of(case):
        return {1 + i: float(score) for i, score in enumerate(net(image[None])[0].softmax(0))}
    (found,) = net([image])
    return {
        label: max((float(s) for s, at in zip(found["scores"], found["labels"], strict=True) if at == label), default=0)
        for label in (1, 2, 3)
    }


def test_names_that_a_part_lacks_are_refused() -> None:
    net, space, _ = supernet(Case("resnet", "", "linear"))
    arch = space.maximum().nested() | {"neck": {"depth": 2}}
    with pytest.raises(UsageError, match=r"neck\.depth is no dimension"):
        set_arch(net, type(space.maximum()).of(arch))
