"""A data set divided into train, val and test, so that each class is shared out as all images are.

The method is iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011, https://doi.org/10.1007/
978-3-642-23808-6_10) over the boxes of each class, within the images that each split is to have. What must not be told
apart, such as the frames of one video, or the same image twice, is in one split. Beyond the paper, a class that is in
enough groups is in every split, and at last groups of one size are swapped where that brings two splits nearer to their
shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from searchkit.errors import UsageError
from searchkit.nas.data.formats.neutral import SPLITS, DataImage, DataSet, Split, ordered
from searchkit.nas.data.report import DataReport
from searchkit.nas.data.sets.doubles import doubles
from searchkit.seeds import rng_of

_EXACT = 1e-9
_SWAPPED = 2000  # units that are tried for a swap, and with which: of more, shares are near without


@dataclass(frozen=True)
class Divided:
    """A set with new splits, and how its images were held together."""

    data: DataSet
    groups: int  # what was shared out
    matched: int  # images whose names the pattern matched
    doubled: int  # images that are the same as another one
    missing: int  # images whose files are missing, left out


def divide(
    data: DataSet,
    portion: Sequence[float],
    seed: int = 0,
    *,
    group: str | None = None,
    of: Sequence[str] = (),
) -> Divided:
    """Divide the images of a set; the same images, portion and seed give the same splits, whatever order and format
    they were in.

    portion: of train, val and test; they are 1 in all, and val and test may be 0. group: a regular expression, searched
    for in an image's path below the set (with /): images for which it finds the same (its groups, or without any all
    that it matches) are in one split. of: the splits whose images are divided (default: all); others stay as they are.

    Raises UsageError for a portion that is none, a pattern that is none or matches nothing, an unknown split, and a
    split that would be there twice.
    """
    _check(data, portion, of)
    sources = [split for split in data.splits if split in of or not of]
    images = [(i, data.splits[split].folder) for split in sources for i in data.splits[split].images if i.exists]
    images.sort(key=lambda item: (item[0].name, item[0].path))
    names = [item[0].path.removeprefix(f"{item[1]}/") for item in images]
    matched = _matches(names, group) if group else {}
    same = doubles([image.path for image, _ in images])
    units = _units(len(images), [*matched.values(), *same])
    only = [image for image, _ in images]
    places = _shared_out(_counts(only, units, data.classes), [len(unit) for unit in units], portion, seed)
    splits = {split: part for split, part in data.splits.items() if split not in sources}
    for k, name in enumerate(SPLITS):
        rows = sorted(i for unit, place in zip(units, places, strict=True) if place == k for i in unit)
        if rows:
            splits[name] = _split(data, name, [only[i] for i in rows])
    new = replace(data, splits={name: splits[name] for name in ordered(list(splits))}, notes=())
    missing = sum(len(data.splits[split].images) for split in sources) - len(images)
    return Divided(new, len(units), sum(map(len, matched.values())), sum(map(len, same)), missing)


def _check(data: DataSet, portion: Sequence[float], of: Sequence[str]) -> None:
    text = " ".join(f"{share:g}" for share in portion)
    if len(portion) != 3 or min(portion) < 0 or not portion[0] or abs(sum(portion) - 1) > 1e-6:
        raise UsageError(f"the portions of train, val and test must be 1 in all, and train's above 0; got {text}")
    unknown = [name for name in of if name not in data.splits]
    if unknown:
        raise UsageError(f"there is no split {', '.join(unknown)} to divide; there are {', '.join(data.splits)}")
    kept = [name for name, share in zip(SPLITS, portion, strict=True) if share and of and name in data.splits]
    twice = [name for name in kept if name not in of]
    if twice:
        raise UsageError(
            f"there is a split {' and '.join(twice)} already, which stays as it is",
            f"Divide it with the others (--of {twice[0]}), or give it the portion 0",
        )


def _split(data: DataSet, name: str, images: Sequence[DataImage]) -> Split:
    first = next(iter(data.splits.values()))
    return Split(tuple(images), data.root, first.folder, DataReport(f"{data.root}: {len(images):,} images of {name}"))


# ---- groups ----


def _matches(names: Sequence[str], pattern: str) -> Mapping[tuple[str | None, ...], list[int]]:
    """What a pattern finds in names -> the numbers of those in which it does."""
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise UsageError(f"--group {pattern!r} is no regular expression: {e}") from e
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for i, name in enumerate(names):
        if match := compiled.search(name):
            groups.setdefault(match.groups() or (match[0],), []).append(i)
    if not groups:
        raise UsageError(f"--group {pattern!r} matches no image", f"They are named like {names[0]}")
    return groups


def _units(n: int, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """The numbers 0 .. n - 1 in as many lists as there are when all of a group are in one."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for group in groups:
        for i in group[1:]:
            parent[root(i)] = root(group[0])
    units: dict[int, list[int]] = {}
    for i in range(n):
        units.setdefault(root(i), []).append(i)
    return list(units.values())


