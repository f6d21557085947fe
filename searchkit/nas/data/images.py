"""Image files to uint8 tensors, and the torch data set of a `CocoSet`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from searchkit.errors import UsageError
from searchkit.nas.data.coco import CocoSet
from searchkit.nas.data.pixels import UNDECODABLE, Reading, broken, is_applied, stored, upright

AS_IS = Reading()
_LISTED = 10  # files named in one error


def decode(path: str, width: int, height: int, reading: Reading = AS_IS) -> Tensor:
    """The image as (3, H, W) uint8 RGB, contiguous; see pixels.py for what is shown of a file.

    width, height: its size by the annotations, px. Where the EXIF orientation swaps the sides, they tell whether
    boxes are on the upright image, or on the stored one, which is then not turned (unless `reading` says otherwise).

    Raises UsageError naming the file where it can't be decoded whole, or has another size than the annotations say.
    """
    try:
        with Image.open(path) as image:
            pixels, turn = stored(image, reading.range)
    except UNDECODABLE as e:
        raise broken(path, e) from e
    if turn != 1 and is_applied(reading, turn, pixels.shape[1::-1], (width, height)):
        pixels = upright(pixels, turn)
    if pixels.shape[:2] != (height, width):
        hint = "Boxes and image do not belong together."
        if turn != 1:
            hint += f" Its EXIF orientation is {turned_text(turn, reading)}"
        decoded_size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UsageError(f"the annotations say that {path} is {width} x {height}, but it is {decoded_size}", hint)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # which starts no threads


def turned_text(turn: int, reading: Reading) -> str:
    """What is done about an EXIF orientation with which an image does not fit its annotations."""
    if reading.exif == "auto":
        return f"{turn}; neither the stored nor the upright image has that size."
    done = "is applied" if reading.exif == "apply" else "is not applied"
    return f"{turn}, and {done}, as data.exif says: auto goes by the size in the annotations."


class DetectionData(Dataset):
    """(image, target) of every image of a set, in its order.

    image: (3, H, W) uint8 RGB. target: boxes (N, 4) float32 xyxy px, labels (N,) int64, area (N,) float32, iscrowd (N,)
    int64, image_id () int64.

    strict: an image that can't be decoded is an error; otherwise the next one of the set that can be takes its place.
    crowd: include crowd regions. A detector must not train on them as if they were objects.
    cache_mb: keep the first decoded images of the set up to this many MB (10^6 bytes). Each process fills its own
    cache as it goes; processes forked after `warm()` share one.
    """

    def __init__(self, data: CocoSet, *, strict: bool = True, crowd: bool = True, cache_mb: float = 0) -> None:
        self.data = data
        self.strict = strict
        self.crowd = crowd
        sizes = np.array([3 * image.width * image.height for image in data.images], np.int64)
        self.n_cached = int(np.searchsorted(np.cumsum(sizes), cache_mb * 1e6, side="right"))
        self._cache: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}  # a spawned process decodes again: cheaper than sending it all

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, target, _ = self.load(index)
        return image, target

    def load(self, index: int) -> tuple[Tensor, dict[str, Tensor], list[UsageError]]:
        """Image and target of `index`, or of the first one after it (cyclically) that can be decoded, and the faults
        of those that can't. Raises UsageError where none can, or at once if strict."""
        faults: list[UsageError] = []
        for step in range(len(self)):
            at = (index + step) % len(self)
            try:
                return self._image(at), self.target(at), faults
            except UsageError as e:
                faults.append(e)
                if self.strict:
                    break
        raise unusable(faults)

    def _image(self, index: int) -> Tensor:
        if index in self._cache:
            return self._cache[index].clone()  # the caller may write into it
        info = self.data.images[index]
        image = decode(info.path, info.width, info.height, self.data.reading)
        if index < self.n_cached:
            self._cache[index] = image.clone()
        return image

    def target(self, index: int) -> dict[str, Tensor]:
        info = self.data.images[index]
        rows = slice(None) if self.crowd else ~info.crowd
        return {
            "boxes": torch.from_numpy(info.boxes[rows].copy()),
            "labels": torch.from_numpy(info.labels[rows].copy()),
            "area": torch.from_numpy(info.area[rows].copy()),
            "iscrowd": torch.from_numpy(info.crowd[rows].astype(np.int64)),
            "image_id": torch.tensor(info.id),
        }

    def warm(self) -> None:
        """Decode now what the cache has room for."""
        for index in range(self.n_cached):
            try:
                self._image(index)
            except UsageError:
                pass  # judged when it is asked for


def unreadable(data: CocoSet) -> list[UsageError]:
    """Decodes every image of the set; returns the faults of those that can't be used."""
    faults = []
    for info in data.images:
        try:
            decode(info.path, info.width, info.height, data.reading)
        except UsageError as e:
            faults.append(e)
    return faults


def unusable(faults: list[UsageError]) -> UsageError:
    """All of them as one error."""
    if len(faults) == 1:
        return faults[0]
    lines = [fault.message for fault in faults[:_LISTED]]
    if len(faults) > _LISTED:
        lines.append(f"... and {len(faults) - _LISTED} more")
    return UsageError(f"{len(faults)} images can't be used:\n" + "\n".join(lines), faults[0].hint)
