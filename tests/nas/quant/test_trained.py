"""Networks with roundings: what they compute, what they learn, and that their files compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from searchkit.nas.export.table import Wishes
from searchkit.nas.quant.fake import Rounded, Steps, slowed, to_steps
from searchkit.nas.quant.settings import AVERAGED, LEARNT, Rounding
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet.extract import extract
from searchkit.nas.subnet.qat import Trainer
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from searchkit.nas.train.loop import StepReport
from tests.nas.export.test_onnx import decided, recipe_of
from tests.nas.subnet.test_extract import fresh
from tests.support import cls, nas
from tests.support.nas import write

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_steps_are_torchs_and_their_gradients_those_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(400, generator=generator) * 3).requires_grad_()
    scale, zero = torch.tensor(0.02, requires_grad=True), torch.tensor(100.0)
    y = to_steps(x, scale, zero, 0, 255)
    theirs = torch.fake_quantize_per_tensor_affine(x.detach(), 0.02, 100, 0, 255)
    assert (y - theirs).abs().max() < 1e-6
    y.sum().backward()
    steps = x.detach() / 0.02
    inside = (steps > -100) & (steps < 155)
    assert torch.equal(x.grad, inside.float())
    assert 0 < inside.sum() < len(x)
    wanted = torch.where(inside, steps.round() - steps, torch.where(steps > 0, 155.0, -100.0))
    assert float(scale.grad) == pytest.approx(float(wanted.sum()), rel=1e-4)
    (slow,) = torch.autograd.grad(slowed(scale, 16, 4) * 3, scale)
    assert float(slow) == pytest.approx(3 / 8) and slowed(scale, 16, 4) == scale


def test_weights_have_a_scale_for_each_channel_and_values_are_at_most_their_top() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    widest = conv.weight.detach().flatten(1).abs().amax(1)
    for scales in (LEARNT, AVERAGED):
        rounded = Rounded(conv, widest / 127, 127, scales)
        steps = (rounded.weight() / rounded.scales().reshape(-1, 1, 1, 1)).detach()
        assert (steps - steps.round()).abs().max() < 1e-4 and float(steps.abs().max()) == pytest.approx(127)
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(rounded(x), nn.functional.conv2d(x, rounded.weight(), conv.bias))
    six = Steps(0.1, 0, 6.0, LEARNT)
    assert six(torch.tensor([[9.0, 5.0]])).flatten().tolist() == pytest.approx([6.0, 5.0], abs=0.012)
    assert six.of()[0] * 255 <= 6.0001


def test_averaged_ends_follow_the_batches() -> None:
    steps = Steps(1 / 255, 0, None, AVERAGED).train()
    for _ in range(600):
        steps(torch.tensor([[-1.0, 3.0]]))
    scale, zero = steps.of()
    assert scale == pytest.approx(4 / 255, rel=0.01) and zero in (63, 64)
    steps.eval()(torch.tensor([[-50.0, 50.0]]))
    assert steps.of() == (scale, zero)


class Learns:
    """Trains a few steps of SGD towards noise, or not at all."""

    def __init__(self, steps: int, shape: tuple[int, ...]) -> None:
        self.steps, self.shape = steps, shape

    def __call__(self, order: Any, net: Any, teacher: Any, layers: str) -> dict[str, Any]:
        self.net, self.teacher = net, teacher
        student, float_net = (each.get_submodule(layers) for each in (net, teacher))
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(3)
        for _ in range(self.steps):
            x = torch.rand(self.shape, generator=generator)
            with torch.no_grad():
                wanted = order.form.tensors_of(float_net(x))
            found = order.form.tensors_of(student(x))
            loss = sum(((a - b) ** 2).mean() for a, b in zip(found, wanted, strict=True))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
        return {"steps": self.steps}


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize(("family", "scales"), [("mobilenet", LEARNT), ("basic", AVERAGED)])
def test_a_classifier_and_its_file_are_the_same(family: str, scales: str, toy_cls: Path, tmp_path: Path) -> None:
    recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, family)))
    source, arch, images = cls.fresh(recipe), recipe.space.maximum(), list(cls.images(6))

    def made(name: str, tuning: Any = None) -> dict[str, Any]:
        wishes = Wishes(("onnx-int8",), rounding=Rounding(scales=scales), tuning=tuning)
        out = str(tmp_path / name)
        return extract(source, recipe, arch, 32, out, images=images, wishes=wishes)["files"]["onnx-int8"]

    made("plain")
    still, moved = Learns(0, (4, 3, 32, 32)), Learns(6, (4, 3, 32, 32))
    said = made("still", still)
    # untrained: the same scales and integers, but for the pool, which is in the midst of a call
    plain, same = (tensors(tmp_path / name / "model.int8.onnx") for name in ("plain", "still"))
    assert {*same} <= {*plain} and len(same) > len(plain) - 8
    for name, value in same.items():
        assert np.abs(plain[name].astype(np.float64) - value).max() <= 1e-6 * np.abs(value).max(), name
    assert said["trained"]["file"]["steps_apart"] <= 6 and said["trained"]["file"]["mean_steps_apart"] < 0.2
    said = made("moved", moved)
    assert said["trained"]["file"]["same_class"] == said["trained"]["file"]["images"] > 20
    assert said["trained"]["steps"] == 6 and said["trained"]["left"] > 0
    assert said["trained"]["file"]["steps_apart"] <= 6 and said["trained"]["file"]["mean_steps_apart"] < 0.2
    assert said["trained"]["file"]["predictions_apart"] < 0.02 and said["agrees"]["largest_difference"] < 0.02
    learnt = tensors(tmp_path / "moved" / "model.int8.onnx")
    scales = [name for name in learnt if name.endswith("_scale")]
    assert sum(not np.array_equal(learnt[name], same[name]) for name in scales) > len(scales) / 2
    assert {*learnt} == {*same}


def test_a_training_that_was_stopped_goes_on_to_the_same_file(toy_cls: Path, tmp_path: Path) -> None:
    changes = {"steps": 3, "batch_size": 4, "lr": 0.02, "lr_scaling": "none", "checkpoint_steps": 1}
    recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, "mobilenet", quantize=changes)))
    source, arch, reports = cls.fresh(recipe), recipe.space.minimum(), []

    def made(name: str, folder: str, stop_at: int = 9) -> dict[str, Any]:
        def on_step(report: StepReport) -> None:
            reports.append(report)
            if report.step == stop_at:
                raise KeyboardInterrupt

        trainer = Trainer(recipe, "0" * 64, str(tmp_path / folder), 0, nas.CPU, on_step)
        wishes = Wishes(("onnx-int8",), tuning=trainer)
        return extract(source, recipe, arch, 32, str(tmp_path / name), wishes=wishes)["files"]["onnx-int8"]

    said = made("whole", "a")
    assert {*reports[0].losses} == {"loss_ce", "loss_distill", "loss"} and said["trained"]["steps"] == 3 == len(reports)
    with pytest.raises(KeyboardInterrupt):
        made("half", "b", stop_at=1)
    assert not (tmp_path / "half").exists() and checkpoint.load(str(tmp_path / "b" / "latest.pth")).step == 1
    made("again", "b")
    assert (tmp_path / "again" / "model.int8.onnx").read_bytes() == (
        tmp_path / "whole" / "model.int8.onnx"
    ).read_bytes()
    states = [checkpoint.load(str(tmp_path / folder / "latest.pth")).net for folder in "ab"]
    assert nas.equal(*states) and any("steps_" in name for name in states[0])


def test_a_detector_and_its_file_are_the_same(tmp_path: Path) -> None:
    recipe = recipe_of("ssd", nas.make_toy(tmp_path / "toy"), tmp_path / "cfg")
    images, _ = extraction.sample_images(recipe, 2, 64)
    arch, shape = recipe.space.maximum(), recipe.scales[0]
    source = decided(fresh(recipe), recipe, arch, images)
    learns = Learns(3, (2, 3, 64, 64))
    out = str(tmp_path / "m")
    wishes = Wishes(("onnx-int8",), tuning=learns)
    said = extract(source, recipe, arch, shape, out, images=images, wishes=wishes)["files"]["onnx-int8"]
    apart = said["trained"]["file"]
    # a network with random weights makes several steps of one that a layer before it rounds the other way
    assert apart["mean_steps_apart"] < 1.5 and apart["predictions_apart"] < 0.25
    learns.net.eval()
    with torch.no_grad():
        found = learns.net([images[0].float() / 255])[0]
    assert {*found} == {"boxes", "scores", "labels"}
    assert said["agrees"]["boxes_of_one_alone"] <= said["agrees"]["boxes"]
