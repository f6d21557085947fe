"""An extracted classifier equals its source bit for bit, stands alone, and costs what the closed form says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from searchkit.errors import SearchkitError
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads import linear_source as cls_model
from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet.extract import extract, load_folder
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from tests.support import cls, nas
from tests.support.nas import bad, good, tensors, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("family", cls.FAMILIES)
def test_the_extracted_net_is_the_supernet_at_its_arch(family: str, toy_cls: Path, tmp_path: Path) -> None:
    recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, family)))
    source = cls.fresh(recipe)
    images, ids = extraction.sample_images(recipe, 3, 40)
    assert len(images) == len(ids) == 3 and images[0].shape == (3, 40, 40)
    before = {k: v.clone() for k, v in source.net.state_dict().items()}
    seen = set()
    for i, arch in enumerate(cls.archs_of(recipe.space)):
        out, shape = str(tmp_path / f"model{i}"), ((40, 33) if i == 1 else 40)
        proof = extract(source, recipe, arch, shape, out, images=images, image_ids=ids)
        assert proof["equal"]["bit_equal"] and proof["equal"]["images"] == ids
        net, static = load_folder(out), subnet(source.net, arch, source.config)
        set_arch(source.net, arch)
        h, w = cls_model.height_width(shape)
        x = torch.rand(3, 3, h, w, generator=torch.Generator().manual_seed(i))
        with torch.no_grad():
            wanted = source.net(x)
            assert torch.equal(static(x), wanted) and torch.equal(net(x), wanted)
            with FlopCounterMode(display=False) as counter:
                source.net(x[:1])
        assert proof["cost"]["macs"] == proof["cost"]["macs_measured"] == counter.get_total_flops() // 2 > 0
        assert proof["cost"]["params"] == sum(p.numel() for p in static.parameters()) == proof["cost"]["params_counted"]
        assert [*static.state_dict()] == [*net.state_dict()] and {*net.state_dict()} <= {*before}
        assert not any("searchkit" in type(m).__module__ for m in net.modules())
        seen.add(proof["weights_sha256"])
    assert len(seen) > 3 and nas.equal(before, source.net.state_dict())


# Loads each folder where importing searchkit fails, notes its scores, and trains it for a step.
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
    assert not net.training
    with torch.no_grad():
        torch.save(net(images), folder + "/found.pth")
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in net.named_parameters()}
    torch.nn.functional.cross_entropy(net(images), torch.arange(len(images))).backward()
    optimizer.step()
    moved = [k for k, v in net.named_parameters() if not torch.equal(before[k], v)]
    assert "fc.weight" in moved and len(moved) > len(before) / 2, moved  # relus may stop some
    print(model.SIZE, *model.categories())
"""


@pytest.mark.slow
def test_folders_stand_alone(toy_cls: Path, tmp_path: Path) -> None:
    images = torch.rand(4, 3, 32, 32)
    torch.save(images, tmp_path / "images.pth")
    folders, expected = [], []
    for family in cls.FAMILIES:
        recipe = config.load(write(tmp_path / f"{family}.yaml", cls.tiny(toy_cls, family)))
        source, arch = cls.fresh(recipe), cls.archs_of(recipe.space)[-1]
        folders.append(str(tmp_path / family))
        extract(source, recipe, arch, 32, folders[-1])
        set_arch(source.net, arch)
        with torch.no_grad():
            expected.append(source.net(images))
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(tmp_path / "images.pth"), *folders],
        cwd=tmp_path,
        env=nas.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"(32, 32) {' '.join(cls.CLASSES)}"] * len(folders)
    for folder, wanted in zip(folders, expected, strict=True):
        assert torch.equal(torch.load(f"{folder}/found.pth"), wanted)


def test_what_differs_is_not_written(toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = config.load(write(tmp_path / "cfg" / "cfg.yaml", cls.tiny(toy_cls, "mobilenet")))
    source, out = cls.fresh(recipe), tmp_path / "model"
    real = cls_model.model_source
    for old, new in (("F.relu6(", "F.silu("), ("(x - mean", "(x + mean"), (".mean((2, 3))", ".amax((2, 3))")):

        def swapped(*args: Any, old: str = old, new: str = new) -> str:
            text = real(*args)
            assert old in text, text
            return text.replace(old, new, 1)

        monkeypatch.setattr(cls_model, "model_source", swapped)
        with pytest.raises(SearchkitError, match="does not compute what the source does"):
            extract(source, recipe, recipe.space.minimum(), 32, str(out))
        assert {p.name for p in tmp_path.iterdir()} == {"cfg"}


@pytest.mark.slow
def test_a_tuned_subnet_by_the_commands(toy_cls: Path, tmp_path: Path) -> None:
    """Of a supernet with alternatives: train, tune one arch, extract its checkpoint, and the same arch raw."""
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls))
    learnt = nas.train(path, tmp_path / "work", "train.steps=3")
    common = ("finetune", path, "--checkpoint", learnt, "--arch", "MIXED", "--work-dir", tmp_path / "tuned")
    good(*common, "--out", tmp_path / "t.jsonl", "--device", "cpu")
    (record,) = nas.lines(tmp_path / "t.jsonl")
    assert set(record["metric"]["finetune"]) == {"top1", "top5"} and record["protocol"]["finetune"]["tuned_steps"] == 3
    tuned = tmp_path / "tuned" / "best" / "latest.pth"
    found = checkpoint.load(str(tuned))
    assert found.meta["static"] and found.step == 3
    kinds = {name.split(".")[4] for name in found.net if name.startswith("backbone.stages.")}
    assert kinds <= {"k3", "k5", "k7", "xception"} and len({n for n in found.net if "stages.0.0." in n}) > 0
    assert {n.split(".")[4] for n in found.net if n.startswith("backbone.stages.0.0.")} == {"k7"}
    command = ("extract", path, "--out", tmp_path / "m", "--export", "torch", "--calibrate")
    said = good(*command, "--checkpoint", tuned)
    assert "equal bit for bit to the source: features and scores" in said
    assert (
        "batch-norm statistics: calibrated on 12 training images" in said and "backbone.pt2: differs by up to 0" in said
    )
    proof = json.loads((tmp_path / "m" / "proof.json").read_text())
    assert proof["cost"]["macs"] == record["overhead"]["flops"]
    assert proof["cost"]["params"] == record["overhead"]["params"]
    shown = json.loads((tmp_path / "m" / "config.json").read_text())
    assert shown["task"] == "cls" and shown["categories"] == [*cls.CLASSES] and shown["size"] == [32, 32]
    net = load_folder(str(tmp_path / "m"))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in net.state_dict().items():
        same = torch.equal(value, tensors(tuned)[name])
        assert same or name.endswith(statistics), name
    good("extract", path, "--checkpoint", learnt, "--arch", tmp_path / "t.jsonl", "--out", tmp_path / "raw")
    raw = load_folder(str(tmp_path / "raw"))
    assert [*raw.state_dict()] == [*net.state_dict()]
    assert "already exists" in bad("extract", path, "--checkpoint", learnt, "--arch", "MAX", "--out", tmp_path / "m")
