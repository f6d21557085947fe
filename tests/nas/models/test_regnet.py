"""RegNet: torchvision's at its archs, the static network's equal at every arch, groups of other widths too."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.regnet import RegNet
from searchkit.nas.models.backbones.regnet_plan import from_torchvision, regnet_plan
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.network import build
from searchkit.nas.models.subnet import subnet
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.backbones import (
    below,
    check_detector,
    check_torchvision_weights,
    cost,
    measured,
    same_as_static,
    same_on_a_gpu,
)
from tests.support.detectors import config, trained

pytestmark = pytest.mark.usefixtures("one_thread")
TORCHVISION = ("regnet_x_400mf", "regnet_x_1_6gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_3_2gf")


def arch_of(net: nn.Module) -> Arch:
    """The arch of one of torchvision's, read off its tensors."""
    state = net.state_dict()
    last: dict[int, tuple[int, int]] = {}
    for name in state:
        if match := re.match(r"trunk_output\.block(\d+)\.block\d+-(\d+)\.f\.b\.0\.weight", name):
            last[int(match[1])] = (int(match[2]), state[name].shape[1])
    widths = [state[f"trunk_output.block{s}.block{s}-0.f.c.0.weight"].shape[0] for s in last]
    groups = [width for _, width in last.values()]
    sizes = {"body.width": widths, "body.depth": [1 + i for i, _ in last.values()], "body.group_width": groups}
    return Arch.of({"stem.width": state["stem.0.weight"].shape[0], **sizes})


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = from_torchvision(state)
    assert {*names} == {*state}
    return {names[name]: value for name, value in state.items()}


def twin(theirs: nn.Module, name: str) -> RegNet:
    return RegNet(arch_of(theirs), squeeze="input" if "_y_" in name else "none")


# --- torchvision's ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCHVISION)
def test_it_costs_what_torchvision_says(name: str) -> None:
    theirs = torchvision.models.get_model(name)
    options = {"squeeze": "input" if "_y_" in name else "none"}
    macs, params = cost(regnet_plan(arch_of(theirs), **options), (224, 224))
    told = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    last = theirs.fc.in_features * 1000
    assert params + last + 1000 == told["num_params"]
    assert round((macs + last) / 1e9, 3) == told["_ops"]


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_x_400mf"])
def test_it_is_torchvisions(name: str) -> None:
    theirs = trained(torchvision.models.get_model(name))
    ours = twin(theirs, name)
    ours.load_state_dict({k: v for k, v in own_names(theirs.state_dict()).items() if not k.startswith("fc.")})
    x = torch.randn(2, 3, 70, 64)
    for training in (False, True):
        theirs.train(training), ours.train(training)
        with torch.no_grad():
            got = ours(x)
            assert torch.equal(theirs.fc(theirs.avgpool(got["3"]).flatten(1)), theirs(x))
    assert [f.shape[-2:] for f in got.values()] == [(18, 16), (9, 8), (5, 4), (3, 2)]
    state = own_names(theirs.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())


@pytest.mark.slow
def test_weights_of_torchvision_fill_a_larger_network(tmp_path: Path) -> None:
    theirs = trained(torchvision.models.regnet_x_400mf())
    small = arch_of(theirs)
    biggest = Arch.of({**dict(small.items), "body.width": (32, 64, 176, 400), "body.kernel": 5, "stem.width": 40})
    small = Arch.of({**dict(small.items), "body.kernel": 3})
    loaded = check_torchvision_weights(theirs, biggest, small, tmp_path, backbone="regnet")
    assert "fc.weight" not in loaded.partly and not loaded.kept


# --- static networks -------------------------------------------------------------------------------------------------

HELD = {"body.groups": ((1, 2, 4), (2, 4))}
SPACES: dict[str, dict[str, Any]] = {
    "group widths": {
        "body.group_width": ((2, 4, 8), (4, 8)),
        "body.width": ((8, 16), (16, 24)),
        "body.kernel": ((1, 3, 5), (3, 5)),
    },
    "numbers of groups, squeezed": {
        "body.groups": HELD["body.groups"],
        "body.width": ((4, 8), (8, 12)),
        "body.expand": ((1, 2), (1, 2)),
    },
    "channels inside": {
        "body.group_width": ((3, 6), (4, 6)),
        "body.width": ((5, 9), (8, 10)),
        "body.hidden": ((12, 24), (12, 24)),
    },
    "of the input, norms in groups": {
        "body.group_width": ((2, 4), (2, 4)),
        "body.width": ((8, 12), (8, 16)),
        "body.expand": ((1, 2), (1, 2)),
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "numbers of groups, squeezed": {"squeeze": "hidden", "held": HELD},
    "channels inside": {"squeeze": "input", "norm": "frozen"},
    "of the input, norms in groups": {"expand_input": True, "norm": "gn", "norm_group": 2},
}


def draw(space: dict[str, Any], pick: Any) -> Arch:
    """An architecture; pick(choices) -> one of them."""
    depth = {"body.depth": [pick((1, 2)), pick((1, 2, 3))], "stem.width": pick((4, 8))}
    return Arch.of({**depth, **{name: [pick(c) for c in choices] for name, choices in space.items()}})


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_an_arch_of_the_supernet_is_the_static_network(name: str) -> None:
    """Also where its groups are of another width than the supernet's, and it costs what is measured."""
    space, rng, options = SPACES[name], random.Random(name), {"strides": (2, 1), **OPTIONS.get(name, {})}
    net = randomise(RegNet(draw(space, max), **options))
    alone = {key: value for key, value in options.items() if key != "held"}
    groups = set()
    for pick in (max, min, *(rng.choice,) * 12):
        arch = draw(space, pick)
        static = RegNet(arch, **alone)
        same_as_static(net, arch, static, torch.randn(2, 3, 24, 17))
        macs, params = cost(net.plan(arch), (24, 17))
        assert macs == measured(static, (24, 17))
        assert params == sum(p.numel() for p in static.parameters())
        groups.add(static.stages.get_submodule("0.0.b.0").weight.shape[1])
    assert len(groups) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SPACES)
