"""The parts of a network as a config names them: their options, what of them doesn't fit, and what stays as it was."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConfigError, UsageError
from searchkit.nas.models.network import build
from searchkit.nas.models.plans import unseen, unseen_there
from searchkit.nas.models.subnet import subnet
from searchkit.nas.tasks.read import load
from searchkit.nas.train.bench import model_said
from searchkit.nas.train.kept import deciding, differences
from tests.support import nas

OWN = Path(__file__).parents[2] / "assets" / "own" / "ladder.py"
PARTED: dict[str, Any] = {
    "model": {
        "num_classes": 3,
        "backbone_options": {"block": "basic"},
        "neck": "ladder.py:Ladder",
        "neck_options": {"width": 8},
        "head": "ladder.py:Shared",
        "head_options": {"sizes": [8, 16, 24, 32]},
    },
    "space": {
        "backbone.stem.width": {"choices": [4, 8]},
        "backbone.body.width": [4, 8, 8, 12],
        "backbone.body.depth": [1, 1, 1, 1],
        "neck.width": {"choices": [4, 8]},
        "head.depth": {"choices": [1, 2]},
        "data.input_shape": 64,
    },
}


def written(folder: Path, body: dict[str, Any] = PARTED, **model: Any) -> str:
    """A config of that model, beside the file of the parts; None takes a key out."""
    body = copy.deepcopy(body)
    body["model"] = {key: value for key, value in {**body["model"], **model}.items() if value is not None}
    shutil.copy(OWN, folder)
    return nas.write(folder / "cfg.yaml", body)


FLAT = {"neck": None, "neck_options": None, "head": None, "head_options": None, "fpn_channels": 8}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"neck": "fnp"}, "model.neck: unknown neck 'fnp' (did you mean fpn?)"),
        ({"head": "linear"}, "model.head: linear is of task cls, but the task is det"),
        ({"head": "ladder.py:Sharde"}, "ladder.py has no class 'Sharde' (did you mean Shared?)"),
        ({"head_options": {"depht": 2}}, "model.head_options: unknown key 'depht' (did you mean depth?)"),
        ({"head_options": {"depth": "two"}}, "model.head_options.depth: must be a whole number, not 'two'"),
        ({"head_options": {"class_loss": "focl"}}, "model.head_options.class_loss: must be one of focal"),
        ({"head_options": {"class_loss": "multibox"}}, "multibox is a softmax over the classes, but scores is sigmoid"),
        ({"backbone": "resnte"}, "cfg.yaml:20:15: model.backbone: unknown backbone 'resnte' (did you mean resnet?)"),
        ({"neck": "fpn", "neck_options": None}, "space.neck.width: this neck has no such dimension"),
        ({"rpn_activation": "softmax"}, "model: unknown key 'rpn_activation'"),
        ({"head": None, "head_options": None}, "space.head.depth: this head has no such dimension"),
    ],
)
def test_what_a_config_says_wrongly_of_parts(tmp_path: Path, model: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(written(tmp_path, **model))
    assert said in e.value.message


@pytest.mark.parametrize(
    ("model", "faults"),
    [
        (
            {
                "head": "retinanet",
                "neck": "elastic_fpn",
                "head_options": {"assigner": "iuo", "kernel": 4, "anchor_sizes": [], "scores": "softmax", "prior": "x"},
                "neck_options": {"kernel": 2, "depth": "deep", "p6": "c4"},
            },
            {
                "head_options.assigner": "must be one of iou, atss, cell, but is 'iuo' (did you mean iou?)",
                "head_options.kernel": "must be odd, but is 4",
                "head_options.anchor_sizes": "must have at least one value, all above 0, but is []",
                "head_options.scores": "softmax needs background: true, a score for whether there is an object",
                "head_options.prior": "must be a number, not 'x'",
                "neck_options.kernel": "must be odd, but is 2",
                "neck_options.depth": "must be a whole number of 1 or more, not 'deep'",
                "neck_options.p6": "must be one of c5, lateral, p5, not 'c4'",
            },
        ),
        (
            {
                "head": "ssd",
                "neck": "ssd_extras",
                "head_options": {"scales": [0.2, 0.1], "kernel": 2, "class_loss": "multibox", "scores": "sofmax"},
            },
            {
                "head_options.scales": "must ascend (coarser levels find larger objects), but are [0.2, 0.1]",
                "head_options.kernel": "must be odd and at least 1, but is 2",
                "head_options.ratios": "must have a list for each level, and scales one value more: there are 6 and 2",
                "head_options.scores": "must be one of sigmoid, softmax, objectness, not 'sofmax' "
                "(did you mean softmax?)",
            },
        ),
    ],
)
def test_all_bad_options_are_told_at_their_places(
    tmp_path: Path, model: dict[str, Any], faults: dict[str, str]
) -> None:
    """What is wrong with a value that depends on one which is no value at all is not told."""
    path = written(tmp_path, **{**FLAT, "fpn_channels": None, **model})
    with pytest.raises(ConfigError) as e:
        load(path)
    told = {f.what.removeprefix("model."): f.line for f in e.value.faults if f.what.startswith("model.")}
    assert {*told} == {f"{key}: {what}" for key, what in faults.items()}
    lines = Path(path).read_text().splitlines()
    for key, what in faults.items():
        part, _, name = key.partition(".")
        assert f'"{name if name in model[part] else part}": ' in lines[told[f"{key}: {what}"] - 1]


def test_parts_that_do_not_fit_are_told_when_the_config_is_read(tmp_path: Path) -> None:
    body = copy.deepcopy(PARTED)
    del body["space"]["head.depth"]
    plain = {"head": None, "head_options": None, "neck_options": None}
    with pytest.raises(ConfigError, match="a size for each of the 4 levels of the neck, but has 5"):
        load(written(tmp_path, body, **plain))
    with pytest.raises(ConfigError, match=r"model\.fpn_channels: is of the neck fpn, but the neck is ladder\.py"):
        load(written(tmp_path, body, **plain, fpn_channels=8))
    load(written(tmp_path, body, **plain, anchor_sizes=[8, 16, 32, 64]))


RETINA: dict[str, Any] = {**FLAT, "fpn_channels": None, "head": "retinanet", "neck": "elastic_fpn"}
OF_SSD: dict[str, Any] = {**RETINA, "head": "ssd", "neck": "ssd_extras"}


@pytest.mark.parametrize(
    ("model", "space", "key", "said"),
    [
        (FLAT | {"anchor_sizes": [8, 16]}, {}, "anchor_sizes", "the backbone must give out 1 to 2 features"),
        (
            FLAT | {"neck": "none", "fpn_channels": None},
            {},
            "neck",
            "the levels of a Faster R-CNN must be of one width",
        ),
        (RETINA | {"neck_options": {"first": 9}}, {}, "first", "finest feature is number 9, but the backbone has 4"),
        (RETINA | {"head_options": {"anchor_sizes": [8, 16]}}, {}, "anchor_sizes", "and at most 2, its neck_options"),
        (RETINA | {"neck": "ssd_extras"}, {}, "neck", "anchor_sizes must have a size for each of the 6 levels"),
        (RETINA, {"neck.depth": 2}, "neck.depth", "the pyramid must have at least 3 levels"),
        (RETINA, {"head.cls.kernel": {"choices": [2, 3]}}, "head.cls.kernel", "head.cls.kernel must be odd, but is 2"),
        (OF_SSD | {"neck_options": {"features": 9}}, {}, "features", "the SSD's neck takes the last 9 features"),
        (OF_SSD | {"neck_options": {"channels": [16]}}, {}, "channels", "has default boxes for 6 levels"),
        (OF_SSD, {"neck.width": [16, 8]}, "neck.width", "neck.width must have 1 number, or one for each extra level"),
        (OF_SSD, {"head.kernel": [3, 3]}, "head.kernel", "head.kernel must be 1 number, or one for each of 6 levels"),
        (
            FLAT,
            {"backbone.body.depth": {"choices": [[1], [0, 1], [1], [1]]}},
            "backbone.body.depth",
            "0 is no choice beside",
        ),
        (FLAT, {"head.proposals": {"choices": [[10, 20]]}}, "head.proposals", "must be one integer of at least 1"),
        (RETINA, {"head.nms_permille": {"choices": [400, 2000]}}, "head.nms_permille", "from 1 to 1,000, but is 2000"),
        (
            OF_SSD,
            {"head.detections": {"choices": [5, 9], "schedule": {"boundary": [1, 2], "value": [9, [5, 9]]}}},
            "head.detections",
            "needs no weights, so no step of a training visits it",
        ),
        (OF_SSD | {"neck_options": {"transform": "direct"}}, {}, "transform", "the space has no neck.kernel to make"),
    ],
)
def test_each_misfit_has_its_place(
    tmp_path: Path, model: dict[str, Any], space: dict[str, Any], key: str, said: str
) -> None:
    """The line of the key that decides it, be it of a part's options or of the space."""
    body = copy.deepcopy(PARTED)
    body["space"] = {name: choices for name, choices in body["space"].items() if name[:5] not in ("neck.", "head.")}
    body["space"] |= space
    path = written(tmp_path, body, **model)
    with pytest.raises(ConfigError) as e:
        load(path)
    (fault,) = e.value.faults
    assert said in fault.what
    assert Path(path).read_text().splitlines()[fault.line - 1].strip().startswith(f'"{key}":')


