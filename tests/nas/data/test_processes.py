"""Processes that load images: one that dies, or finds shared memory full, ends the run and says what to do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from searchkit.nas.data import label_loader, loader, processes
from searchkit.nas.data.coco import CocoSet, load_coco
from searchkit.nas.data.images import DetectionData
from searchkit.nas.data.labelled import open_labelled
from searchkit.nas.data.loader import Exactly, shrunk, train_loader
from searchkit.nas.data.processes import LoadingError, watched
from searchkit.nas.data.toy import make_toy_det
from tests.support import cls, nas, suite
from tests.support.nas import tiny, write

HELPS = ("data.workers", "--shm-size", "/dev/shm has")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images to train on."""
    return nas.make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def data(folder: Path) -> CocoSet:
    return load_coco(*nas.section(folder, "train").values())


class _Dying(DetectionData):
    """Its processes die at the third image."""

    signal = signal.SIGKILL

    def load(self, index: int) -> Any:
        if index == 2:
            os.kill(os.getpid(), self.signal)
        return super().load(index)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
@pytest.mark.parametrize("free_mb", [64, 25_000])
def test_a_worker_that_dies_ends_the_run(
    data: CocoSet, how: signal.Signals, free_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = os.statvfs_result((4096, 4096, free_mb * 244, free_mb * 244, free_mb * 244, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    samples = _Dying(data)
    samples.signal = how
    plan = [[(step, 0, step, None)] for step in range(9)]
    batches = watched(loader._loader(loader._Samples(samples, None, 0), 2, plan))
    with pytest.raises(LoadingError, match=rf"a process that loads images has died \(process \d+: {how.name}\)") as e:
        list(batches)
    lacking = free_mb == 64 or how == signal.SIGBUS  # which a write where there is no room ends with
    assert all((word in e.value.hint) == (lacking or word == "data.workers") for word in HELPS)
    assert ("lacked memory" in e.value.hint) == (how == signal.SIGKILL)
    assert e.value.exit_code == 1


def test_a_worker_that_dies_while_it_sends_ends_the_run(data: CocoSet) -> None:
    """It has sent the beginning of a batch, and the reader waits for the rest."""

    class Sending(DetectionData):
        def target(self, index: int) -> Any:
            return {**super().target(index), "large": torch.zeros(200_000)}  # more than a pipe holds

    samples = loader._Samples(Sending(data), None, 0)
    batches = watched(loader._loader(samples, 1, [[(step, 0, step, None)] for step in range(9)]))
    before = set(active_children())
    next(batches)
    (worker,) = set(active_children()) - before
    time.sleep(0.5)  # the next one is on its way, and blocks
    worker.kill()
    with pytest.raises(LoadingError, match="SIGKILL"):
        list(batches)
    assert worker not in active_children() and signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


def test_no_room_is_told_and_not_waited_for(data: CocoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where shared memory is full, which the thread of the queue would swallow."""

    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    labelled = open_labelled(cls.make_toy(tmp_path) / "val")
    for batches in (
        train_loader(data, None, 4, 0, 0, 3, 2),
        label_loader.train_loader(labelled, None, 4, 0, 0, 3, 2, size=32),
        label_loader.eval_batches(labelled, 4, 32, workers=2),
    ):
        with pytest.raises(LoadingError, match=r"no room for a batch of [1-9]\d* kB \(unable to allocate") as e:
            list(batches)
        assert all(word in e.value.hint for word in HELPS)
    assert len(list(train_loader(data, None, 4, 0, 0, 3, 0))) == 3


def test_errors_that_are_no_deaths_stay_what_they_are(data: CocoSet) -> None:
    class Wrong(DetectionData):
        def load(self, index: int) -> Any:
            raise RuntimeError("something else")

    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="something else"):
            list(watched(loader._loader(loader._Samples(Wrong(data), None, 0), workers, [[(0, 0, 0, None)]])))


def mounting() -> str:
    """Why this process can't give a child a shared memory of its own; empty where it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=64k tmpfs {processes.SHARED}"], capture_output=True
    )
    return done.stderr.decode().strip()


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8k", "120k"])
def test_a_training_in_a_small_shared_memory(folder: Path, tmp_path: Path, size: str) -> None:
    """8k: not even the semaphores of a queue have room; 120k: these do, but no batch of 147 kB."""
    if why := mounting():
        pytest.skip(f"shared memory can't be made small here: {why}")
    path = write(tmp_path / "c.yaml", tiny(folder, train={"batch_size": 12}, data={"workers": 2}))
    train = suite.command("search-nas", "train", path, "--work-dir", str(tmp_path / "w"), "--device", "cpu")
    inside = f'mount -t tmpfs -o size={size} tmpfs {processes.SHARED} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside, "sh", *train], capture_output=True, timeout=90, env=nas.environment()
    )
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert "Traceback" not in said and all(word in said for word in HELPS)
    what = r"no room for a batch of [1-9]\d+ kB .*" if size == "120k" else "processes can't load images: No space left"
    assert re.search(what, said) and re.search(r"/dev/shm has (8|12\d) kB", said), said


@pytest.mark.slow
def test_a_training_whose_worker_is_killed(folder: Path, tmp_path: Path) -> None:
    """By the kernel, for lack of memory, say; at whatever moment of a step."""
    path = write(tmp_path / "c.yaml", tiny(folder, train={"steps": 10**6, "checkpoint_steps": 1}, data={"workers": 1}))
    process = nas.spawn("train", path, "--work-dir", tmp_path / "w", "--device", "cpu", cwd=tmp_path)
    with nas.killed_after(process):
        suite.wait_for((tmp_path / "w" / "latest.pth").exists, why="the first step")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said.decode()
    assert b"a process that loads images has died" in said and b"data.workers" in said and b"Traceback" not in said


# ---- what is sent ----


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (128, 128), (90, 1000), (1000, 90), (301, 333), (64, 96)])
@pytest.mark.parametrize("edges", [(64, 96), (80, 107), (33, 1333)])
def test_images_are_shrunk_as_the_network_does_it(size: tuple[int, int], edges: tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8))
    target = {"boxes": torch.tensor([[3.0, 4.0, 60.0, 50.0]]), "area": torch.tensor([57.0 * 46])}
    transform = GeneralizedRCNNTransform(*edges, [0.0] * 3, [1.0] * 3, size_divisible=1)
    whole, wanted = transform([image / 255], [{"boxes": target["boxes"].clone()}])
    small, found = shrunk(image, target, edges)
    if size == (64, 96) and edges != (33, 1333):
        assert small is image  # it is enlarged, which can wait
        return
    again, same = transform([small / 255], [{"boxes": found["boxes"].clone()}])
    assert torch.equal(again.tensors[0], small / 255) and torch.equal(same[0]["boxes"], found["boxes"])
    assert all(abs(a - b) <= 1 for a, b in zip(whole.image_sizes[0], again.image_sizes[0], strict=True))
    assert (wanted[0]["boxes"] - found["boxes"]).abs().max() < 1
    boxes = found["boxes"]
    assert torch.allclose(found["area"], (boxes[:, 2:] - boxes[:, :2]).prod(1), rtol=1e-5)
    if whole.image_sizes == again.image_sizes:
        gap = (whole.tensors - again.tensors) * 255
        assert gap.abs().max() < 0.51  # rounded to whole numbers
    assert shrunk(small, found, edges)[0] is small


