"""Where the images of a labelled set are held: in memory, packed as files in one array, or as files under a folder."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from searchkit.nas.data.pixels import UNDECODABLE, Reading, broken, stored, upright

AS_IS = Reading()


class Store(Protocol):
    """Images by their number in the source."""

    def read(self, index: int) -> np.ndarray:
        """(3, H, W) uint8; perhaps a view that must not be written to. Raises UsageError where it can't be decoded."""
        ...

    def where(self, index: int) -> str:
        """What people know the image by."""
        ...

    def file(self, index: int) -> str | bytes | None:
        """The image's file, its path or what it holds; None where pixels are in memory."""
        ...

    def read_as(self, reading: Reading) -> Store:
        """The same images, read in this way."""
        ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one size that are decoded already."""

    pixels: np.ndarray  # (N, 3, H, W) uint8; of grey images a view that repeats the one channel
    path: str

    def read(self, index: int) -> np.ndarray:
        return np.asarray(self.pixels[index])

    def where(self, index: int) -> str:
        return f"{self.path}: image {index}"

    def file(self, index: int) -> None:
        return None

    def read_as(self, reading: Reading) -> Arrays:
        return self


@dataclass(frozen=True, eq=False)
class Packed:
    """Image files, one after another in one array."""

    content: np.ndarray  # (bytes,) uint8
    offsets: np.ndarray  # (N + 1,) int64
    path: str
    reading: Reading = AS_IS

    def read(self, index: int) -> np.ndarray:
        return decode(io.BytesIO(self.file(index)), self.where(index), self.reading)

    def where(self, index: int) -> str:
        return f"{self.path}: image {index}"

    def file(self, index: int) -> bytes:
        return self.content[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def read_as(self, reading: Reading) -> Packed:
        return replace(self, reading=reading)


@dataclass(frozen=True, eq=False)
class Files:
    """Image files under a folder. Their names are one text: a million of them are 40 MB, and as objects of their own
    they would be copied, page by page, into every process that counts references to them."""

    root: str
    text: bytes  # all names relative to root, one after another
    offsets: np.ndarray  # (N + 1,) int64
    reading: Reading = AS_IS

    def read(self, index: int) -> np.ndarray:
        path = self.where(index)
        return decode(path, path, self.reading)

    def where(self, index: int) -> str:
        name = self.text[self.offsets[index] : self.offsets[index + 1]]
        return os.path.join(self.root, os.fsdecode(name))

    def file(self, index: int) -> str:
        return self.where(index)

    def read_as(self, reading: Reading) -> Files:
        return replace(self, reading=reading)


@dataclass(frozen=True, eq=False)
class Joined:
    """The first `n_first` numbers are those of one store, the others those of another."""

    first: Store
    second: Store
    n_first: int

    def read(self, index: int) -> np.ndarray:
        first = index < self.n_first
        return self.first.read(index) if first else self.second.read(index - self.n_first)

    def where(self, index: int) -> str:
        first = index < self.n_first
        return self.first.where(index) if first else self.second.where(index - self.n_first)

    def file(self, index: int) -> str | bytes | None:
        first = index < self.n_first
        return self.first.file(index) if first else self.second.file(index - self.n_first)

    def read_as(self, reading: Reading) -> Joined:
        return Joined(self.first.read_as(reading), self.second.read_as(reading), self.n_first)


def decode(file: str | io.BytesIO, where: str, reading: Reading = AS_IS) -> np.ndarray:
    """(3, H, W) uint8 RGB, contiguous, as `images.decode` does it, of whatever size the image is."""
    try:
        with Image.open(file) as image:
            pixels, turn = stored(image, reading.range)
            shown = pixels if turn == 1 or reading.exif == "ignore" else upright(pixels, turn)
            return np.ascontiguousarray(shown.transpose(2, 0, 1))
    except UNDECODABLE as e:
        raise broken(where, e) from e