REGNET: dict[str, Any] = {
    "model": {
        "num_classes": 3,
        "backbone": "regnet",
        "head": "retinanet",
        "neck_options": {"first": 0, "depth": 4},
        "head_options": {"anchor_sizes": [8, 16, 24, 32], "norm": "group", "norm_group": 8},
    },
    "space": {
        "backbone.stem.width": 8,
        "backbone.body.width": {"start": [16, 32, 32, 32], "end": [32, 32, 32, 32], "step": [16, 1, 1, 1]},
        "backbone.body.depth": [1, 1, 1, 1],
        "backbone.body.group_width": {"choices": [4, 8]},
        "backbone.body.expand": {"choices": [1, 2]},
        "head.cls.width": {"choices": [8, 16]},
        "head.cls.kernel": {"choices": [1, 3]},
        "data.input_shape": 64,
    },
}


@pytest.mark.parametrize(
    ("dimensions", "said"),
    [
        ({}, ()),
        (
            {"head.cls.kernel": {"choices": [1, 2, 3]}, "head.cls.width": {"choices": [8, 12, 16]}},
            (
                "space.head.cls.kernel: has a choice that no network can have: head.cls.kernel must be odd, but is 2",
                "space.head.cls.width: has a choice that no network can have: head.cls.width must be a multiple of "
                "head_options.norm_group, 8, but is 12",
            ),
        ),
        (  # 12 is right with groups of 4, and with groups of 8 where it is doubled
            {"backbone.body.width": {"start": [8, 32, 32, 32], "end": [32, 32, 32, 32], "step": [4, 1, 1, 1]}},
            ("space: has archs that no network can have: stage 1: block 1 is ", "into groups of 8 channels (at "),
        ),
    ],
)
def test_a_choice_that_no_network_can_have_is_told_before_a_step_draws_it(
    tmp_path: Path, dimensions: dict[str, Any], said: tuple[str, ...]
) -> None:
    """The ends of the space are right in all of these."""
    path = nas.write(tmp_path / "cfg.yaml", {**REGNET, "space": {**REGNET["space"], **dimensions}})
    if not said:
        load(path)
        return
    with pytest.raises(ConfigError) as e:
        load(path)
    assert all(text in e.value.message for text in said)


