"""Boxes stay on what they hold, and every change is a function of its seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from searchkit.errors import UsageError
from searchkit.nas.data import box_augment as augmentation
from searchkit.nas.data.augment import Augment


def painted(height: int, width: int, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A black image with one box in each quarter, which is filled with 60 x its label."""
    rng = np.random.default_rng(seed)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    rows = []
    for label, (top, left) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), 1):
        h, w = rng.integers(8, height // 2 - 8), rng.integers(8, width // 2 - 8)
        y = top * height // 2 + rng.integers(2, height // 2 - h - 2)
        x = left * width // 2 + rng.integers(2, width // 2 - w - 2)
        image[:, y : y + h, x : x + w] = 60 * label
        rows.append([x, y, x + w, y + h])
    target = {
        "boxes": torch.tensor(rows, dtype=torch.float32),
        "labels": torch.arange(1, 5),
        "iscrowd": torch.arange(4),
        "area": torch.ones(4),
        "image_id": torch.tensor(3),
    }
    return image, target


def test_no_change_is_no_change() -> None:
    image, target = painted(60, 90, 0)
    after, changed = augmentation.apply(Augment(hflip=0), image, target, 1)
    assert torch.equal(after, image)
    assert {key: value.tolist() for key, value in changed.items() if key != "area"} == {
        key: value.tolist() for key, value in target.items() if key != "area"
    }


@pytest.mark.parametrize(
    ("flip", "axis"), [(Augment(hflip=1), 2), (Augment(hflip=0, vflip=1), 1)], ids=["hflip", "vflip"]
)
def test_flipping_twice_gives_the_same(flip: Augment, axis: int) -> None:
    image, target = painted(60, 90, 0)
    once, turned = augmentation.apply(flip, image, target, 1)
    assert np.array_equal(once.numpy(), np.flip(image.numpy(), axis))
    twice, back = augmentation.apply(flip, once, turned, 2)
    assert torch.equal(twice, image)
    assert torch.equal(back["boxes"], target["boxes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment",
    [
        Augment(scale=(0.3, 0.9), fill=(0, 0, 0)),
        Augment(scale=(1.0, 3.0), fill=(0, 0, 0)),
        Augment(crop=1.0, vflip=1),
        Augment(crop=0.5, scale=(0.5, 2.0), fill=(0, 0, 0), min_box=4),
        Augment(expand=1.0, fill=(0, 0, 0)),
        Augment(expand=1.0, expand_most=1.5, fill=(0, 0, 0)),
        Augment(crop=1.0, crop_ious=(0.4, 0.9, 1.0)),
    ],
)
def test_boxes_stay_on_what_they_hold(augment: Augment) -> None:
    """A box of the result surrounds what is left of its paint, and its paint is that of its label."""
    errors: list[float] = []  # px
    dropped = 0
    for seed in range(60):
        image, target = painted(120, 160, seed)
        after, changed = augmentation.apply(augment, image, target, seed)
        height, width = after.shape[-2:]
        if augment.expand:
            assert 120 <= height <= 120 * augment.expand_most and abs(width / height - 160 / 120) < 0.02
        elif not augment.crop:
            assert (height, width) == (120, 160)
        assert len({len(changed[key]) for key in ("boxes", "labels", "iscrowd", "area")}) == 1
        assert torch.equal(changed["iscrowd"], changed["labels"] - 1)
        for (x0, y0, x1, y1), label in zip(changed["boxes"].tolist(), changed["labels"].tolist(), strict=True):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert min(x1 - x0, y1 - y0) >= augment.min_box
            if min(x1 - x0, y1 - y0) < 6:
                continue  # blurred all over
            rows, cols = np.nonzero(abs(after[0].numpy().astype(int) - 60 * label) <= 12)
            near = (rows >= y0 - 3) & (rows < y1 + 3) & (cols >= x0 - 3) & (cols < x1 + 3)
            paint = [cols[near].min(), rows[near].min(), cols[near].max() + 1, rows[near].max() + 1]
            errors.append(float(np.abs(np.array([x0, y0, x1, y1]) - paint).max()))
        dropped += 4 - len(changed["boxes"])
    assert len(errors) > 50
    # Edges are blurred by scaling, and the blur between two boxes may look like the paint of a third.
    assert np.quantile(errors, 0.97) <= (0 if augment.scale is None else 2)
    if augment.crop or augment.scale == (1.0, 3.0):
        assert dropped > 10


def test_augmentation_depends_on_its_seed_alone() -> None:
    augment = Augment(0.5, (0.5, 2.0), 0.5, 0.3, 0.3, 0.3, 0.1)
    image, target = painted(60, 90, 0)

    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        after, changed = augmentation.apply(augment, image.clone(), target, seed)
        return after, changed["boxes"]

    first = [run(seed) for seed in range(8)]
    torch.rand(5)
    state = torch.get_rng_state()
    again = [run(seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, again, strict=True))
    assert len({after.numpy().tobytes() for after, _ in first}) == 8


def test_augmentation_without_boxes() -> None:
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    target = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "iscrowd": torch.zeros(0, dtype=torch.int64),
        "area": torch.zeros(0),
        "image_id": torch.tensor(1),
    }
    after, changed = augmentation.apply(Augment(crop=1.0, scale=(0.5, 2.0)), image, target, 0)
    assert after.shape == image.shape
    assert changed["boxes"].shape == (0, 4)


def test_senseless_augmentation_is_refused() -> None:
    with pytest.raises(UsageError) as e:
        Augment(hflip=1.5, scale=(2.0, 1.0), hue=0.7, min_box=0)
    assert [word in e.value.message for word in ("hflip", "scale", "hue", "min_box", "crop")] == [True] * 4 + [False]
