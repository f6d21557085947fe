"""An extracted subnet equals its source bit for bit, stands alone, and trains on; nothing is written otherwise."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from searchkit.errors import SearchkitError
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads import faster_rcnn_source as det_model
from searchkit.nas.models.heads.faster_rcnn_source import model_source
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet.extract import Source, extract, load_folder
from searchkit.nas.tasks import read as config
from searchkit.nas.tasks.detection import set_scale
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.recipe import Recipe
from searchkit.records.arch import Arch
from tests.support import nas
from tests.support.nas import Trained, bad, good, tiny, write

ASSETS = Path(__file__).parents[2] / "assets"

pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(recipe: Recipe) -> Source:
    """A supernet of a recipe whose weights and statistics are all random, as a source."""
    names = ("circle", "square", "triangle")
    net = nets.build(recipe, names, 0)
    generator = torch.Generator().manual_seed(5)
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.1, 1, generator=generator)
    return Source(net.eval(), nets.sized(recipe, names), recipe.space.maximum(), names, "fresh.pth", "0" * 64)


def archs_of(recipe: Recipe) -> list[Arch]:
    """MAX, MIN, the anchors, and random ones."""
    space = recipe.space
    rng = random.Random(3)
    return [*(space.named(name) for name in space.names()), *(space.sample(rng) for _ in range(2))]


MOBILE = {
    "backbone.stem.width": {"choices": [4, 8]},
    "backbone.body.width": {"choices": [[4, 8], [8], [8, 16], [16]]},
    "backbone.body.depth": {"choices": [[1, 2], [1], [1, 2], [1]]},
    "backbone.body.kernel": {"choices": [[3, 5], [3], [5], [3, 7]]},
    "data.input_shape": {"choices": [64]},
}
KINDS: dict[str, dict[str, Any]] = {
    "basic, gn": {"backbone_options": {"block": "basic", "norm": "gn", "norm_group": 2}},
    "bottleneck, frozen": {
        "backbone_options": {"block": "bottleneck", "norm": "frozen"},
        "rpn_activation": "softmax",
        "class_agnostic": True,
    },
    "bottleneck, deep stem": {
        "backbone_options": {"block": "bottleneck", "deep_stem": True, "avg_down": True},
        "rpn_activation": "softmax",
        "class_agnostic": True,
    },
    "my own": {"backbone": "my_backbone.py:MobileNet", "backbone_options": {"expand": 2}},
    "elastic pyramid": {"fpn_channels": 256, "neck": "elastic_fpn", "neck_options": {"first": 0, "norm": "bn"}},
    "retinanet": {},
}
RETINANET = {
    "backbone": "resnet",
    "backbone_options": {"block": "basic"},
    "neck_options": {"norm": "bn", "p6": "lateral", "p7_relu": False},
    "head": "retinanet",
    "head_options": {
        "norm": "per_level",
        "anchor_sizes": [16, 32, 48, 64],
        "anchor_scales": [1, 1.5],
        "anchor_ratios": [1],
        "assigner": "atss",
        "assigner_options": {"nearest": 18},
        "class_loss": "quality_focal",
        "box_loss": "giou",
        "score_thresh": 0.01,
    },
}
PYRAMID = {"neck.out_channel": {"choices": [8, 16]}, "neck.kernel": {"choices": [1, 3]}}
TOWERS = {
    "neck.depth": {"choices": [3, 4]},
    "head.cls.width": {"choices": [8, 16]},
    "head.box.depth": {"choices": [1, 2]},
}


def recipe_of(kind: str, data: Path, folder: Path) -> Recipe:
    body = tiny(data, model=KINDS[kind])
    more = {"elastic pyramid": PYRAMID, "retinanet": PYRAMID | TOWERS}.get(kind, {})
    body["space"] = body["space"] | more
    for arch in body["space"]["anchors"].values():
        arch |= {name: choices["choices"][0] for name, choices in more.items()}
    if kind == "retinanet":
        body["model"] = RETINANET
    if kind == "my own":
        folder.mkdir(exist_ok=True)
        shutil.copy(ASSETS / "my_backbone.py", folder)
        body["space"] = MOBILE
    return config.load(write(folder / "cfg.yaml", body))


def detections(net: Any, images: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [value for image in images for value in net([image.float() / 255])[0].values()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_extracted_net_is_the_source_at_its_arch(kind: str, trained: Trained, tmp_path: Path) -> None:
    recipe = recipe_of(kind, trained.data, tmp_path / "cfg")
    source = fresh(recipe)
    images, ids = extraction.sample_images(recipe, 2, 64)
    odd = [torch.randint(0, 256, (3, 53, 71), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))]
    for i, arch in enumerate(archs_of(recipe)):
        out = str(tmp_path / f"model{i}")
        shape = (48, 64) if i == 1 else 64
        proof = extract(source, recipe, arch, shape, out, images=images, image_ids=ids)
        assert proof["equal"]["bit_equal"] and proof["equal"]["images"] == ids
        assert proof["cost"]["macs"] == proof["cost"]["macs_measured"] > 0
        assert proof["cost"]["params"] == proof["cost"]["params_counted"]
        net = load_folder(out)
        set_arch(source.net, arch)
        set_scale(source.net, shape, recipe.data)
        # images of odd sizes, too, which the proof does not look at
        ours, theirs = detections(source.net, [*images, *odd]), detections(net, [*images, *odd])
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert any(len(a) for a in ours)
        assert not any("searchkit" in type(m).__module__ for m in net.modules())
        assert proof["weights_sha256"] == checkpoint.digest(f"{out}/weights.safetensors")


# Loads each folder where importing searchkit fails, prints its detections, and trains it for a step.
ALONE = """
import importlib.util, sys
sys.modules["searchkit"] = None
import torch