def test_a_key_that_changes_nothing_is_told(tmp_path: Path) -> None:
    body = copy.deepcopy(REGNET)
    body["train"] = {"optimizer": "adamw", "nesterov": True, "schedule": "cosine", "milestones": [0.5], "gamma": 0.1}
    body["train"] |= {"policy": "single_path", "random_archs": 3, "arch": "MIN"}
    body["model"]["head_options"] |= {"kernel": 5, "norm": "none"}
    body["model"]["neck_options"] |= {"norm_ranks": 2}
    body["model"]["backbone_options"] = {"norm_group": 4}
    told = [note.split(": ", 1)[1].split(" changes nothing: ") for note in load(nas.write(tmp_path / "a", body)).notes]
    assert dict(told) == {
        "train.nesterov": "it is of optimizer sgd, but optimizer is adamw",
        "train.milestones": "it is of schedule step, but schedule is cosine",
        "train.arch": "it is of policy fixed, but policy is single_path",
        "train.random_archs": "it is of the policies sandwich, anchors and dmcp, but policy is single_path",
        "model.backbone_options.norm_group": "it is of norm gn or group, but norm is bn",
        "model.neck_options.norm_ranks": "it is of norm sync_bn, but norm is none",
        "model.head_options.norm_group": "it is of norm gn or group, but norm is none",
        "model.head_options.kernel": "the space has head.cls.kernel, which goes instead",
    }
    assert not load(nas.write(tmp_path / "b", REGNET)).notes


