"""Too little memory: the verbs say what to lower, in one message. Nothing is pretended but the GPU's own refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.plans import plans_of
from searchkit.nas.train.memory import largest_layer
from tests.support import nas
from tests.support.nas import Trained, bad, good, tensors, tiny, write

pytestmark = pytest.mark.usefixtures("one_thread")

# Backbones of one's own that want more than there is, from a certain image size on.
GREEDY = """
import numpy as np
import torch
from searchkit.nas.models.backbones.resnet import ResNet

class Greedy(ResNet):
    def want(self):
        raise NotImplementedError

    def forward(self, x):
        if x.shape[-1] > 64:
            self.want()
        return super().forward(x)

class Machine(Greedy):
    def want(self):
        torch.empty(10**15)  # a petabyte and more, asked of the real allocator

class Numpy(Greedy):
    def want(self):
        np.empty(10**15)

class Gpu(Greedy):
    def want(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\\nGPU 0 has a total of ...")

class CuBlas(Greedy):
    def want(self):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

class Broken(Greedy):
    def want(self):
        raise RuntimeError("the shapes are wrong")
"""
SAID = {
    "Machine": ("this machine has not enough memory: ", "you tried to allocate 4000000000000000 bytes"),
    "Numpy": ("this machine has not enough memory: ", "Unable to allocate"),
    "Gpu": ("the GPU has not enough memory: CUDA out of memory. Tried to allocate 20.00 GiB.\n",),
    "CuBlas": ("the GPU has not enough memory: ", "CUBLAS_STATUS_ALLOC_FAILED"),
}


@pytest.fixture
def greedy(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A config that fits where images are of 64 px; `model.backbone` is to be chosen."""
    (tmp_path / "greedy.py").write_text(GREEDY)
    monkeypatch.chdir(tmp_path)
    return tiny(toy, train={"steps": 4, "policy": "fixed", "arch": "MIN", "scales": [64]}, data={"val": None})


def faults(said: str) -> int:
    return sum(line.startswith("error: ") for line in said.splitlines())


def named(body: dict[str, Any], name: str) -> str:
    return write(Path(f"{name}.yaml"), {**body, "model": {**body["model"], "backbone": f"greedy.py:{name}"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_a_training_says_what_to_lower(greedy: dict[str, Any], name: str) -> None:
    path = named(greedy, name)
    nas.train(path, Path("work"), stop=2)
    done = tensors("work/latest.pth")["step"]
    said = bad("train", path, "--work-dir", "work", "--set", "train.scales=[80]", "--accept-changes", code=1)
    assert all(part in said for part in SAID[name]) and faults(said) == 1
    assert "Lower train.batch_size, train.scales, data.max_edge" in said and "precision=bf16" in said
    assert "goes on so from its last checkpoint" in said and "GPU 0 has" not in said
    good("train", path, "--work-dir", "work")  # and it does
    assert tensors("work/latest.pth")["step"] == 4 > done


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_a_sweep_says_what_to_lower(greedy: dict[str, Any], trained: Trained, name: str) -> None:
    body = json.loads(Path(trained.config).read_text())
    path = named(body, name)
    records = [{"arch": trained.recipe.space.minimum().nested(), "data": {"input_shape": size}} for size in (64, 80)]
    Path("archs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    common = (path, "--checkpoint", trained.checkpoint, "--archs", "archs.jsonl")
    for verb, first in (("test", "test.batch_size, test.calibration_images"), ("finetune", "finetune.batch_size")):
        said = bad(verb, *common, "--out", f"{verb}.jsonl", "--set", "finetune.steps=1", code=1)
        assert all(part in said for part in SAID[name]) and faults(said) == 1
        assert f"Lower {first}" in said and "a sweep goes on where it was" in said
        assert [record["data"]["input_shape"] for record in nas.lines(f"{verb}.jsonl")] == [64]  # what fits is kept


def test_predict_says_it_too(greedy: dict[str, Any], trained: Trained) -> None:
    body = json.loads(Path(trained.config).read_text())
    body["space"]["data.input_shape"] = 80
    image = trained.data / "images" / "val_00001.png"
    said = bad("predict", trained.checkpoint, image, "--config", named(body, "Machine"), "--out", "boxes", code=1)
    assert "this machine has not enough memory" in said and "Lower the size of the images" in said


def test_other_faults_of_a_backbone_are_not_called_that(greedy: dict[str, Any]) -> None:
    path = named(greedy, "Broken")
    with pytest.raises(RuntimeError, match="the shapes are wrong"):
        nas.call("train", path, "--work-dir", "work", "--set", "train.scales=[80]")


def test_an_input_that_can_not_fit_is_refused_before_it_takes_memory(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image, checkpoint = trained.data / "images" / "val_00001.png", ("--checkpoint", trained.checkpoint)
    size, space = ("--input", "90000,80000"), ("--set", "space.data.input_shape=[[90000, 80000]]")
    named = trained.recipe.space.minimum().nested()
    Path("archs.jsonl").write_text(json.dumps({"arch": named, "data": {"input_shape": [90000, 80000]}}) + "\n")
    for verb, options in {
        "extract": (trained.config, *checkpoint, "--arch", "MAX", "--out", "model", *size),
        "test": (trained.config, *checkpoint, "--archs", "archs.jsonl", "--out", "t.jsonl"),
        "finetune": (trained.config, *checkpoint, "--arch", "MIN", "--out", "t.jsonl", *space),
        "trust": (trained.config, *checkpoint, "--n", "8", *space),
        "predict": (trained.checkpoint, image, "--config", trained.config, "--out", "boxes", *space),
        "latency": (trained.config, "--device", "cpu", "--out", "table.json", *size),
    }.items():
        said = bad(verb, *options, "--device", "cpu") if verb != "latency" else bad(verb, *options)
        n = "1 image" if verb == "latency" else f"{trained.recipe.test.batch_size} images"
        assert f"error: {n} of 90000 x 80000 px must fit into memory: the largest layer takes at least " in said
        assert "and this machine has" in said and ("test.batch_size" in said) == (verb != "latency")
    assert [path.name for path in tmp_path.iterdir()] == ["archs.jsonl"]


@pytest.mark.parametrize("name", ["MAX", "MIN"])
def test_the_largest_layer_is_that_of_the_network(trained: Trained, name: str) -> None:
    recipe = trained.recipe
    session, arch = nas.open_session(trained), recipe.space.named(name)
    set_arch(session.net, arch)
    most = 0

    def seen(_: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal most
        most = max(most, inputs[0].numel() + output.numel())

    body: Any = session.net.backbone
    for layer in body.body.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            layer.register_forward_hook(seen)
    with torch.no_grad():
        body.body(torch.zeros(1, 3, 70, 50))
    assert largest_layer(plans_of(recipe.model, recipe.space.maximum()), arch, 70, 50) == most > 0
