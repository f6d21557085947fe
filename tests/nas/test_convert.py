"""Archs and spaces of other projects: read as they are written, priced as published, refused with places."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from searchkit.errors import ConfigError, UsageError
from searchkit.nas.cli.main import main_command
from searchkit.nas.convert import npy
from searchkit.nas.convert.parts import Converted
from searchkit.nas.convert.place import placed
from searchkit.nas.convert.published import PUBLISHED, published
from searchkit.nas.convert.read import convert
from searchkit.nas.cost.price import price_net
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.nas.models.network import build
from searchkit.nas.space.space import read_space
from searchkit.nas.tasks import read as configs
from searchkit.records.arch import Arch
from searchkit.suite.cli.templates import template_root
from tests.support.bignas import BIGNAS, NET

# OFA's note8_lat22: (expansion, kernel) of the blocks of each stage.
LAT22 = (
    ((1, 3),),
    ((3, 3), (3, 3)),
    ((3, 5), (3, 5)),
    ((4, 7), (3, 3)),
    ((3, 5), (4, 3)),
    ((6, 3), (6, 7)),
)
LAT22_ARCH = Arch.of(
    {
        "backbone.stem.width": 16,
        "backbone.body.width": (16, 24, 40, 80, 112, 160),
        "backbone.body.depth": (1, 2, 2, 2, 2, 2),
        "backbone.body.kernel": (3, 3, 3, 3, 5, 5, 7, 3, 5, 3, 3, 7),
        "backbone.body.expand": (1, 1, 3, 3, 3, 3, 4, 3, 3, 4, 6, 6),
        "backbone.head.width": 960,
    }
)
A0 = {
    "resolution": 192,
    "width": [16, 16, 24, 32, 64, 112, 192, 216, 1792],
    "kernel_size": [3, 3, 3, 3, 3, 3, 3],
    "expand_ratio": [1, 4, 4, 4, 4, 6, 6],
    "depth": [1, 3, 3, 3, 3, 3, 1],
}


def genotype(number: str = "{}") -> str:
    """lat22 as aw_nas prints it; number: how a number is printed."""
    cells = ", ".join(f"cell_{i}={number.format(len(blocks))}" for i, blocks in enumerate(LAT22))
    blocks = [
        f"cell_{i}_block_{j}=({number.format(expand)}, {number.format(kernel)})"
        for i, of_stage in enumerate(LAT22)
        for j, (expand, kernel) in enumerate([*of_stage, *[(0, 0)] * (4 - len(of_stage) if i else 0)])
    ]
    return f"image_size={number.format(140)}, {cells}, {', '.join(blocks)}"


def mmrazor_chosen(**others: Any) -> str:
    """lat22 as mmrazor writes it."""
    chosen: dict[str, Any] = {"backbone.first_channels": 16, "backbone.last_channels": 1280, "input_shape": [140, 140]}
    widths = LAT22_ARCH["backbone.body.width"]
    assert isinstance(widths, tuple)
    for i, (blocks, width) in enumerate(zip(LAT22, widths, strict=True), 1):
        chosen |= {f"backbone.layers.{i}.depth": len(blocks), f"backbone.layers.{i}.out_channels": width}
        for j, (expand, kernel) in enumerate(blocks):
            at = f"backbone.layers.{i}.{j}"
            chosen |= {f"{at}.kernel_size": kernel, f"{at}.expand_ratio": expand}
    return yaml.safe_dump({key: {"chosen": value} for key, value in (chosen | others).items()})


def ofa_config() -> dict[str, Any]:
    """lat22 as once-for-all's net.config."""
    blocks = []
    widths, strides, squeeze = (16, 24, 40, 80, 112, 160), (1, 2, 2, 2, 1, 2), (0, 0, 1, 0, 1, 1)
    for i, stage in enumerate(LAT22):
        for j, (expand, kernel) in enumerate(stage):
            conv = {
                "name": "MBConvLayer",
                "out_channels": widths[i],
                "kernel_size": kernel,
                "stride": 1 if j else strides[i],
                "expand_ratio": expand,
                "mid_channels": None,
                "act_func": "relu" if i < 3 else "h_swish",
                "use_se": bool(squeeze[i]),
            }
            blocks.append({"name": "ResidualBlock", "conv": conv, "shortcut": None})
    return {
        "name": "MobileNetV3",
        "first_conv": {"out_channels": 16},
        "blocks": blocks,
        "final_expand_layer": {"out_channels": 960},
        "feature_mix_layer": {"out_channels": 1280},
        "classifier": {"out_features": 1000},
    }


def read(text: str, folder: Path, name: str = "") -> Converted:
    (folder / "file.txt").write_text(text)
    return convert(str(folder / "file.txt"), name)


@pytest.mark.parametrize(
    "text",
    [
        genotype(),
        genotype("np.int64({})"),
        f"MnasnetOFAGenotype(\n{genotype()})",
        yaml.safe_dump({"final_model_cfg": {"backbone_cfg": {"genotypes": genotype("numpy.int32({})")}}}, width=9999),
        mmrazor_chosen(),
        json.dumps(
            {
                "ks": [k for s in LAT22[1:] for k in (s[0][1], s[1][1], 3, 3)],
                "d": [2] * 5,
                "r": [140],
                "e": [e for s in LAT22[1:] for e in (s[0][0], s[1][0], 3, 3)],
            }
        ),
        json.dumps(ofa_config()),
    ],
    ids=["genotype", "numpy 2", "with its type", "a config", "mmrazor", "ks, e, d", "net.config"],
)
def test_one_network_in_the_words_of_four_projects(text: str, tmp_path: Path) -> None:
    net = read(text, tmp_path)
    assert net.arch == LAT22_ARCH and net.model["backbone"] == "mobilenet_v3" and net.task == "cls"
    assert net.classes is None or net.model["neck_options"] == {"width": 1280}
    assert net.shapes == (() if "MobileNetV3" in text else (140,))