torch.set_num_threads(1)
images = torch.load(sys.argv[1])
for folder in sys.argv[2:]:
    spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    net = model.load()
    with torch.no_grad():
        torch.save([{k: v for k, v in net([image])[0].items()} for image in images], folder + "/found.pth")
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    torch.manual_seed(0)
    before = {k: v.clone() for k, v in net.named_parameters()}
    loss = sum(net([images[0]], [target]).values())
    loss.backward()
    optimizer.step()
    moved = [k for k, v in net.named_parameters() if not torch.equal(before[k], v)]
    last = {"roi_heads.box_head.fc6.weight", "head.regression_head.bbox_reg.weight"}
    assert loss.isfinite() and last & {*moved} and len(moved) > len(before) / 2, (loss, moved)
    print(type(net).__module__, model.categories())
"""


@pytest.mark.slow
def test_the_folder_stands_alone(trained: Trained, tmp_path: Path) -> None:
    recipes = {
        name: recipe_of(name, trained.data, tmp_path / "cfg")
        for name in ("basic, gn", "bottleneck, frozen", "retinanet")
    }
    recipes["trained"] = trained.recipe
    images = [image.float() / 255 for image in extraction.sample_images(trained.recipe, 2, 64)[0]]
    torch.save(images, tmp_path / "images.pth")
    folders, expected = [], []
    for name, recipe in recipes.items():
        source = extraction.open_source(recipe, trained.checkpoint, 0) if name == "trained" else fresh(recipe)
        arch = recipe.space.named("MIDDLE") if name == "trained" else recipe.space.minimum()
        folders.append(str(tmp_path / name.replace(", ", "-")))
        extract(source, recipe, arch, 64, folders[-1])
        set_arch(source.net, arch)
        with torch.no_grad():
            expected.append([source.net([image])[0] for image in images])
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(tmp_path / "images.pth"), *folders],
        cwd=tmp_path,
        env=nas.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = ["background", "circle", "square", "triangle"]
    modules = ["torchvision.models.detection.faster_rcnn"] * 2 + ["model", "torchvision.models.detection.faster_rcnn"]
    assert done.stdout.splitlines() == [f"{module} {names}" for module in modules]
    for folder, wanted in zip(folders, expected, strict=True):
        found = torch.load(f"{folder}/found.pth")
        for a, b in zip(found, wanted, strict=True):
            assert all(torch.equal(a[k], b[k]) for k in ("boxes", "scores", "labels")) and len(b["boxes"])


def swapped(old: str, new: str) -> Any:
    """A writer of model.py that puts another operation in one place."""

    def write_source(*args: Any) -> str:
        text = model_source(*args)
        assert old in text
        return text.replace(old, new, 1)

    return write_source


def test_what_differs_is_not_written(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = trained.recipe
    source = extraction.open_source(recipe, trained.checkpoint, 0)
    arch, out = recipe.space.minimum(), tmp_path / "model"
    real = extraction._write_weights

    def tampered(name: str) -> Any:
        def write_weights(folder: str, net: nn.Module) -> None:
            net = copy.deepcopy(net)
            with torch.no_grad():
                value = net.get_parameter(name)
                value.view(-1)[0] = torch.nextafter(value.view(-1)[0], torch.tensor(9.0))
            real(folder, net)

        return write_weights

    for name in ("backbone.body.layer1.0.conv1.weight", "rpn.head.cls_logits.bias", "roi_heads.box_head.fc7.bias"):
        monkeypatch.setattr(extraction, "_write_weights", tampered(name))
        with pytest.raises(SearchkitError, match=f"has other weights than the source: {re.escape(name)}"):
            extract(source, recipe, arch, 64, str(out))
        assert not out.exists() and not list(tmp_path.iterdir())
    monkeypatch.setattr(extraction, "_write_weights", real)
    for old, new in (
        ("kernel_size=3, stride=2, padding=1", "kernel_size=5, stride=2, padding=2"),
        ("F.relu(", "F.elu("),
    ):
        monkeypatch.setattr(det_model, "model_source", swapped(old, new))
        with pytest.raises(SearchkitError, match="does not compute what the source does"):
            extract(source, recipe, arch, 64, str(out))
        assert not out.exists() and not list(tmp_path.iterdir())
    with pytest.raises(SearchkitError, match="the closed form says"):
        wrong = replace(source, config=replace(source.config, box_head_width=31))
        extraction.costs(wrong, source.net, arch, 64)


@pytest.mark.slow
def test_the_command(trained: Trained, tmp_path: Path) -> None:
    common = ("extract", trained.config, "--checkpoint", trained.checkpoint)
    for shape in ("0", "48,0", "wide"):
        said = nas.bad(*common, "--arch", "MIN", "--input", shape, "--out", tmp_path / "none")
        assert "--input must be a short edge S, or H,W, in pixels" in said
    out = good(
        *common, "--arch", "MIDDLE", "--input", "48,64", "--calibrate", "--export", "torch", "--out", tmp_path / "m"
    )
    assert "equal bit for bit" in out and "batch-norm statistics: calibrated on 6 training images" in out
    assert "backbone.pt2: differs by up to 0" in out
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "backbone.pt2",
        "config.json",
        "model.py",
        "proof.json",
        "weights.safetensors",
    ]
    assert len({p.stat().st_mode for p in (tmp_path / "m").iterdir()}) == 1
    proof = json.loads((tmp_path / "m" / "proof.json").read_text())
    assert proof["source"]["sha256"] == checkpoint.digest(trained.checkpoint) and proof["calibrated"]["images"] == 6
    ids = proof["calibrated"]["image_ids"]
    assert len(ids) == len(set(ids)) == 6 and proof["calibrated"]["annotations"].endswith("instances_train.json")
    raw_argv = ("--arch", "MIDDLE", "--input", "48,64", "--raw", "--out", tmp_path / "raw", "--json")
    shown = json.loads(good(*common, *raw_argv))
    assert "calibrated" not in shown and shown["statistics"] == {"kind": "raw", "why": "--raw"}
    calibrated, raw = load_folder(str(tmp_path / "m")).state_dict(), load_folder(str(tmp_path / "raw")).state_dict()
    other = {k for k in raw if not torch.equal(raw[k], calibrated[k])}
    assert other and all("running_" in k or "num_batches" in k for k in other)
    assert "already exists" in bad(*common, "--arch", "MIDDLE", "--out", tmp_path / "m")
    assert "no arch given" in bad(*common, "--out", tmp_path / "n")
    wide = json.dumps(
        {"backbone.stem.width": 12, "backbone.body.width": [8, 8, 8, 8], "backbone.body.depth": [1, 1, 1, 1]}
    )
    said = bad(*common, "--arch", wide, "--out", tmp_path / "n")
    assert "backbone.stem.width is 12, but must be from 1 to 8" in said
    assert "did you mean MIDDLE" in bad(*common, "--arch", "MIDLE", "--out", tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_the_best_of_a_file(trained: Trained, tmp_path: Path) -> None:
    space = trained.recipe.space
    records = [
        {"arch": space.at(i).nested(), "data": {"input_shape": [3, 48, 64]}, "metric": {"t": {"mAP": value}}}
        for i, value in ((3, 0.1), (5, 0.7), (9, 0.2))
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    common = ("extract", trained.config, "--checkpoint", trained.checkpoint, "--arch", tmp_path / "t.jsonl", "--json")
    best = json.loads(good(*common, "--metric", "metric.t.mAP", "--out", tmp_path / "best"))
    assert best["arch"] == records[1]["arch"] and best["cost"]["input_shape"] == [48, 64]
    first = json.loads(good(*common, "--out", tmp_path / "first"))
    assert first["arch"] == records[0]["arch"]
    said = bad(*common, "--metric", "metric.t.map", "--out", tmp_path / "none")
    assert "no record of" in said and "metric.t.mAP" in said


def test_a_tuned_subnet_needs_no_arch(trained: Trained, tmp_path: Path) -> None:
    names = (trained.config, "--checkpoint", trained.checkpoint, "--arch", "MIDDLE", "--set", "finetune.steps=2")
    good("finetune", *names, "--out", tmp_path / "o.jsonl", "--work-dir", tmp_path / "w")
    tuned = tmp_path / "w" / "best" / "latest.pth"
    shown = json.loads(good("extract", trained.config, "--checkpoint", tuned, "--out", tmp_path / "m", "--json"))
    assert Arch.of(shown["arch"]) == trained.recipe.space.named("MIDDLE") and shown["cost"]["input_shape"] == 48
    state, found = load_folder(str(tmp_path / "m")).state_dict(), checkpoint.load(str(tuned)).net
    assert state.keys() == found.keys() and all(torch.equal(state[k], found[k]) for k in state)


@pytest.mark.slow
def test_predict_draws(trained: Trained, tmp_path: Path) -> None:
    good("extract", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MAX", "--out", tmp_path / "m")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("val_00001.png", "val_00002.png"):
        shutil.copy(trained.data / "images" / name, photos)
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "notes.txt").write_text("not looked at")
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(trained.data / "images" / "val_00003.png", again / "val_00001.png")
    done = nas.call(
        "predict", tmp_path / "m", photos, again, "--out", tmp_path / "boxes", "--threshold", "0.02", "--json"
    )
    assert done.code == 0 and "broken.png: it is no image" in done.err
    found = json.loads(done.out)
    pictures = ["val_00001.png", "val_00002.png", "val_00001-2.png"]
    assert [Path(item["picture"]).name for item in found] == pictures
    assert sorted(p.name for p in (tmp_path / "boxes").iterdir()) == sorted(pictures)
    assert any(item["boxes"] for item in found)
    for item in found:
        for box in item["boxes"]:
            assert box["score"] >= 0.02 and box["name"] in ("circle", "square", "triangle") and len(box["box"]) == 4
    few = good("predict", tmp_path / "m", photos, again, "--limit", "2", "--out", tmp_path / "few")
    drawn = [line.partition(":")[0] for line in few.splitlines()]  # of photos the broken one and another
    assert [Path(name).name for name in drawn] == ["val_00001.png", "val_00001-2.png"]
    # a checkpoint with its config draws the same
    more = ("--config", trained.config, "--arch", "MAX", "--threshold", "0.02", "--json")
    direct = nas.call("predict", trained.checkpoint, photos, "--out", tmp_path / "direct", *more)
    assert [i["boxes"] for i in json.loads(direct.out)] == [i["boxes"] for i in found[:2]]
    assert "its config is needed" in bad("predict", trained.checkpoint, photos, "--out", tmp_path / "x")
    assert "there is no model at" in bad("predict", tmp_path / "none", photos, "--out", tmp_path / "x")
    assert "no image could be read" in bad("predict", tmp_path / "m", photos / "broken.png", "--out", tmp_path / "x")
