"""Batches are a function of (seed, step): over epochs, ranks, workers and interruptions."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from searchkit.errors import UsageError
from searchkit.nas.data import loader, toy
from searchkit.nas.data.augment import Augment
from searchkit.nas.data.coco import CocoSet, load_coco, subset
from searchkit.nas.data.images import DetectionData
from searchkit.nas.data.loader import Seen, batch_ids, epoch_batches, eval_loader, steps_per_epoch, train_loader
from tests.nas.data.test_coco import box, write_coco

AUGMENT = Augment(0.5, (0.5, 2.0), 0.3, 0.2, 0.2, 0.2)
Batch = tuple[int, list[torch.Tensor], list[dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoSet:
    """13 images."""
    out = toy.make_toy_det(str(tmp_path_factory.mktemp("toy") / "set"), images={"train": 13}, size=(48, 64))
    return load_coco(f"{out}/annotations/instances_train.json", f"{out}/images")


def same(a: list[Any], b: list[Any]) -> bool:
    """Bit for bit, types included."""

    def flat(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.dtype, tuple(value.shape), value.numpy().tobytes()
        if isinstance(value, dict):
            return {key: flat(entry) for key, entry in value.items()}
        return [flat(entry) for entry in value] if isinstance(value, list | tuple) else value

    return bool(flat(a) == flat(b))


# ---- the order ----


@pytest.mark.parametrize(
    ("n", "portraits", "batch"), [(1, 0, 4), (3, 1, 4), (6, 3, 4), (16, 16, 4), (13, 5, 4), (100, 37, 16)]
)
def test_an_epoch_shows_every_image(n: int, portraits: int, batch: int) -> None:
    ratios = np.where(np.arange(n) < portraits, 0.75, 1.5)
    for epoch in range(9):
        batches = epoch_batches(ratios, batch, 5, epoch)
        assert batches.shape == (steps_per_epoch(n, batch), batch)
        counts = np.bincount(batches.ravel(), minlength=n)
        assert counts.min() >= 1
        assert (counts - 1).sum() == len(batches) * batch - n < batch
        if n >= batch:
            assert counts.max() <= 2
            assert all(len(set(row)) == batch for row in batches.tolist())
        mixed = [row for row in batches if len(set(ratios[row])) > 1]
        assert len(mixed) <= 2


def test_epochs_and_seeds_differ() -> None:
    ratios = [1.5] * 50
    orders = {tuple(epoch_batches(ratios, 10, seed, epoch).ravel()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_ranks_share_out_the_batch_of_one_rank() -> None:
    ratios = [0.75, 1.5] * 15
    for step in range(12):
        whole = batch_ids(30, ratios, 8, 3, step, 0, 1)
        assert [i for rank in range(4) for i in batch_ids(30, ratios, 2, 3, step, rank, 4)] == whole
    with pytest.raises(UsageError, match="30 images, 1 ratios"):
        batch_ids(30, [1.0], 8, 3, 0)


def test_the_order_of_a_seed_does_not_change_between_versions() -> None:
    """Numbers of version 0.2: a run that began under one version must go on under the next."""
    assert batch_ids(10, [1.5] * 6 + [0.75] * 4, 3, 7, 0) == [3, 4, 1]
    assert batch_ids(10, [1.5] * 6 + [0.75] * 4, 3, 7, 9, 0, 1) == [5, 4, 3]


# ---- the loader ----


def test_the_loader_shows_what_batch_ids_says(data: CocoSet) -> None:
    ids = [image.id for image in data.images]
    for step, images, targets in train_loader(data, None, 4, 3, 0, 9, 0):
        wanted = batch_ids(13, data.aspect_ratios, 4, 3, step)
        assert [int(target["image_id"]) for target in targets] == [ids[i] for i in wanted]
        plain = DetectionData(data)
        assert same(images, [plain[i][0] for i in wanted])
        assert same(targets, [plain[i][1] for i in wanted])


@pytest.mark.slow
def test_a_resumed_run_is_an_unbroken_one_with_any_number_of_workers(data: CocoSet) -> None:
    whole: list[Batch] = list(train_loader(data, AUGMENT, 4, 3, 0, 10, 0))
    assert [step for step, _, _ in whole] == list(range(10))
    assert len({image.numpy().tobytes() for _, images, _ in whole for image in images}) == 40  # no two are the same
    assert same(list(train_loader(data, AUGMENT, 4, 3, 6, 10, 0)), whole[6:])
    assert same(list(train_loader(data, AUGMENT, 4, 3, 0, 10, 2)), whole)
    assert same(list(train_loader(data, AUGMENT, 4, 3, 7, 10, 2, cache_mb=0.05)), whole[7:])
    assert not same(list(train_loader(data, AUGMENT, 4, 4, 0, 1, 0)), whole[:1])


def test_no_two_samples_are_augmented_alike(data: CocoSet) -> None:
    one = subset(data, [0])
    batches = list(train_loader(one, AUGMENT, 6, 3, 0, 4, 0))
    batches += list(train_loader(one, AUGMENT, 6, 3, 0, 4, 0, 1, 2))
    assert len({image.numpy().tobytes() for _, images, _ in batches for image in images}) == 2 * 4 * 6


def test_two_ranks_see_what_one_does(data: CocoSet) -> None:
    whole: list[Batch] = list(train_loader(data, AUGMENT, 6, 3, 0, 4, 0))
    parts = [list(train_loader(data, AUGMENT, 3, 3, 0, 4, 0, rank, 2)) for rank in range(2)]
    for (_, images, targets), (_, images_0, targets_0), (_, images_1, targets_1) in zip(whole, *parts, strict=True):
        assert same(images_0 + images_1, images)
        assert same(targets_0 + targets_1, targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_touched(data: CocoSet, workers: int) -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state(), random.getstate(), *np.random.get_state()[1:3]]  # noqa: NPY002

    before = states()
    for _ in train_loader(data, AUGMENT, 4, 3, 0, 3, workers):
        assert same(states()[:1], before[:1])
    list(eval_loader(data, 4, workers))
    assert all(
        np.array_equal(a, b) if not isinstance(a, tuple) else a == b for a, b in zip(states(), before, strict=True)
    )


def test_leaving_early_leaves_no_worker(data: CocoSet) -> None:
    batches = train_loader(data, None, 2, 3, 0, 1000, 2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_what_a_spawned_worker_is_sent_gives_the_same_samples(data: CocoSet) -> None:
    samples = loader._Samples(DetectionData(data, cache_mb=1), AUGMENT, 3)
    sent = pickle.loads(pickle.dumps(samples))
    assert same([sent[5, 2, i, None] for i in range(4)], [samples[5, 2, i, None] for i in range(4)])


def test_workers_use_one_thread_each(data: CocoSet) -> None:
    class Threads(DetectionData):
        def load(self, index: int) -> Any:
            return torch.tensor([torch.get_num_threads()]), {}, []

    found = loader._loader(loader._Samples(Threads(data), None, 0), 2, [[(0, 0, 0, None)]] * 4)
    assert same([batch.unpack()[0] for _, batch, *_ in found], [[torch.tensor([1])]] * 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_through_the_set_in_order(data: CocoSet, workers: int) -> None:
    turned = subset(data, range(12, -1, -1))
    batches = list(eval_loader(turned, 5, workers))
    assert [len(images) for images, _ in batches] == [5, 5, 3]
    found = [int(target["image_id"]) for _, targets in batches for target in targets]
    assert found == [image.id for image in turned.images]
    plain = DetectionData(turned)
    assert same([image for images, _ in batches for image in images], [plain[i][0] for i in range(13)])


def test_crowd_regions_are_for_evaluation_only(tmp_path: Path) -> None:
    data = write_coco(tmp_path, [1], [box(1, [0, 0, 9, 9]), box(1, [9, 9, 9, 9], iscrowd=1)])
    assert next(train_loader(data, None, 1, 0, 0, 1, 0))[2][0]["labels"].tolist() == [1]
    assert next(eval_loader(data, 1, 0))[1][0]["iscrowd"].tolist() == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_that_random_changes_leave_out_are_counted(tmp_path: Path, workers: int) -> None:
    data = write_coco(
        tmp_path, [1, 2], [box(i, [4 * k, 3, size, 9]) for i in (1, 2) for k, size in enumerate((9, 1, 8))]
    )
    seen = Seen()
    list(train_loader(data, Augment(), 2, 3, 0, 4, workers, seen=seen))
    assert (seen.boxes, seen.lost) == (4 * 6, 4 * 2)
    jitter = Seen()
    batches = list(train_loader(data, Augment(scale=(0.1, 2.0)), 2, 3, 0, 4, workers, seen=jitter))
    assert jitter.boxes - jitter.lost == sum(len(t["labels"]) for _, _, targets in batches for t in targets)


# ---- images that can't be used ----


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_and_counted_in_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    data = write_coco(tmp_path, [1, 2, 3, 4], [box(i, [0, 0, 9, 9]) for i in (1, 2, 3, 4)])
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "3.png").unlink()
    seen = Seen()
    with caplog.at_level(logging.WARNING):
        batches = list(train_loader(data, AUGMENT, 2, 3, 0, 6, workers, seen=seen))
    assert {int(target["image_id"]) for _, _, targets in batches for target in targets} == {1, 4}
    assert sum(n for message, n in seen.skipped.items() if "2.png" in message) == 3  # once per epoch
    assert sum(n for message, n in seen.skipped.items() if "3.png" in message) == 6  # it is next to the other one
    assert len(caplog.records) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_listed_in_evaluation(tmp_path: Path, workers: int) -> None:
    data = write_coco(tmp_path, [1, 2, 3, 4], [])
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "4.png").unlink()
    with pytest.raises(UsageError, match=r"2 images can't be used(.|\n)*2\.png(.|\n)*4\.png") as e:
        list(eval_loader(data, 1, workers))
    assert "Traceback" not in e.value.message


@pytest.mark.parametrize("workers", [0, 1])
def test_training_without_any_usable_image(tmp_path: Path, workers: int) -> None:
    data = write_coco(tmp_path, [1, 2], [box(1, [0, 0, 9, 9])])
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=r"^2 images can't be used"):
        list(train_loader(data, AUGMENT, 1, 0, 0, 1, workers))


def test_senseless_numbers_are_refused_at_once(data: CocoSet, tmp_path: Path) -> None:
    for wrong in ({"batch_size": 0}, {"rank": 2}, {"workers": -1}, {"start_step": -1}):
        good = {"batch_size": 1, "seed": 0, "start_step": 0, "steps": 1, "workers": 0, "rank": 0, "world": 2}
        with pytest.raises(UsageError, match="must hold"):
            train_loader(data, None, **(good | wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must hold"):
        eval_loader(data, 0, 0)
    with pytest.raises(UsageError, match="training needs boxes"):
        train_loader(write_coco(tmp_path, [1], []), None, 1, 0, 0, 1, 0)