def test_a_detector_of_aw_nas(tmp_path: Path) -> None:
    """Inside, an extra level's block is so many times as wide as what goes in: 960, 512, 256, 256."""
    heads = "head_0=(0.5, 3), head_1=(np.float64(0.25), 3), head_2=(0.5, 5), head_3=(0.75, 3)"
    net = read(f"{genotype()}, {heads}", tmp_path)
    assert net.task == "det" and net.arch is not None
    assert net.arch["neck.hidden"] == (480, 128, 128, 192) and net.arch["neck.kernel"] == (3, 3, 5, 3)
    assert (net.model["neck"], net.model["head"]) == ("ssd_extras", "ssd")


def test_the_largest_detector_of_aw_nas_costs_what_its_shapes_say(tmp_path: Path) -> None:
    """By the config that is printed, for the 20 classes of VOC."""
    blocks = [f"cell_{i}_block_{j}=(6, 7)" for i in range(1, 6) for j in range(4)]
    cells = [f"cell_{i}={4 if i else 1}" for i in range(6)]
    heads = [f"head_{i}=(0.5, 3)" for i in range(4)]
    (tmp_path / "max.txt").write_text(", ".join(["image_size=300", *cells, "cell_0_block_0=(1, 3)", *blocks, *heads]))
    out = CliRunner().invoke(main_command, ["convert", str(tmp_path / "max.txt")], catch_exceptions=False).output
    (tmp_path / "ours.yaml").write_text(out)
    recipe = configs.load(str(tmp_path / "ours.yaml"), ["model.num_classes=20"])
    cost = price_net(recipe.model, recipe.space.maximum(), 300)
    assert (cost.flops, cost.params) == (1_120_326_368, 6_547_244)


def blocks(cells: int) -> str:
    """The largest genotype of an MBv3 (6 cells) or an MBv2 (7 cells), at depth 3."""
    depths = [1, *[3] * 5, 1][:cells]
    sizes = [(1, 3), *[(6, 7)] * 5, (6, 3)]
    each = [f"cell_{i}_block_{j}={sizes[i]}" for i, depth in enumerate(depths) for j in range(depth)]
    return ", ".join([*(f"cell_{i}={depth}" for i, depth in enumerate(depths)), *each])


def test_a_detector_in_a_config_of_aw_nas(tmp_path: Path) -> None:
    """Its head is what says that it is one, where the genotype has no head_0; classes are counted without background,
    there too, and a width is a multiple of 8."""
    final = {"backbone_cfg": {"genotypes": blocks(6), "backbone_cfg": {"mult_ratio": 0.5}}, "num_classes": 20}
    text = yaml.safe_dump({"final_model_cfg": {**final, "head_type": "ssd_head_final_model"}}, width=9999)
    net = read(text, tmp_path)
    assert net.task == "det" and net.arch is not None and net.model["num_classes"] == 20
    assert net.arch["backbone.body.width"] == (8, 16, 24, 40, 56, 80)
    assert net.arch["neck.hidden"] == (480, 256, 128, 128)
    assert [note for note in net.notes if "mult_ratio" in note or "head_0" in note] == [
        "the genotype has no head_0 …: the extra levels have (0.5, 3), as in the recipes of aw_nas"
    ]


