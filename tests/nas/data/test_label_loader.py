"""Batches of labelled images: functions of (seed, step); each image changed as torchvision would, or in a batch."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from searchkit.errors import UsageError
from searchkit.nas.data.augment import LabelAugment
from searchkit.nas.data.hashing import mix, uniforms
from searchkit.nas.data.label_augment import FILL, augment, augment_batch, fit
from searchkit.nas.data.label_loader import Pictures, eval_batches, in_memory, train_loader
from searchkit.nas.data.label_stores import Arrays
from searchkit.nas.data.labelled import LabelSet, open_labelled, subset
from searchkit.nas.data.loader import batch_ids

N = 13
ALL = LabelAugment(crop="pad", padding=3, color_jitter=0.4, cutout=7)
EVERY = [
    LabelAugment(),
    LabelAugment(flip=1.0),
    LabelAugment(crop="pad"),
    LabelAugment(crop="pad", padding=40),
    LabelAugment(crop="center", color_jitter=1.5),
    LabelAugment(crop="random_resized", cutout=5),
    ALL,
]
Batch = tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 images of 24 x 24 px in three classes."""
    root = tmp_path_factory.mktemp("set")
    for i in range(N):
        (root / "abc"[i % 3]).mkdir(exist_ok=True)
        Image.fromarray(noise(24, 24, 3, seed=i)).save(root / "abc"[i % 3] / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> LabelSet:
    return open_labelled(folder)


@pytest.fixture
def mixed(tmp_path: Path) -> LabelSet:
    """Five images of sizes of their own."""
    (tmp_path / "a").mkdir()
    for i, shape in enumerate([(24, 24), (30, 50), (60, 40), (9, 11), (24, 30)]):
        Image.fromarray(noise(*shape, 3)).save(tmp_path / "a" / f"{i}.png")
    return open_labelled(tmp_path)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, types included."""

    def flat(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.dtype, tuple(value.shape), value.numpy().tobytes()
        return [flat(entry) for entry in value] if isinstance(value, list | tuple) else value

    return bool(flat(a) == flat(b))


def train(data: LabelSet, a: LabelAugment | None = ALL, *where: int, **more: Any) -> list[Batch]:
    batch_size, seed, start, steps, workers = (*where, *(4, 3, 0, 10, 0)[len(where) :])
    return list(train_loader(data, a, batch_size, seed, start, steps, workers, **({"size": 24} | more)))


# ---- random numbers ----


def test_numbers_are_those_of_splitmix64() -> None:
    """The generator's published first outputs for the seed 1234567."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    seeds = np.array([1234567], np.uint64) + golden * np.arange(3, dtype=np.uint64)
    assert mix(seeds).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_are_uniform_and_independent() -> None:
    drawn = uniforms(7, range(20_000), 9)
    assert abs(drawn.mean(0) - 0.5).max() < 0.01
    assert abs(drawn.var(0) - 1 / 12).max() < 0.002
    others = [uniforms(7, range(1, 20_001), 9), uniforms(8, range(20_000), 9)]
    table = np.corrcoef(np.concatenate([drawn, *others], 1).T)
    assert abs(table - np.eye(27)).max() < 0.04
    assert np.array_equal(uniforms(7, [5, 5], 4), drawn[[5, 5], :4])


# ---- one image ----


def test_pad_and_crop_and_flip_are_torchvisions() -> None:
    """The changed image is one of those that v2 can give; over many indices, every one of them, equally often."""
    image = torch.from_numpy(noise(3, 6, 6))
    padded = v2.functional.pad(image, [2])
    possible = {}
    for top in range(5):
        for left in range(5):
            part = v2.functional.crop(padded, top, left, 6, 6)
            possible[part.numpy().tobytes()] = len(possible)
            possible[v2.functional.horizontal_flip(part).numpy().tobytes()] = len(possible)
    a = LabelAugment(crop="pad", padding=2)
    batch = augment_batch([image.numpy()] * 10_000, a, 3, 1, range(10_000), 6)
    counts = np.bincount([possible[one.numpy().tobytes()] for one in batch])
    assert len(counts) == 50
    assert 130 < counts.min() <= counts.max() < 270
    assert (
        0.15
        < np.mean(
            [same(one, image) for one in augment_batch([image.numpy()] * 500, LabelAugment(0.8), 1, 0, range(500), 6)]
        )
        < 0.25
    )


def test_random_crops_are_distributed_as_torchvisions() -> None:
    a = LabelAugment(crop="random_resized", scale=(0.2, 0.9), ratio=(0.5, 2.0))
    theirs = v2.RandomResizedCrop(8, scale=a.scale, ratio=a.ratio)
    image = torch.zeros(3, 40, 90)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = [theirs.make_params([image]) for _ in range(4000)]
    wanted = np.array([[p[key] for key in ("top", "left", "height", "width")] for p in params])
    drawn = uniforms(0, range(4000), 29).tolist()
    found = np.array([label_augment_box(a, row) for row in drawn])
    assert abs(found.mean(0) - wanted.mean(0)).max() < 1.2
    assert (abs(found.std(0) / wanted.std(0) - 1) < 0.06).all()
    narrow = LabelAugment(crop="random_resized", scale=(1.0, 1.0), ratio=(1.0, 1.0))  # never fits: the fallback
    assert label_augment_box(narrow, drawn[0]) == (0, 25, 40, 40)
    assert v2.RandomResizedCrop(8, narrow.scale, narrow.ratio).make_params([image])["left"] == 25


@pytest.mark.parametrize(("shape", "ratio"), [((6, 1), (4.0, 9.0)), ((1, 6), (0.1, 0.3)), ((1, 1), (3.0, 4.0))])
def test_of_the_narrowest_images_there_is_a_crop(shape: tuple[int, int], ratio: tuple[float, float]) -> None:
    a = LabelAugment(crop="random_resized", ratio=ratio)
    assert augment_batch([noise(3, *shape)] * 9, a, 0, 0, range(9), 8).shape == (9, 3, 8, 8)


def label_augment_box(a: LabelAugment, drawn: list[float]) -> tuple[int, int, int, int]:
    from searchkit.nas.data.label_augment import _box

    return _box(a, (40, 90), drawn)


def test_a_random_crop_is_torchvisions(data: LabelSet) -> None:
    a = LabelAugment(crop="random_resized", flip=0.0)
    whole = LabelAugment(crop="random_resized", flip=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    image = data.image(0)
    assert same(augment(image, whole, (1, 2, 3), 16), v2.functional.resized_crop(image, 0, 0, 24, 24, [16, 16]))
    assert len({augment(image, a, (1, 2, i), 16).numpy().tobytes() for i in range(50)}) == 50


def test_colours_are_torchvisions() -> None:
    """For some order and factors; here the factors are found from images on which each change acts alone."""
    image = torch.from_numpy(noise(3, 9, 9) // 2 + 50)
    changes = [v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation]
    from searchkit.nas.data.label_augment import _ORDERS, _jitter

    for row in uniforms(0, range(40), 9):
        ours = image.clone()
        _jitter(ours.numpy(), 0.4, row.tolist())
        wanted = image
        for k in _ORDERS[int(row[8] * 6)]:
            wanted = changes[k](wanted, 0.6 + row[5 + k] * 0.8)
        assert same(ours, wanted)


def test_what_is_cut_out_is_grey() -> None:
    black = np.zeros((3, 20, 20), np.uint8)
    batch = augment_batch([black] * 3000, LabelAugment(cutout=6), 0, 0, range(3000), 20)
    grey = torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
    assert ((batch == grey) | (batch == 0)).all()
    areas = (batch == grey).all(1).sum((1, 2))
    assert areas.max() == 36
    assert areas.min() == 9
    assert (batch == grey).all(1).any(0).all()  # every place, sooner or later


@pytest.mark.parametrize("a", EVERY)
def test_a_batch_is_its_images_one_by_one(data: LabelSet, mixed: LabelSet, a: LabelAugment) -> None:
    for some in (data, mixed):
        for size in (24, 16, (20, 32)):
            images = [some.pixels(i) for i in range(len(some))]
            batch = augment_batch(images, a, 5, 2, range(40, 40 + len(some)), size)
            assert batch.dtype == torch.uint8
            for i, one in enumerate(batch):
                assert same(one, augment(some.image(i), a, (5, 2, 40 + i), size))
    before = data.image(0)
    augment(before, a, (0, 0, 0), 24)
    assert same(before, data.image(0))


@pytest.mark.parametrize("size", [8, 16, 24, 32])
@pytest.mark.parametrize("shape", [(24, 24), (30, 50), (61, 40), (9, 11), (24, 31), (8, 16), (4, 64)])
def test_evaluation_shows_what_torchvision_does(shape: tuple[int, int], size: int) -> None:
    image = torch.from_numpy(noise(3, *shape))
    found = torch.from_numpy(fit(image.numpy(), size).copy())
    edge = size if max(shape) <= size else round(size / 0.875)
    usual = v2.Compose([v2.Resize(edge, antialias=True), v2.CenterCrop(size)])
    assert same(found, image if shape == (size, size) else usual(image))


def test_evaluation_of_oblong_inputs() -> None:
    for shape in ((30, 50), (50, 30), (7, 90), (20, 32)):
        assert fit(noise(3, *shape), (20, 32)).shape == (3, 20, 32)
    assert fit(noise(3, 40, 64), (20, 32), 1.0).shape == (3, 20, 32)


def test_senseless_augmentation_is_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"flip": 1.1},
        {"crop": "resize"},
        {"padding": -1},
        {"scale": (0.5, 0.1)},
        {"scale": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"color_jitter": -0.1},
        {"cutout": -1},
    ]
    for given in wrong:
        with pytest.raises(UsageError, match=f"augment: {next(iter(given))} must be"):
            LabelAugment(**given)


# ---- batches ----


def test_the_loader_shows_what_batch_ids_says(data: LabelSet) -> None:
    for step, images, labels, indices in train(data, None):
        assert indices.tolist() == batch_ids(N, [1.0] * N, 4, 3, step)
        assert images.dtype == torch.uint8
        assert labels.dtype == indices.dtype == torch.int64
        assert same(images, torch.stack([data.image(i) for i in indices.tolist()]))
        assert labels.tolist() == data.labels[indices].tolist()
    for step, images, _, indices in train(data):
        epoch = step // 4
        assert same(images, torch.stack([augment(data.image(i), ALL, (3, epoch, i), 24) for i in indices.tolist()]))


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_a_resumed_run_is_an_unbroken_one_with_any_number_of_workers(data: LabelSet, cache_mb: int) -> None:
    def size(step: int) -> int:
        return (24, 16, 32)[step % 3]

    whole = train(data, size=size, cache_mb=cache_mb)
    assert [step for step, _, _, _ in whole] == list(range(10))
    assert [images.shape[-1] for _, images, _, _ in whole] == [size(step) for step in range(10)]
    assert same(train(data, ALL, 4, 3, 6, size=size), whole[6:])
    assert same(train(data, ALL, 4, 3, 0, 10, 2, size=size, cache_mb=cache_mb), whole)
    assert same(train(data, ALL, 4, 3, 7, 10, 1, size=size), whole[7:])
    assert not same(train(data, ALL, 4, 4, 0, 1, size=size), whole[:1])
    assert same(train(in_memory(data, 1), size=size), whole)
    assert train(data, ALL, 4, 3, 10) == []


def test_two_ranks_see_what_one_does(data: LabelSet) -> None:
    whole = train(data, ALL, 6)
    parts = [train(data, ALL, 3, rank=rank, world=2) for rank in range(2)]
    for both, first, second in zip(whole, *parts, strict=True):
        assert all(same(both[k], torch.cat([first[k], second[k]])) for k in (1, 2, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_touched(data: LabelSet, workers: int) -> None:
    def states() -> list[Any]:
        numpys: Any = np.random.get_state()  # noqa: NPY002
        return [torch.get_rng_state().tolist(), random.getstate(), numpys[1].tolist(), numpys[2:]]

    before = states()
    for a in (EVERY[4], EVERY[5], ALL):
        train(data, a, 4, 3, 0, 2, workers)
    list(eval_batches(data, 4, 16, workers=workers))
    assert states() == before


def test_leaving_early_leaves_no_worker(data: LabelSet) -> None:
    batches = train_loader(data, None, 2, 3, 0, 1000, 2, size=24)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_through_the_set_in_order(data: LabelSet, workers: int) -> None:
    found = list(eval_batches(data, 5, 24, workers=workers))
    assert [len(images) for images, _ in found] == [5, 5, 3]
    assert torch.cat([labels for _, labels in found]).tolist() == data.labels.tolist()
    assert same(torch.cat([images for images, _ in found]), torch.stack([data.image(i) for i in range(N)]))
    some = list(eval_batches(data, 2, 16, [7, 3, 7], workers=workers, cache_mb=1))
    assert same(
        torch.cat([x for x, _ in some]), torch.stack([torch.from_numpy(fit(data.pixels(i), 16)) for i in (7, 3, 7)])
    )


def test_images_are_kept_where_all_fit(data: LabelSet, mixed: LabelSet) -> None:
    kept = in_memory(data, 1)
    assert isinstance(kept.store, Arrays)
    assert all(same(kept.image(i), data.image(i)) for i in range(N))
    assert (kept.digest, kept.names) == (data.digest, data.names)
    few = 3 * 24 * 24 * N / 1e6
    assert isinstance(in_memory(data, few).store, Arrays)
    assert in_memory(data, few - 1e-5) is data
    assert in_memory(mixed, 1) is mixed  # of different sizes
    pictures = Pictures(data, 1)
    pictures.warm()
    assert pictures.kept is not None
    sent = pickle.loads(pickle.dumps(pictures))
    assert sent.kept is None
    assert all(np.array_equal(sent.pixels(i), pictures.pixels(i)) for i in range(N))
    assert same(train(mixed, ALL, 2, cache_mb=1), train(mixed, ALL, 2))


# ---- images that can't be used ----


@pytest.fixture
def damaged(tmp_path: Path) -> LabelSet:
    """Four images, of which the second is no image and the third is gone."""
    for i in range(4):
        (tmp_path / f"class {i}").mkdir()
        Image.fromarray(noise(8, 8, 3, seed=i)).save(tmp_path / f"class {i}" / "x.png")
    data = open_labelled(tmp_path)
    (tmp_path / "class 1" / "x.png").write_bytes(b"no image")
    (tmp_path / "class 2" / "x.png").unlink()
    return data


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_mb", [0, 1])
def test_bad_images_are_replaced_and_counted_in_training(
    damaged: LabelSet, caplog: pytest.LogCaptureFixture, workers: int, cache_mb: int
) -> None:
    skipped: Counter[str] = Counter()
    with caplog.at_level(logging.WARNING):
        found = train(damaged, ALL, 2, 3, 0, 6, workers, size=8, skipped=skipped, cache_mb=cache_mb)
    for _, _, labels, indices in found:
        assert set(indices.tolist()) <= {0, 3}
        assert labels.tolist() == indices.tolist()
    assert sum(n for message, n in skipped.items() if "class 1" in message) == 3  # once per epoch
    assert sum(n for message, n in skipped.items() if "class 2" in message) == 6  # it is next to the other one
    assert len(caplog.records) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_listed_in_evaluation(damaged: LabelSet, workers: int) -> None:
    with pytest.raises(UsageError, match=r"2 images can't be used(.|\n)*class 1(.|\n)*class 2") as e:
        list(eval_batches(damaged, 1, 8, workers=workers))
    assert "Traceback" not in e.value.message
    assert len(list(eval_batches(damaged, 1, 8, [0, 3], workers=workers))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_training_without_any_usable_image(damaged: LabelSet, workers: int) -> None:
    with pytest.raises(UsageError, match=r"^2 images can't be used"):
        train(subset(damaged, [1, 2]), ALL, 1, 0, 0, 1, workers)


def test_senseless_numbers_are_refused_at_once(data: LabelSet) -> None:
    for wrong in ({"batch_size": 0}, {"rank": 2}, {"workers": -1}, {"start": -1}):
        good = {"batch_size": 1, "seed": 0, "start": 0, "steps": 1, "workers": 0, "rank": 0, "world": 2, "size": 8}
        with pytest.raises(UsageError, match="must hold"):
            train_loader(data, None, **(good | wrong))
    for size in (0, (8, -1), (8, 8, 8)):
        with pytest.raises(UsageError, match="size must be an edge"):
            train_loader(data, None, 1, 0, 0, 1, size=size)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must hold"):
        eval_batches(data, 0, 8)


def test_real_cifar_is_the_same_from_files_and_from_memory(data_dir: Path) -> None:
    data = open_labelled(f"{data_dir}/cifar10/cifar10_jpeg.npz#test", per_class=20)
    a = LabelAugment(crop="pad", cutout=8)
    assert same(train(data, a, 64, size=32), train(in_memory(data, 1), a, 64, size=32))