def test_what_stands_behind_the_last_feature_is_told(tmp_path: Path) -> None:
    def notes(features: list[str]) -> tuple[str, ...]:
        options = {"strides": [2, 2, 2], "features": features}
        model = {"backbone": "efficientnet_lite", "backbone_options": options, "num_classes": 3, "fpn_channels": 8}
        space = {"stem.width": 8, "body.width": [8, 8, 8], "body.depth": [1, 1, 1], "body.expand": 1}
        space |= {"head.width": {"choices": [8, 16]}}
        body = {"model": model, "space": {f"backbone.{name}": value for name, value in space.items()}}
        body["model"]["anchor_sizes"] = [8, 16, 24][: len(features) + 1]
        return load(nas.write(tmp_path / "cfg.yaml", body)).notes

    assert not notes(["c3", "tail"])
    (told,) = notes(["c3"])
    assert "nothing reads what the backbone has behind these, stages.2.0, head: it runs for nothing" in told
    assert told.endswith("and backbone.head.width of the space changes nothing that is found")


def test_an_option_stands_in_one_place(tmp_path: Path) -> None:
    """Right in `model:` or in `head_options`, the network is the same, and so is all that is kept of it."""
    body = copy.deepcopy(PARTED)
    body["space"] = {name: choices for name, choices in body["space"].items() if name[:5] not in ("neck.", "head.")}
    options = {"box_head_width": 16, "anchor_sizes": [8, 16, 24, 32, 40]}
    flat, below = load(written(tmp_path, body, **FLAT, **options)), None
    below = load(written(tmp_path, body, **{**FLAT, "head_options": options}))
    named = load(written(tmp_path, body, **{**FLAT, "head": "faster_rcnn", "neck": "fpn"}, **options))
    assert flat.model == below.model == named.model and str(flat.model) == str(below.model)
    with pytest.raises(ConfigError, match=r"model\.head_options\.roi_size: stands in model, too; say it once"):
        load(written(tmp_path, body, **{**FLAT, "head_options": {"roi_size": 5}}, roi_size=7))


def test_what_weights_were_learnt_for(tmp_path: Path) -> None:
    """Other anchors are another network, wherever they stand; options that a checkpoint did not name had defaults."""
    body = {**PARTED, "space": {k: v for k, v in PARTED["space"].items() if k[:5] not in ("neck.", "head.")}}
    recipe = load(written(tmp_path, body, **FLAT, anchor_sizes=[8, 16, 24, 32, 40]))
    other = load(written(tmp_path, body, **FLAT, anchor_sizes=[8, 16, 24, 32, 48]))
    kept, keys = unseen(recipe.model), deciding(recipe, 1)
    ours, theirs = unseen_there(other.model, kept, keys)
    assert {k for k in ours if ours[k] != theirs[k]} == {"anchor_sizes"}
    assert (ours["anchor_sizes"][-1], theirs["anchor_sizes"][-1]) == (48, 40)
    for model, there in ((recipe.model, keys), (other.model, {})):  # one that kept no keys is taken at its word
        same, again = unseen_there(model, kept, there)
        assert same == again
    plain = load(nas.write(tmp_path / "cfg.yaml", {**REGNET, "space": {**REGNET["space"], "head.cls.kernel": 3}}))
    named = replace(plain.model, neck_options=replace(plain.model.neck_options, p7_relu=False))
    ours, theirs = unseen_there(named, unseen(replace(plain.model, neck_options=None)), {})
    assert "p7_relu" in str({k for k in ours if ours[k] != theirs[k]})


def test_what_tells_two_networks_apart(tmp_path: Path) -> None:
    """Options of parts are told in checkpoints and scores, and compared when a training goes on."""
    recipe = load(written(tmp_path))
    other = load(written(tmp_path, head_options={"sizes": [8, 16, 24, 33]}))
    assert unseen(recipe.model)["head"] == "ladder.py:Shared" and "neck_options.width" in unseen(recipe.model)
    assert unseen(recipe.model) != unseen(other.model) and model_said(recipe.model) != model_said(other.model)
    (told,) = differences(deciding(recipe, 1), other, 1).values()
    assert told == "model.head_options.sizes: [8, 16, 24, 32] there, [8, 16, 24, 33] here"
    assert model_said(other.model)["head_options.sizes"] == [8, 16, 24, 33]
    freer = load(written(tmp_path, head_options={"sizes": [8, 16, 24, 32], "score_thresh": 0.3}))
    assert not differences(deciding(recipe, 1), freer, 1), "a threshold counts in evaluation alone"
    net = build(recipe.model, recipe.space.maximum(), min_size=64, max_size=64)
    with pytest.raises(UsageError, match="built with another config: it differs in head"):
        subnet(net, recipe.space.minimum(), load(written(tmp_path, num_classes=5)).model)