@pytest.mark.parametrize("size", [(300, 400), (90, 1000), (1000, 90)])
def test_images_are_shrunk_as_a_network_stretches_them(size: tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8))
    target = {"boxes": torch.tensor([[3.0, 4.0, 60.0, 50.0]]), "area": torch.tensor([57.0 * 46])}
    transform = GeneralizedRCNNTransform(64, 96, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=(96, 64))
    whole, wanted = transform([image / 255], [{"boxes": target["boxes"].clone()}])
    small, found = shrunk(image, target, Exactly(64, 96))
    assert small.shape == (3, 64, 96) == whole.tensors[0].shape
    assert (whole.tensors[0] - small / 255).abs().max() * 255 < 0.51  # rounded to whole numbers
    assert torch.allclose(found["boxes"], wanted[0]["boxes"])
    assert shrunk(small, found, Exactly(64, 96))[0] is small
    assert shrunk(small, found, Exactly(96, 96))[0] is small  # it is enlarged, which can wait


def test_only_what_the_network_needs_is_sent(tmp_path: Path) -> None:
    out = make_toy_det(str(tmp_path / "big"), images={"train": 4}, size=(300, 400))
    data = load_coco(f"{out}/annotations/instances_train.json", f"{out}/images")

    def edges(step: int) -> tuple[int, int]:
        return (60, 100) if step % 2 else (600, 1000)

    for workers in (0, 2):
        batches = list(train_loader(data, None, 2, 0, 0, 4, workers, edges=edges))
        shapes = [image.shape[1:] for _, images, _ in batches for image in images]
        assert shapes == [(300, 400), (300, 400), (60, 80), (60, 80)] * 2
        for step, _, targets in batches:
            assert all((t["boxes"].max() > 80) == (step % 2 == 0) for t in targets)


def test_the_threads_of_an_evaluation_end_with_it(data: CocoSet) -> None:
    import threading

    before = threading.active_count()
    batches = loader.eval_loader(data, 1, 3)
    next(batches)
    assert threading.active_count() == before + 3
    batches.close()
    assert threading.active_count() == before
