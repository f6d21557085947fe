"""Images that are there more than once: files of the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

_CHUNK = 1 << 20
_THREADS = 8  # that read files: on network drives most of the time is waiting


def doubles(paths: Sequence[str]) -> list[list[int]]:
    """The numbers of the files that have the same bytes, a list for each of those that are there twice or more.

    Files that aren't there are in none. Only files of one size are read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(_size, paths)
        alike = [i for group in _groups(sizes) for i in group]
        digests = pool.map(_digest, (paths[i] for i in alike))
        return [[alike[i] for i in group] for group in _groups(digests)]


def _groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """The numbers of equal keys, where there are several; None is equal to nothing."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _digest(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            sha = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
            return sha.digest()
    except OSError:
        return None