def test_on_a_gpu(name: str) -> None:
    space, rng, options = SPACES[name], random.Random(name), {"strides": (2, 1), **OPTIONS.get(name, {})}
    net = randomise(RegNet(draw(space, max), **options))
    alone = {key: value for key, value in options.items() if key != "held"}
    for pick in (max, min, *(rng.choice,) * 10):
        arch = draw(space, pick)
        same_on_a_gpu(net, arch, RegNet(arch, **alone))


def test_at_one_group_width_a_narrower_net_is_the_first_groups() -> None:
    """What the wider net computes in its first groups is what the narrower one does; at another width it is not."""
    wide = {"stem.width": 4, "body.width": (16,), "body.depth": (1,), "body.group_width": (4,)}
    net = randomise(RegNet(Arch.of(wide), strides=(2,))).eval()
    conv, x = net.stages.get_submodule("0.0.b.0"), torch.randn(1, 16, 6, 6)
    assert torch.equal(conv(x[:, :8], 8, 3, 2), conv(x)[:, :8])
    assert not torch.equal(conv(x[:, :8], 8, 3, 4), conv(x)[:, :8])


# --- in networks, and what it cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [None, {"backbone.body.groups": ((2, 4), (4, 8))}])
def test_in_a_detector_with_other_groups(held: Any) -> None:
    """Cut out, and written down as source code, it is the supernet at that arch, bit for bit."""
    grouped = {"body.group_width": (4, 8)} if held is None else {"body.groups": (4, 8)}
    fewer = {"body.group_width": (2, 4)} if held is None else {"body.groups": (2, 4)}
    biggest = {"stem.width": 8, "body.width": (16, 24), "body.depth": (2, 2), "body.kernel": (3, 5), **grouped}
    least = {"stem.width": 6, "body.width": (12, 16), "body.depth": (1, 2), "body.kernel": (3, 3), **fewer}
    options = {"strides": [2, 2], "squeeze": "hidden"}  # as a list of a YAML file
    check_detector("regnet", options, Arch.of(biggest), Arch.of(least), held)


def test_a_number_of_groups_that_is_not_held() -> None:
    sizes = {"stem.width": 4, "body.width": (8, 12), "body.depth": (1, 1)}
    biggest, held = Arch.of({**sizes, "body.groups": (4, 4)}), {"backbone.body.groups": ((2, 4), (2, 4))}
    conf = config(backbone="regnet", backbone_options={"strides": [2, 2]})
    net = build(conf, below(biggest), held)
    set_arch(net, below(Arch.of({**sizes, "body.groups": (2, 4)})))
    alone = subnet(net, below(Arch.of({**sizes, "body.groups": (4, 4)})), conf)
    with pytest.raises(UsageError, match=r"body\.groups\[0\] is 2, but must be one of \(4,\)"):
        set_arch(alone, below(Arch.of({**sizes, "body.groups": (2, 4)})))
    with pytest.raises(UsageError, match=r"body\.groups\[0\] is 1, but must be one of \(2, 4\)"):
        set_arch(net, below(Arch.of({**sizes, "body.groups": (1, 4)})))


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"body.group_width": (4, 5)}, {}, "stage 2: block 1 is 12 channels wide inside, which can't be split"),
        ({"body.groups": (2, 2)}, {}, "must have body.group_width or body.groups, but has both of them"),
        ({"body.kernel": 2}, {}, "kernels odd"),
        ({"body.width": (8,)}, {}, "one number for each of the 2 strides, but have 1 and 2"),
        ({"body.gruops": (2, 2)}, {}, "no dimension 'body.gruops' (did you mean body.groups?)"),
        ({}, {"strides": (2, 4)}, "strides must be 1 or 2, but are 2 of the stem and (2, 4)"),
        (
            {},
            {"squeeze": "inputs"},
            "squeeze must be one of none, input, hidden, but is 'inputs'",
        ),
        (
            {},
            {"held": {"body.groups": ((1,),)}},
            "held must have the choices of body.groups at each of its 0",
        ),
        ({"stem.width": (8, 8)}, {}, "stem.width must be an integer of at least 1, but is (8, 8)"),
    ],
)
def test_what_it_cannot_be(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    sizes = {"stem.width": 8, "body.width": (8, 12), "body.depth": (1, 1), "body.group_width": (4, 4)}
    with torch.device("meta"), pytest.raises(UsageError) as e:
        RegNet(Arch.of({**sizes, **change}), **{"strides": (2, 2), **options})
    assert said in e.value.message
