"""Toy sets are functions of their arguments, without faults, and made of what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from searchkit.errors import UsageError
from searchkit.nas.data import toy
from searchkit.nas.data.coco import load_coco
from searchkit.nas.data.images import decode, unreadable

MAKERS = [toy.make_toy_det, toy.make_digits_det]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", MAKERS)
def test_a_toy_set_is_a_function_of_its_arguments(tmp_path: Path, make: Any) -> None:
    images = {"train": 6, "val": 3}
    a, b, c = (tmp_path / name for name in "abc")
    assert make(str(a), images=images, size=(64, 80), seed=1) == str(a)
    b.mkdir()  # empty: may be used
    make(str(b), images=images, size=(64, 80), seed=1)
    make(str(c), images=images, size=(64, 80), seed=2)
    assert content(a) == content(b)
    assert set(content(a)) == set(content(c))
    assert not set(content(a).values()) & set(content(c).values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    for split, n in images.items():
        data = load_coco(str(a / "annotations" / f"instances_{split}.json"), str(a / "images"))
        assert len(data.images) == n
        assert {(image.width, image.height) for image in data.images} == {(80, 64)}
        assert all(len(image.boxes) for image in data.images)
        assert len(data.report.lines) == 1
        assert not unreadable(data)


@pytest.mark.parametrize("make", MAKERS)
def test_a_toy_set_that_is_there_is_kept_and_nothing_else_overwritten(tmp_path: Path, make: Any) -> None:
    out = str(tmp_path / "set")
    make(out, images={"train": 2})
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}
    make(out, images={"train": 2})
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")} == before
    with pytest.raises(UsageError, match="something else"):
        make(out, images={"train": 3})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="something else"):
        make(str(tmp_path / "mine"), images={"train": 2})
    for wrong in ({}, {"train": 0}):
        with pytest.raises(UsageError, match="at least one image"):
            make(out, images=wrong)


def test_no_scan_is_in_two_splits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    toy.make_digits_det(str(tmp_path / "set"), images={"train": 60, "val": 30, "test": 30})
    digits = load_digits().target
    seen: dict[int, str] = {}
    for path in (tmp_path / "set" / "annotations").iterdir():
        raw = json.loads(path.read_text())
        assert raw["annotations"]
        for annotation in raw["annotations"]:
            assert digits[annotation["scan"]] == annotation["category_id"] - 1
            assert seen.setdefault(annotation["scan"], path.name) == path.name
    assert len(seen) > 100


def test_boxes_of_toys_are_tight_and_hardly_overlap(tmp_path: Path) -> None:
    toy.make_toy_det(str(tmp_path / "set"), images={"train": 30})
    data = load_coco(str(tmp_path / "set" / "annotations" / "instances_train.json"), str(tmp_path / "set" / "images"))
    assert set(np.concatenate([image.labels for image in data.images])) == {1, 2, 3}
    for info in data.images:
        sizes = info.boxes[:, 2:] - info.boxes[:, :2]
        assert (sizes >= 10).all()
        for i, (x0, y0, x1, y1) in enumerate(info.boxes):
            for a0, b0, a1, b1 in info.boxes[:i]:
                shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
                assert shared <= 0.1 * min((x1 - x0) * (y1 - y0), (a1 - a0) * (b1 - b0)) + 1e-3
        if len(info.boxes) == 1:  # the edges of the box are where the picture changes
            x0, y0, x1, y1 = info.boxes[0].astype(int)
            pixels = decode(info.path, info.width, info.height).float()
            inside = pixels[:, y0:y1, x0:x1].mean((1, 2))
            outside = torch.cat([pixels[:, :, :x0].flatten(1), pixels[:, :, x1:].flatten(1)], 1).mean(1)
            assert (inside - outside).abs().max() > 20