# ---- sharing out ----


def _counts(images: Sequence[DataImage], units: Sequence[Sequence[int]], classes: Sequence[str]) -> np.ndarray:
    """(units, classes + 1) float64: boxes of each class in each unit (images, of a classifier's set), by its name; the
    last column has the images without any."""
    column = np.argsort(np.argsort(classes, kind="stable"), kind="stable")  # of each class, whatever order it is in
    counts = np.zeros((len(units), len(classes) + 1))
    for row, unit in zip(counts, units, strict=True):
        for i in unit:
            labels = images[i].labels
            np.add.at(row, column[labels] if len(labels) else [len(classes)], 1)
    return counts


def _shared_out(counts: np.ndarray, sizes: Sequence[int], portion: Sequence[float], seed: int) -> np.ndarray:
    """(units,) int64: the split of each unit, by its number in `portion`."""
    shares = np.asarray(portion, np.float64)
    wanted = shares[:, None] * counts.sum(0)  # (splits, classes): boxes that each split still lacks
    room = shares * float(np.sum(sizes))  # images, likewise
    used = np.flatnonzero(shares > 0)
    has = np.zeros(wanted.shape, bool)  # whether a split has a class
    left = (counts > 0).sum(0)  # units with each class that are in no split yet
    places = np.full(len(counts), -1)
    order = rng_of(seed, "divide").sample(range(len(counts)), len(counts))
    order.sort(key=lambda unit: -sizes[unit])  # large groups first, while there is room; stable: else at random
    while (places < 0).any():
        rarest = int(np.where(left > 0, left, np.iinfo(left.dtype).max).argmin())
        for unit in [unit for unit in order if places[unit] < 0 and counts[unit, rarest]]:
            lacking = used[~has[used, rarest]]
            choice = lacking if len(lacking) and left[rarest] <= len(lacking) else used
            roomy = choice[room[choice] >= sizes[unit] / 2]
            choice = roomy if len(roomy) else choice
            best = choice[wanted[choice, rarest] >= wanted[choice, rarest].max() - _EXACT]
            place = int(best[room[best].argmax()])
            places[unit] = place
            wanted[place] -= counts[unit]
            room[place] -= sizes[unit]
            has[place] |= counts[unit] > 0
            left -= counts[unit] > 0
    return _swapped(places, counts, np.asarray(sizes), shares)


def _swapped(places: np.ndarray, counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The splits after swaps of units of one size that bring each split nearer to its share of every class, measured
    by the squares of what is lacking, relative to the share; no split loses a class by that."""
    wanted = shares[:, None] * counts.sum(0)
    weight = 1 / np.maximum(wanted, 1)
    got = np.stack([counts[places == place].sum(0) for place in range(len(shares))])
    for a in np.flatnonzero(shares > 0):
        for unit in range(min(len(counts), _SWAPPED)):
            if places[unit] == a:
                continue
            b = places[unit]
            others = np.flatnonzero((places == a) & (sizes == sizes[unit]))[:_SWAPPED]
            if not len(others):
                continue
            moved = counts[unit] - counts[others]  # (others, classes): what comes to a, and goes from b
            after_a, after_b = got[a] + moved, got[b] - moved
            keeps = ((after_a > 0) >= (got[a] > 0)).all(1) & ((after_b > 0) >= (got[b] > 0)).all(1)
            far = _far(after_a, wanted[a], weight[a]) + _far(after_b, wanted[b], weight[b])
            far[~keeps] = np.inf
            best = int(far.argmin())
            if far[best] < _far(got[a], wanted[a], weight[a]) + _far(got[b], wanted[b], weight[b]) - _EXACT:
                places[unit], places[others[best]] = a, b
                got[a], got[b] = after_a[best], after_b[best]
    return places


def _far(got: np.ndarray, wanted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray(((got - wanted) ** 2 * weight).sum(-1))
