"""What is shown of an image file: RGB of 8 bits a colour, upright, deep greys scaled by one rule for a whole set.

Deep greys are those of more than 8 bits: whole numbers of 16 and 32 bits, and floating-point numbers. `stored`,
`upright` and what they call are written into extracted models as they stand here: they need numpy and Pillow alone.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from searchkit.errors import UsageError

Exif = Literal["auto", "apply", "ignore"]
Range = tuple[float, float]

SIXTEEN: Range = (0, 65536)  # what deep greys are scaled from by default
BITS = (8, 10, 12, 14, 16)  # of sensors
LOOKED_AT = 20_000  # files of a set whose heads are looked at, evenly spaced
JUDGED = 1000  # deep images whose values tell the range of a set
UNDECODABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises on broken files
_HEAD = 4096  # bytes of a file that are read first
_THREADS = 8  # that look at files: on network drives most of the time is waiting


@dataclass(frozen=True)
class Reading:
    """How image files of a set are read.

    exif: whether the EXIF orientation is applied; auto: unless the annotations have the size of the stored pixels.
    range: [low, high) of deep greys, of which 256 equal steps are made; None: 16 bits.
    why: where the range is from, for people.
    """

    exif: Exif = "auto"
    range: Range | None = None
    why: str = "data.range"

    def text(self) -> str:
        """The range, for people."""
        return "16 bits" if self.range is None else f"[{self.range[0]:g}, {self.range[1]:g}] ({self.why})"


@dataclass(frozen=True)
class Header:
    """What the head of an image file says."""

    orientation: int = 1  # EXIF's, 1..8
    size: tuple[int, int] | None = None  # (width, height) as stored, px; None where it does not matter
    deep: bool = False

    @property
    def upright(self) -> tuple[int, int] | None:
        """(width, height) of the image as it is shown."""
        return self.size[::-1] if self.size and self.orientation > 4 else self.size


def both(a: Reading, b: Reading) -> Reading | None:
    """How the files of two sets are read, of which one may have no deep greys; None where they are read differently."""
    if a.exif != b.exif or (a.range and b.range and a.range != b.range):
        return None
    return a if a.range else b


def is_applied(reading: Reading, orientation: int, size: tuple[int, int], annotated: tuple[int, int] | None) -> bool:
    """Whether an image is turned upright. size: (width, height) as stored; annotated: that of the annotations, px, if
    they give it."""
    if reading.exif == "auto" and orientation > 4:
        return annotated != size or size[0] == size[1]
    return reading.exif != "ignore"


def broken(where: str, e: Exception) -> UsageError:
    """What to say of an image file that Pillow does not decode."""
    # Pillow names the object in memory, which differs each time; faults are counted by their text.
    reason = "it is no image that Pillow knows" if isinstance(e, UnidentifiedImageError) else e
    hint = "Replace it, or remove it from the set."
    if isinstance(e, Image.DecompressionBombError):
        hint = "Cut it into tiles, or shrink it: a file of that size may be made to fill the memory."
    return UsageError(f"cannot decode the image {where}: {reason}", hint)


# ---- of one image; all of this is written into extracted models ----


def stored(image: Image.Image, span: tuple[float, float] | None) -> tuple[np.ndarray, int]:
    """(pixels (H, W, 3) uint8, writable, as they are stored; EXIF orientation 1..8) of an open image.

    Grey is repeated, CMYK and palettes are converted, alpha is dropped, deep greys are scaled by `span` (see `scaled`).
    """
    turn = orientation_of(image) if image.format == "TIFF" else 1
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow's own conversion would cut at 255
        pixels = np.repeat(scaled(np.array(image), span)[:, :, None], 3, 2)
    elif image.mode in ("P", "PA") and "transparency" in image.info:
        pixels = np.array(image.convert("RGBA").convert("RGB"))
    else:
        pixels = np.array(image.convert("RGB"))
    if image.format == "TIFF":  # Pillow has turned it already, and forgotten that it did
        return upright(pixels, {6: 8, 8: 6}.get(turn, turn)), turn
    return pixels, orientation_of(image)  # only now: a PNG may say it behind its pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, 3) turned and mirrored as the EXIF orientation (1..8) says."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1..8; 1 where it has none, or none that can be read."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # whatever Pillow raises on broken EXIF data
        return 1
    return turn if turn in (1, 2, 3, 4, 5, 6, 7, 8) else 1


def scaled(grey: np.ndarray, span: tuple[float, float] | None) -> np.ndarray:
    """Numbers to uint8: which of the 256 equal steps between span's two ends each is in, the nearest where it is
    outside; numbers that are not finite are black. None: 16 bits."""
    if span is None and grey.dtype.kind == "f":
        raise ValueError("images of floating-point numbers have no known range: give data.range")
    low, high = span or (0, 65536)
    steps = (grey.astype(np.float64) - low) * (256 / (high - low))
    return np.nan_to_num(steps, nan=0, posinf=255, neginf=0).clip(0, 255).astype(np.uint8)


# ---- of many files ----


def spread(n: int, most: int) -> list[int]:
    """0 .. n - 1, or so many of them, evenly spaced."""
    chosen: list[int] = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)).tolist() if n else []
    return chosen


def headers(n: int, file: Callable[[int], str | bytes]) -> dict[int, Header]:
    """The heads of n image files, or of LOOKED_AT of them: file(i) is a path, or what the file holds."""
    chosen = spread(n, LOOKED_AT)
    parts = [chosen[i::_THREADS] for i in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        part_heads = pool.map(lambda part: [(i, header(file(i))) for i in part], parts)
        return dict(sorted(pair for part in part_heads for pair in part))


def header(file: str | bytes) -> Header:
    """The head of one image file; an empty one where it can't be read: decoding it will say why. Most JPEGs have no
    EXIF data, which shows without Pillow in a fifth of the time."""
    try:
        if isinstance(file, bytes):
            return Header() if _is_plain_jpeg(file[:_HEAD]) else _header(io.BytesIO(file))
        with open(file, "rb", buffering=_HEAD) as opened:
            if _is_plain_jpeg(opened.read(_HEAD)):
                return Header()
            opened.seek(0)
            return _header(opened)
    except UNDECODABLE:
        return Header()


def _header(file: IO[bytes]) -> Header:
    with Image.open(file) as image:
        if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode it whole to look behind it
            image.info["exif"] = _exif_behind(file)
        turn = orientation_of(image)
        deep = image.mode == "F" or image.mode.startswith("I")
        width, height = image.size
        if image.format == "TIFF" and turn > 4:  # Pillow says what it will have turned it to
            width, height = height, width
        return Header(turn, (width, height), deep)


def _exif_behind(file: IO[bytes]) -> bytes:
    """The EXIF data that a PNG has behind its pixels, in its last bytes; empty where these have none."""
    file.seek(max(0, file.seek(0, io.SEEK_END) - _HEAD))
    tail = file.read(_HEAD)
    at = tail.find(b"eXIf")
    while at >= 4:
        if _ends_png(tail, at - 4):
            return tail[at + 4 : at + 4 + int.from_bytes(tail[at - 4 : at], "big")]
        at = tail.find(b"eXIf", at + 1)
    return b""


def _ends_png(tail: bytes, at: int) -> bool:
    """Whether chunks follow one another from here to the last one of a PNG."""
    while at + 12 <= len(tail):
        if tail[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + int.from_bytes(tail[at : at + 4], "big")
    return False


def _is_plain_jpeg(head: bytes) -> bool:
    """Whether this is the head of a JPEG without EXIF or XMP data: all segments up to its first table are in it."""
    if head[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in (0xDB, 0xC0, 0xC2, 0xC4, 0xDA):  # tables, frames: applications come before them
            return True
        if marker == 0xE1:
            return False
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return False


def range_of(n: int, values: Callable[[int], np.ndarray]) -> tuple[Range, str]:
    """(range, why) of n deep greys, from the values of up to JUDGED of them, evenly spaced; values(i): of one of them.

    Whole numbers that are not negative: the bits of a sensor (8, 10, 12, 14, 16) that hold the highest one. Numbers
    within 0..1: those. Others: from the lowest to the highest one.
    """
    chosen = spread(n, JUDGED)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        ends = [pair for pair in pool.map(lambda i: _ends(values, i), chosen) if pair is not None]
    if not ends:
        return SIXTEEN, "none of them can be read"
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    of = f"values {low:g} to {high:g}" + (f" in {len(chosen)} of them" if len(chosen) < n else "")
    if low >= 0 and all(whole for _, _, whole in ends) and high < 1 << BITS[-1]:
        bits = next(b for b in BITS if high < 1 << b)
        return (0, 1 << bits), f"{bits} bits: {of}"
    if low >= 0 and high <= 1:
        return (0, 1), of
    return (low, high if high > low else low + 1), of


def _ends(values: Callable[[int], np.ndarray], i: int) -> tuple[float, float, bool] | None:
    """(lowest, highest, whether they are whole numbers) of the finite values of an image; None where it has none."""
    try:
        grey = values(i)
    except UNDECODABLE:
        return None
    finite = grey[np.isfinite(grey)] if grey.dtype.kind == "f" else grey
    return (float(finite.min()), float(finite.max()), grey.dtype.kind != "f") if finite.size else None


def values_of(file: str | bytes) -> np.ndarray:
    """The values of a deep grey image, (H, W)."""
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return np.array(image)