@pytest.mark.parametrize(("name", "cells"), [("mbv3", 6), ("mbv2", 7)])
@pytest.mark.parametrize("heads", ["", ", " + ", ".join(f"head_{i}=(0.5, 3)" for i in range(4))])
def test_genotypes_are_archs_of_the_recipes(
    name: str, cells: int, heads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the options of the recipe's parts say needs no name; the network is that of the genotype's own config."""
    monkeypatch.setenv("DATA", "/nowhere")
    (tmp_path / "genotype.txt").write_text(blocks(cells) + heads)
    recipe = str(Path(template_root(), "det", f"ssd_ofa_{name}.yaml"))
    out = CliRunner().invoke(main_command, ["convert", str(tmp_path / "genotype.txt"), "--for", recipe]).stdout
    loaded = configs.load(recipe, ["model.num_classes=20"])
    arch = Arch.of(json.loads(out)["arch"])
    assert loaded.space.contains(arch)
    if heads:
        out = CliRunner().invoke(main_command, ["convert", str(tmp_path / "genotype.txt")]).stdout
        (tmp_path / "ours.yaml").write_text(out)
        own = configs.load(str(tmp_path / "ours.yaml"), ["model.num_classes=20"])
        assert price_net(own.model, own.space.maximum(), 300) == price_net(loaded.model, arch, 300)
        assert own.model.backbone == loaded.model.backbone
        assert own.model.backbone_options.items() >= loaded.model.backbone_options.items()
        set_arch(build(own.model, own.space.maximum(), own.space.held(), min_size=64), own.space.minimum())


def test_a_genotype_of_other_extra_levels_fits_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    heads = ", ".join(f"head_{i}=({ratio}, 3)" for i, ratio in enumerate((0.5, 0.25, 0.5, 0.5)))
    (tmp_path / "genotype.txt").write_text(f"{blocks(6)}, {heads}")
    recipe = str(Path(template_root(), "det", "ssd_ofa_mbv3.yaml"))
    refused = CliRunner().invoke(main_command, ["convert", str(tmp_path / "genotype.txt"), "--for", recipe])
    assert isinstance(refused.exception, UsageError) and "neck.hidden is no dimension" in str(refused.exception)


def test_attentive_nas(tmp_path: Path) -> None:
    net = read(json.dumps(A0), tmp_path)
    assert net.arch is not None and net.arch["backbone.body.expand"] == (1, 4, 4, 4, 4, 6, 6)
    assert net.shapes == (192,) and net.model["backbone"] == "attentive_nas"
    assert net.model["neck_options"] == {"width": 1792, "activation": "swish"}
    several = yaml.safe_dump(
        {"pareto_models": {"supernet_checkpoint_path": "x", "a0": A0, "a6": {**A0, "depth": [1] * 7}}}
    )
    assert read(several, tmp_path, "a0") == net
    with pytest.raises(ConfigError, match=r"name one of them, a0, a6 \(--name\)"):
        read(several, tmp_path)
    with pytest.raises(ConfigError, match="there is no network 'a7'"):
        read(several, tmp_path, "a7")


def test_what_squeeze_and_excitation_has_beside_is_said(tmp_path: Path) -> None:
    """mmrazor's own file of lat22 has that."""
    net = read(mmrazor_chosen(**{"backbone.layers.3.0.expand_ratio_se": 4}), tmp_path)
    assert any(note.startswith("backbone.layers.3.0: squeeze-and-excitation") for note in net.notes)
    assert net.arch == LAT22_ARCH


SPOS = (2, 0, 2, 0, 3, 1, 1, 0, 0, 1, 0, 1, 0, 3, 1, 2, 2, 0, 1, 3)
SHUFFLES = ("shuffle_3x3", "shuffle_5x5", "shuffle_7x7", "shuffle_xception")
PLACES = [(stage, i) for stage, depth in enumerate((4, 4, 8, 4)) for i in range(depth)]


def spos() -> str:
    blocks = zip(PLACES, SPOS, strict=True)
    return yaml.safe_dump(
        {"modules": {f"backbone.layers.{s}.{i}": SHUFFLES[c] for (s, i), c in blocks}, "channels": None}
    )


def autoslim() -> str:
    """(inside or None, width) of each block of each stage."""
    stages = (
        ((None, 8),),
        ((96, 16), (96, 16)),
        ((96, 24), (144, 24), (144, 24)),
        ((144, 56), (288, 56), (288, 56), (288, 56)),
        ((288, 96), (432, 96), (432, 96)),
        ((864, 240), (1440, 240), (960, 240)),
        ((1440, 480),),
    )
    convs = {"backbone.conv1": 8, "backbone.conv2": 1920}
    for i, stage in enumerate(stages, 1):
        for j, (inside, width) in enumerate(stage):
            of_block = (8, width) if inside is None else (inside, inside, width)
            convs |= {f"backbone.layer{i}.{j}.conv.{k}": c for k, c in enumerate(of_block)}
    return yaml.safe_dump({f"{k}.conv.out_channels_mutable": {"current_choice": v} for k, v in convs.items()})


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "SPOS_SUBNET.yaml",
            spos(),
            "SPOS is published with 330M (ptflops, mmrazor's metafile): 328,547,840, the same",
        ),
        (
            "MBV2_320M.yaml",
            autoslim(),
            "MBV2_320M is published with 320M (ptflops, mmrazor's metafile): 320,247,520, the",
        ),
        (
            "note8_lat22.txt",
            mmrazor_chosen(),
            "note8_lat22 is published with 67M (macs, once-for-all's README): 67,196,888",
        ),
        (
            "ATTENTIVE_A0.json",
            json.dumps(A0),
            "AttentiveNAS-A0 is published with 203M (macs, its README): 203,389,568, the",
        ),
        (
            "attentive_a1.json",
            json.dumps(A0),
            "published with 279M (macs, its README), but this network costs 203,389,568",
        ),
    ],
    ids=["SPOS", "AutoSlim", "lat22", "a0", "a file whose name is another's"],
)
def test_costs_beside_the_published_ones(file: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    out = CliRunner().invoke(main_command, ["convert", str(tmp_path / file)], catch_exceptions=False).output
    assert said in out
    assert yaml.safe_load(out)["space"]  # comments and all, it is a config


def test_names_of_published_costs_are_told_apart() -> None:
    assert len({row.words for row in PUBLISHED}) == len(PUBLISHED)
    assert [row.name for row in map(published, ("OFA_SUBNET_NOTE8_LAT22", "ATTENTIVENAS_A6")) if row] == [
        "OFA note8_lat22",
        "AttentiveNAS-A6",
    ]
    assert published("r50") is None


def test_an_arch_takes_the_form_that_a_space_has() -> None:
    """Slots for more blocks, one number for all; what does not fit is said as of any arch."""
    space = read_space(
        {
            "backbone.stem.width": 16,
            "backbone.body.width": [16, 24, 40, 80, 112, 160],
            "backbone.body.depth": {"min": [1, 2, 2, 2, 2, 2], "max": [1, 4, 4, 4, 4, 4], "stride": 1},
            "backbone.body.kernel": {"choices": [3, 5, 7], "sample_strategy": "block_wise"},
            "backbone.body.expand": {"choices": [[1], *[[3, 4, 6]] * 5], "sample_strategy": "block_wise"},
            "backbone.head.width": 960,
        }
    )
    arch = placed(LAT22_ARCH, space, "lat22.yaml", "cfg.yaml")
    assert space.contains(arch) and len(arch["backbone.body.kernel"]) == 24  # type: ignore[arg-type]
    assert arch["backbone.body.kernel"][12:16] == (7, 3, 3, 3)  # type: ignore[index]
    back = placed(
        arch, read_space(dict(LAT22_ARCH.items) | {"backbone.body.width": [16, 24, 40, 80, 112, 160]}), "a", "b"
    )
    assert back == LAT22_ARCH
    other = dict(LAT22_ARCH.items) | {"backbone.body.depth": (1, 2, 2, 2, 2, 1)}
    with pytest.raises(
        UsageError, match=r"lat22\.yaml does not fit into the space of cfg\.yaml: backbone\.body\.depth"
    ):
        placed(
            LAT22_ARCH,
            read_space({k: list(v) if isinstance(v, tuple) else v for k, v in other.items()}),
            "lat22.yaml",
            "cfg.yaml",
        )


# --- United-Perception -----------------------------------------------------------------------------------------------

PARTS = """\
num_classes: &num_classes 81
net:
- name: backbone
  type: big_resnet_basic
  kwargs:
    frozen_layers: []
    out_layers: [2, 3, 4]
    deep_stem: True
    out_channel: {space: {min: [32, 48, 96, 192, 384], max: [64, 80, 160, 320, 640], stride: [16, 16, 32, 64, 128]},
                  sample_strategy: stage_wise}
    kernel_size: [3, 3, 3, 3, 3]
    expand_ratio: [0.5, 1, 1, 1, 1]
    depth: {space: {min: [1, 1, 2, 2, 4], max: [1, 3, 4, 4, 6], stride: 1}, sample_strategy: stage_wise_depth}
- name: neck
  prev: backbone
  type: big_fpn
  kwargs:
    kernel_size: [1, 3]
    depth: [3, 5]
    out_channel: {space: {min: [128, 128], max: [128, 128], stride: 32}, sample_strategy: net_wise}
- name: roi_head
  prev: neck
  type: BigRetinaHeadWithBN
  kwargs:
    kernel_size: [3]
    depth: {space: {min: [4], max: [4], stride: 1}, sample_strategy: stage_wise_depth}
    out_channel: {space: {min: [64], max: [128], stride: 32}, sample_strategy: stage_wise}
    num_classes: *num_classes
    init_prior: 0.01
- name: post_process
  prev: roi_head
  type: retina_post
  kwargs:
    cfg:
      cls_loss: {type: quality_focal_loss, kwargs: {gamma: 2.0}}
      loc_loss: {type: iou_loss, kwargs: {loss_type: giou, loss_weight: 1.0}}
      anchor_generator: {type: hand_craft, kwargs: {anchor_ratios: [1], anchor_scales: [6, 8]}}
      roi_supervisor: {type: atss, kwargs: {top_n: 18}}
"""


SUBNET = "    subnet:" + BIGNAS.partition("    subnet:")[2]
JOB = """\
            loss_weight: 0.5
            teacher0:
                mimic_name: ['neck.p6_conv.conv']
            student:
                mimic_name: ['neck.p6_conv.conv']
"""


def test_the_training_and_the_subnet_of_bignas(tmp_path: Path) -> None:
    net = read(BIGNAS, tmp_path)
    assert net.shapes == ((768, 1344),) and net.arch is not None
    assert net.arch["backbone.stem.width"] == 32 and net.arch["backbone.body.depth"] == (1, 2, 2, 4)
    assert net.arch["neck.depth"] == 5 and net.arch["head.cls.width"] == 64
    assert "head.box.width" not in net.arch  # as that of classes
    assert net.model["neck_options"]["p6"] == "lateral" and net.model["head_options"]["assigner"] == "atss"
    assert any(note.endswith("flops CONFIG --sample 100 --range 200G 400G --out FILE") for note in net.notes)
    other = BIGNAS[::-1].replace("[64]"[::-1], "[96]"[::-1], 1)[::-1]  # the last, of boxes
    box = read(other, tmp_path).arch
    assert box is not None and box["head.box.width"] == 96 and "head.box.depth" not in box
    mimic = {"student": "backbone.fpn.extra_blocks.p6", "of": "max", "weight": 0.5}
    assert net.train["distill"] == {"weight": 0, "mimic": [mimic]}
    assert net.train["sample_strategy"] == ["max", "random", "random", "min"]
    (note,) = [note for note in net.notes if "mimic_job0" in note]
    assert note.startswith(
        "line 16: bignas.distiller.mimic.mimic_job0 is empty, and loss_weight, teacher0, student stand"
    )
    meant = BIGNAS.replace(JOB, "".join(f"    {line}" for line in JOB.splitlines(keepends=True)))
    assert read(meant, tmp_path).train == net.train and not any("mimic_job0" in n for n in read(meant, tmp_path).notes)


def test_the_space_of_bignas(tmp_path: Path) -> None:
    """As the documentation has it, placeholder and indentation too: what had to be put right is said."""
    net = read(NET, tmp_path)
    assert net.notes[:2] == (
        "line 5: a placeholder is left out",
        "line 3: is indented deeper than the key behind the dash: both are read as one part's",
    )
    space = read_space(dict(net.space))
    assert space.count() == 3 * 3 * (3**4) * (3**4)  # stem's kernel and width, widths, depths
    assert space.minimum()["backbone.stem.kernel"] == 3 and space.maximum()["backbone.body.width"] == (
        80,
        160,
        320,
        640,
    )
    assert net.model["backbone_options"] == {"stem_expand": 0.5, "expand": [1, 1, 1, 1]} and net.task is None


def test_parts_that_a_net_lacks_are_the_subnets(tmp_path: Path) -> None:
    """Of the documentation's two blocks one has the backbone alone, the other a subnet with neck and head, of the
    published cost."""
    (tmp_path / "both.yaml").write_text(NET + BIGNAS)
    out = CliRunner().invoke(main_command, ["convert", str(tmp_path / "both.yaml")], catch_exceptions=False).output
    assert "note: net: has no neck and no head: taken as subnet_settings has it, of that size alone" in out
    assert "note: there is no post_process: losses and anchors are those of the RetinaNet that is published" in out
    (tmp_path / "ours.yaml").write_text(out)
    recipe = configs.load(str(tmp_path / "ours.yaml"), ("model.num_classes=80",))
    assert recipe.space.count() == 3 * 3 * (3**4) * (3**4)
    assert price_net(recipe.model, recipe.space.named("SUBNET"), (768, 1344)).flops == 37_358_447_616
    subnet = yaml.safe_load(BIGNAS)["bignas"]["subnet"]
    settings = subnet["subnet_settings"]  # those of a saver have the towers one mapping deeper
    settings["roi_head"] = {tower: settings.pop(f"roi_head.{tower}") for tower in ("cls_subnet", "box_subnet")}
    nested, flat = (read(text, tmp_path).arch for text in (yaml.safe_dump({"bignas": {"subnet": subnet}}), BIGNAS))
    assert nested == flat is not None


def test_several_jobs_and_teachers(tmp_path: Path) -> None:
    """Each job's loss is a mean over its modules, for each of its teachers; `{}` is the largest arch."""
    jobs = """\
bignas:
  distiller:
    mimic:
      mimic_as_jobs: True
      mimic_job0:
        loss_weight: 0.5
        warm_up_iters: 100
        teacher0: {mimic_name: [neck.p6_conv.conv, neck.c3_lateral]}
        teacher1: {mimic_name: [fpn.p6, fpn.c3], teacher_weight: big.pth}
        student: {mimic_name: [neck.p6_conv.conv, neck.c3_lateral]}
      mimic_job1:
        warm_up_iters: -1
        teacher2: {mimic_name: [neck.p3_conv.conv]}
        student: {mimic_name: [neck.p3_conv.conv]}
    teacher0: {}
    teacher1: {net: [{name: backbone}]}
    teacher2: {}
"""
    net = read(jobs, tmp_path)
    p6, c3, p3 = "extra_blocks.p6", "inner_blocks.0", "layer_blocks.0.0"
    both = {"weight": 0.25, "warmup_steps": 100}
    assert net.train["distill"]["mimic"] == [
        {"student": f"backbone.fpn.{p6}", "of": "max", **both},
        {"student": f"backbone.fpn.{c3}", "of": "max", **both},
        {"student": f"backbone.fpn.{p6}", "teacher": "fpn.p6", "of": "teacher1", **both},
        {"student": f"backbone.fpn.{c3}", "teacher": "fpn.c3", "of": "teacher1", **both},
        {"student": f"backbone.fpn.{p3}", "of": "max"},
    ]
    assert net.train["distill"]["teachers"] == {"teacher1": {"config": "teacher1.yaml", "checkpoint": "big.pth"}}
    assert any("teacher1: networks of their own there" in note for note in net.notes)
    one = "bignas: {distiller: {mimic: {loss_weight: 2, teacher0: {mimic_name: [a]}, student: {mimic_name: [a]}}}}\n"
    assert read(one, tmp_path).train["distill"]["mimic"] == [{"student": "a", "of": "max", "weight": 2}]
    with pytest.raises(ConfigError, match=r"teacher0\.mimic_name and student\.mimic_name must be as long, not 2 and 1"):
        read(one.replace("teacher0: {mimic_name: [a]}", "teacher0: {mimic_name: [a, b]}"), tmp_path)


def test_norms_and_the_choice_of_boxes(tmp_path: Path) -> None:
    sync = "normalize: {type: dynamic_sync_bn, kwargs: {group_size: 8}}"
    predictor = (
        "      roi_predictor: {kwargs: {pre_nms_score_thresh: 0.1, merger: {kwargs: {top_n: 50, nms: {nms_iou_thresh: "
        "0.4}}}}}\n"
    )
    text = (
        PARTS.replace("kwargs:\n    kernel_size: [1, 3]", f"kwargs:\n    {sync}\n    kernel_size: [1, 3]") + predictor
    )
    net = read(text.replace("frozen_layers: []", sync), tmp_path)
    for options in ("backbone_options", "neck_options"):
        assert (net.model[options]["norm"], net.model[options]["norm_ranks"]) == ("sync_bn", 8)
    head = net.model["head_options"]
    assert head["assigner_options"] == {"nearest": 18}
    assert (head["score_thresh"], head["nms_thresh"], head["detections_per_image"]) == (0.1, 0.4, 50)


REGNET = """\
net:
- name: backbone
  type: big_regnet
  kwargs:
    out_layers: [4]
    normalize: {type: dynamic_solo_bn}
    out_channel: {space: {min: [32, 48, 96, 224, 576], max: [32, 80, 160, 320, 768], stride: [16, 16, 32, 32, 32]}}
    kernel_size: [3, 3, 3, 3, 3]
    expand_ratio: [0, 1, 1, 1, 1]
    group_width: [16, 16, 16, 16, 16]
    depth: {space: {min: [1, 1, 2, 5, 4], max: [1, 1, 4, 9, 6], stride: 1}, sample_strategy: stage_wise_depth}
- {name: head, type: BigClsHead, kwargs: {num_classes: 1000, in_plane: 768}}
- name: post_process
  type: base_cls_postprocess
  kwargs: {cls_loss: {type: label_smooth_ce, kwargs: {smooth_ratio: 0.1}}}
bignas:
  data: {image_size_list: [[1, 3, 224, 224]]}
  subnet:
    subnet_settings:
      backbone:
        out_channel: [32, 48, 96, 224, 576]
        kernel_size: [3, 3, 3, 3, 3]
        expand_ratio: [0, 1, 1, 1, 1]
        group_width: [16, 16, 16, 16, 16]
        depth: [1, 1, 2, 5, 4]
"""


def test_the_regnet_of_bignas(tmp_path: Path) -> None:
    (tmp_path / "regnet.yaml").write_text(REGNET)
    out = CliRunner().invoke(main_command, ["convert", str(tmp_path / "regnet.yaml")], catch_exceptions=False).output
    assert "post_process: left out; train.label_smoothing: 0.1" in out
    (tmp_path / "ours.yaml").write_text(out)
    recipe = configs.load(str(tmp_path / "ours.yaml"))
    assert recipe.task.name == "cls" and recipe.model.num_classes == 1000
    assert recipe.space.count() == 3 * 3 * 4 * 7 * 3 * 5 * 3  # widths, then depths
    subnet = recipe.space.named("SUBNET")
    assert subnet == recipe.space.minimum()
    stem, sizes, groups = 32 * 27 * 112**2, [56, 28, 14, 7], 0
    for cin, width, depth, size in zip((32, 48, 96, 224), (48, 96, 224, 576), (1, 2, 5, 4), sizes, strict=True):
        for first in [True] + [False] * (depth - 1):
            enters = cin if first else width
            groups += enters * width * (2 * size if first else size) ** 2  # at the size before the stride
            groups += (width * 16 * 9 + width * width + (cin * width if first else 0)) * size**2
    assert price_net(recipe.model, subnet, 224).flops == stem + groups + 576 * 1000
    alone = read("bignas:\n" + REGNET.partition("bignas:\n")[2], tmp_path)
    assert alone.model["backbone"] == "regnet" and alone.arch == subnet
    with pytest.raises(ConfigError, match="must begin with 3, the kernel of the stem"):
        read(REGNET.replace("kernel_size: [3,", "kernel_size: [7,", 1), tmp_path)


def test_how_the_stages_of_bignas_vary_together(tmp_path: Path) -> None:
    """Its ordered strategies have names here; those of no name are told, with the nearest."""
    text = NET.replace("sample_strategy: stage_wise\n", "sample_strategy: ordered_stage_wise\n", 1)
    net = read(text.replace("stage_wise_depth", "ordered_stage_wise_depth"), tmp_path)
    assert net.space["backbone.body.width"]["sample_strategy"] == "ordered_stage_wise"
    assert net.space["backbone.body.depth"]["sample_strategy"] == "ordered_stage_wise_depth"
    assert read_space(dict(net.space)).count() < 9 * 3**8
    for name in ("net_wise_index", "ordered_block_wise"):
        net = read(text.replace("ordered_stage_wise\n", f"{name}\n", 1), tmp_path)
        assert net.space["backbone.body.width"]["sample_strategy"] == name
        said = [note for note in net.notes if name in note]
        assert said == [f"net[0].out_channel: the stem is no stage here, and varies by itself, not by {name}"]
    assert read_space(dict(net.space)).maximum()["backbone.body.width"][-1] == 640  # type: ignore[index]
    net = read(text.replace("ordered_stage_wise\n", "net_wise_indez\n", 1), tmp_path)
    (note,) = [note for note in net.notes if "net_wise_indez" in note]
    assert "net[0].out_channel" in note and "did you mean net_wise_index?" in note


def test_limits_of_a_slope(tmp_path: Path) -> None:
    """They count stages from the stem, which is none here."""
    limits = "{mode: sum, start_stage: 2, end_stage: 3, min_slope: 1.5, max_slope: 1.7}"
    steep = f"sample_strategy: {{name: ordered_stage_wise, kwargs: {limits}}}\n"
    net = read(NET.replace("sample_strategy: stage_wise\n", steep, 1), tmp_path)
    width = net.space["backbone.body.width"]
    assert width["sample_strategy"]["kwargs"] == {
        "min_slope": 1.5,
        "max_slope": 1.7,
        "start_stage": 1,
        "end_stage": 2,
    }
    assert any("of the kwargs of ordered_stage_wise, mode are left out" in note for note in net.notes)
    space = read_space({"backbone.body.width": width})
    ratios = {arch["backbone.body.width"][2] / arch["backbone.body.width"][1] for arch in space.enumerate()}  # type: ignore[index]
    assert ratios and all(1.5 <= ratio <= 1.7 for ratio in ratios)


def test_a_whole_retinanet_of_bignas(tmp_path: Path) -> None:
    net = read(PARTS + BIGNAS, tmp_path)
    assert net.task == "det" and net.arch is None and net.model["num_classes"] == 80
    assert net.model["backbone_options"]["features"] == ["c3", "c4", "c5"]
    assert net.model["neck_options"] == {"norm": "bn", "p6": "lateral", "p7_relu": False, "first": 0}
    head = net.model["head_options"]
    assert (head["norm"], head["assigner"], head["prior"]) == ("per_level", "atss", 0.01)
    assert (head["class_loss"], head["box_loss"], head["anchor_scales"]) == ("quality_focal", "giou", [6, 8])
    assert net.space["head.cls.width"] == {"choices": [64, 96, 128]}
    assert (net.space["head.cls.depth"], net.space["neck.depth"], net.space["neck.out_channel"]) == (4, 5, 128)
    assert net.space["anchors"]["SUBNET"]["head.cls.width"] == 64
    assert read_space(dict(net.space)).count() == 59_049


@pytest.mark.parametrize(("edges", "macs"), [((768, 1344), 37_358_447_616), ((512, 1024), 18_974_785_536)])
def test_what_a_retinanet_of_bignas_costs(edges: tuple[int, int], macs: int, tmp_path: Path) -> None:
    """The printed config is read again, and its subnet costs what is published."""
    (tmp_path / "bignas.yaml").write_text(PARTS + BIGNAS.partition("    distiller:")[0] + SUBNET)
    out = CliRunner().invoke(main_command, ["convert", str(tmp_path / "bignas.yaml")], catch_exceptions=False).output
    (tmp_path / "ours.yaml").write_text(out.replace("[768, 1344]", str(list(edges))))
    recipe = configs.load(str(tmp_path / "ours.yaml"))
    assert price_net(recipe.model, recipe.space.named("SUBNET"), edges).flops == macs
    assert recipe.scales == (edges,) and recipe.train.sample_strategy == ("max", "random", "random", "min")


# --- bad input -------------------------------------------------------------------------------------------------------


RUNS, LAYER = '__import__("os").system("touch owned")', "backbone.layers.2.1."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (genotype().replace("(4, 7)", RUNS), [r":1:\d+: cell_3_block_0: must be a number or a pair"]),
        (genotype().replace("cell_5=2", "cell_5=5"), [":1:.*cell_5 has 5 blocks, but cell_5_block_4 is missing"]),
        (genotype().replace("(4, 7)", "(4, 8)"), [":1:.*cell_3_block_0: must be .expansion, odd kernel"]),
        (genotype() + ",\nhaed_0=(1, 2)", [":2:8: haed_0: no name of a genotype"]),
        (genotype() + ", head_0=(0.5, 3)", ["there must be head_0 to head_3, but there are head_0"]),
        (genotype().replace("cell_5=2, ", ""), ["depths of 6 .mbv3_backbone. or 7 .*, but there are 5"]),
        (genotype()[:50], [r":1:\d+: is no genotype"]),
        (mmrazor_chosen(**{f"{LAYER}kernel_size": "x"}), ["kernel_size.chosen: must be a whole number above 0"]),
        (mmrazor_chosen().replace(f"{LAYER}kernel_size", "x"), ["2.1.kernel_size is missing, of a stage of depth 2"]),
        (spos().replace("shuffle_xception", "shuffle_9x9"), ["must be one of shuffle_3x3, .*, not 'shuffle_9x9'"]),
        ("backbone.layers: 3\n", ["is of no kind of mmrazor's files that is known"]),
        ("backbone.layers.0.0: {a: 1}\n", ["must be one of shuffle_3x3"]),
        (json.dumps({**A0, "resolution": []}), ["resolution: must be an edge, .H, W. or .N, C, H, W."]),
        (json.dumps({**A0, "depth": [1, 2]}), ["depth: must be a list of 7 whole numbers"]),
        (NET.replace("max: [64, 80", "max: [70, 80"), ["position 0: from 32 to 70 in steps of 16 does not end at 70"]),
        (BIGNAS.replace("['200G', '400G']", "400G"), ["flops_range: must be a list of the least and the greatest"]),
        (BIGNAS.replace(JOB, ""), ["mimic_job0: must have loss_weight, teacher0 and student"]),
    ],
)
def test_faults_have_places(text: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as e:
        read(text, tmp_path)
    for pattern in said:
        assert any(re.search(pattern, f"file.txt:{f.line}:{f.col}: {f.what}") for f in e.value.faults)
    assert not (tmp_path / "owned").exists()


def test_a_file_of_no_project(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is of no kind that is known"):
        read("a: 1\n", tmp_path)


# ---- a sample of DMCP ----

# DMCP_MBV2_100M: what the stem gives out; (inside, out) of each block; what the last conv gives out.
DMCP_100M = (
    9,
    (
        *((9, 10), (36, 16), (16, 16), (48, 21), (41, 21), (22, 21), (60, 24), (44, 24), (272, 24), (272, 24)),
        *((310, 36), (294, 36), (351, 36), (693, 80), (96, 80), (864, 80), (960, 192)),
    ),
    1280,
)


def dmcp_sample(stem: int, blocks: Any, last: int) -> dict[str, Any]:
    """As the authors' code keeps it."""
    channels: dict[str, Any] = {"conv1": stem}
    before = stem
    for i, (inside, out) in enumerate(blocks):
        block = {"conv1": (before, inside), "conv2": (inside, inside), "conv3": (inside, out)}
        channels[str(i)] = block if i else {key: block[key] for key in ("conv2", "conv3")}
        before = out
    return {**channels, "conv_last": (before, last)}


@pytest.mark.parametrize("number", [int, np.int64, lambda n: np.array([n, n])[0]])
def test_dmcp_s_mobilenet_costs_what_its_file_says(number: Any, tmp_path: Path) -> None:
    sample = dmcp_sample(number(9), [(number(a), number(b)) for a, b in DMCP_100M[1]], number(1280))
    np.save(tmp_path / "sample.npy", sample, allow_pickle=True)
    net = convert(str(tmp_path / "sample.npy"))
    assert net.arch is not None
    cost = price_net(ClassifierConfig(num_classes=1000, backbone="mobilenet_v2"), net.arch, 224)
    assert (cost.flops, cost.params) == (85_424_809, 2_185_121)
    printed = CliRunner().invoke(main_command, ["convert", str(tmp_path / "sample.npy")], catch_exceptions=False).output
    assert "85,424,809 MACs and 2,185,121 parameters at 224" in printed
    full = Path(template_root(), "cls", "dmcp_mobilenetv2.yaml")
    argv = ["convert", str(tmp_path / "sample.npy"), "--for", str(full)]
    (record,) = map(json.loads, CliRunner().invoke(main_command, argv, catch_exceptions=False).stdout.splitlines())
    assert configs.load(str(full)).space.contains(Arch.of(record["arch"]))  # each width is one of its choices


def test_dmcp_s_resnets(tmp_path: Path) -> None:
    def layer(before: int, inside: tuple[int, ...], out: int, bottleneck: bool) -> dict[str, Any]:
        blocks = {}
        for i, h in enumerate(inside):
            ways = {"conv1": (before, h), "conv2": (h, h), "conv3": (h, out)}
            blocks[str(i)] = ways if bottleneck else {"conv1": (before, h), "conv2": (h, out)}
            before = out
        return blocks

    for bottleneck, outs in ((True, (32, 64, 128, 256)), (False, (9, 20, 33, 64))):
        inside = ((5, 7), (9, 11), (13, 6), (21, 30))
        sample: dict[str, Any] = {"conv1": 12, "fc": outs[-1]}
        for n, (before, hidden, out) in enumerate(zip((12, *outs[:-1]), inside, outs, strict=True), 1):
            sample[f"layer{n}"] = layer(before, hidden, out, bottleneck)
        np.save(tmp_path / "sample.npy", sample, allow_pickle=True)
        net = convert(str(tmp_path / "sample.npy"))
        assert net.arch is not None and net.arch["backbone.body.hidden"] == tuple(h for row in inside for h in row)
        model = ClassifierConfig(num_classes=3, **net.model)
        convs = [m for m in build(model, net.arch).modules() if isinstance(m, torch.nn.Conv2d)]
        want = [12, *(c for n in (1, 2, 3, 4) for b in sample[f"layer{n}"].values() for _, c in b.values())]
        assert sorted(c.out_channels for c in convs) == sorted([*want, *outs])  # and the shortcuts
        del sample["layer2"]["1"]["conv2"]
        np.save(tmp_path / "sample.npy", sample, allow_pickle=True)
        with pytest.raises(UsageError, match="layer2 1 conv"):
            convert(str(tmp_path / "sample.npy"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("it ran",))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"conv1": Evil()}, "holds a builtins.print"),
        ({"conv1": {1, 2}}, "makes something else"),
        ({"conv1": Path("x")}, "holds a "),
        ({"conv1": np.dtype("f4")}, "holds a numpy.dtype"),
        ({"conv1": np.array(["a"])}, "holds an array of"),
        ({"conv1": complex(1, 2)}, "holds a builtins.complex"),
        ([1, 2], "is no sample of DMCP"),
        ({"conv1": 8, "0": {"conv2": (9, 9)}}, "block 0 conv2 reads 9 channels, but what comes before gives 8"),
        ({"conv1": 8}, "has no block '0'"),
    ],
)
def test_a_npy_file_runs_nothing(value: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "sample.npy", np.array(value, dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=re.escape(said)):
        convert(str(tmp_path / "sample.npy"))
    assert "it ran" not in capsys.readouterr().out


def test_npy_files_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    path = str(tmp_path / "a.npy")
    inner = {
        "a": np.arange(6, dtype="<i4").reshape(2, 3),
        "b": np.float32(1.5),
        "c": [True, None, "é", 2**70],
        "d": (1, 2.5),
    }
    for protocol in range(5):
        array = np.array(inner, dtype=object)
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            pickle.dump(array, file, protocol=protocol)
        assert npy.load(path) == {"a": [[0, 1, 2], [3, 4, 5]], "b": 1.5, "c": [True, None, "é", 2**70], "d": [1, 2.5]}
    np.save(path, np.arange(4, dtype=">f8").reshape(2, 2))
    assert npy.load(path) == [[0, 1], [2, 3]]
    Path(path).write_bytes(Path(path).read_bytes()[:-5])
    with pytest.raises(UsageError, match="is damaged"):
        npy.load(path)
    Path(path).write_text("hello")
    with pytest.raises(UsageError, match="is damaged, or no"):
        npy.load(path)
