"""Too little memory: the verbs say what to lower, in one message. Nothing is pretended but the GPU's own refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
