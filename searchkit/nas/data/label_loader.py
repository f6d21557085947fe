"""Batches of a labelled set: a pure function of (seed, step), as those of loader.py, whose order of images they share.

A batch is one tensor of one size. What changes an image is a function of (seed, epoch, index) alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.data.augment import LabelAugment
from searchkit.nas.data.images import unusable
from searchkit.nas.data.label_augment import CROP_RATIO, augment_batch, fit
from searchkit.nas.data.label_stores import Arrays
from searchkit.nas.data.labelled import LabelSet
from searchkit.nas.data.loader import epoch_batches, steps_per_epoch
from searchkit.nas.data.processes import quiet_loader, share, watched

Size = int | tuple[int, int]  # the edge of a square, or (height, width), in px
TrainBatches = Generator[tuple[int, Tensor, Tensor, Tensor], None, None]  # close() ends the workers early
EvalBatches = Generator[tuple[Tensor, Tensor], None, None]
_Key = tuple[int, int, tuple[int, int], list[int]]  # (step, epoch, size, indices) of a batch

log = logging.getLogger(__name__)


def train_loader(
    data: LabelSet,
    augment: LabelAugment | None,
    batch_size: int,
    seed: int,
    start: int,
    steps: int,
    workers: int = 0,
    *,
    size: Size | Callable[[int], Size],
    rank: int = 0,
    world: int = 1,
    cache_mb: float = 0,
    crop_ratio: float = CROP_RATIO,
    pin_memory: bool = False,
    skipped: Counter[str] | None = None,
) -> TrainBatches:
    """(step, images, labels, indices) of the steps start, ..., steps - 1 of one rank.

    images: (batch_size, 3, H, W) uint8; labels: (batch_size,) int64; indices: (batch_size,) int64, which images of the
    set these are. A step's batch depends on the set, `augment`, `batch_size`, `world`, `seed`, `step`, `size` and
    `rank` alone, not on `start` or `workers`. No global generator is touched.

    augment: None shows images as in evaluation (see `fit`, with `crop_ratio`).
    steps: where the run ends, counted from its beginning, however often it was resumed.
    workers: processes that make batches, each on one thread; 0: this process does, which is best where images are kept
    decoded.
    size: of the images, or a function that gives it for a step; called in this process, step by step.
    cache_mb: all images are kept decoded where they fit into so many MB (10^6 bytes), assuming that all have the size
    of the first; otherwise they are decoded each time. Workers share what was decoded before they start.
    skipped: counts the messages of images that can't be decoded; the next one of the set takes the place of such an
    image, and each is logged once, too.

    Raises UsageError where no image can be decoded, or for senseless numbers.
    """
    if batch_size < 1 or not 0 <= rank < world or workers < 0 or start < 0:
        arguments = f"batch_size {batch_size}, rank {rank}, world {world}, workers {workers}, start {start}"
        raise UsageError(f"batch_size >= 1, 0 <= rank < world, workers >= 0 and start >= 0 must hold; got {arguments}")
    if not callable(size):
        _checked(size)
    pictures = Pictures(data, cache_mb)
    if workers and start < steps:
        pictures.warm()
    batches = _Batches(pictures, augment, seed, crop_ratio, strict=False)
    plan = _Steps(len(data), batch_size, seed, range(start, steps), size, rank, world)
    pinned = pin_memory and torch.cuda.is_available()
    return _train(_loader(batches, plan, workers), Counter() if skipped is None else skipped, pinned)


def _train(loader: DataLoader, skipped: Counter[str], pinned: bool) -> TrainBatches:
    for step, images, labels, indices, faults in watched(loader):
        if images is None:
            raise faults[-1]
        for fault in faults:
            if fault.message not in skipped:
                log.warning("%s; the next image of the set takes its place", fault.message)
            skipped[fault.message] += 1
        yield step, images.pin_memory() if pinned else images, torch.as_tensor(labels), torch.as_tensor(indices)


def eval_batches(
    data: LabelSet,
    batch_size: int,
    size: Size,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    workers: int = 0,
    crop_ratio: float = CROP_RATIO,
    cache_mb: float = 0,
    pin_memory: bool = False,
) -> EvalBatches:
    """(images (n, 3, H, W) uint8, labels (n,) int64) of the images at `indices` in their order (None: of all); the last
    batch may be smaller. How images are shown: `fit`. Raises UsageError naming all images that can't be decoded, when
    it meets the first."""
    if batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size >= 1 and workers >= 0 must hold; got {batch_size} and {workers}")
    pair = _checked(size)
    chosen: list[int] = (np.arange(len(data)) if indices is None else np.asarray(indices)).tolist()
    pictures = Pictures(data, cache_mb)
    if workers:
        pictures.warm()
    plan: list[_Key] = [(i, 0, pair, chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size)]
    batches = _Batches(pictures, None, 0, crop_ratio, strict=True)
    return _evaluate(_loader(batches, plan, workers), data, chosen, pin_memory and torch.cuda.is_available())


def _evaluate(loader: DataLoader, data: LabelSet, chosen: list[int], pinned: bool) -> EvalBatches:
    for _, images, labels, _, faults in watched(loader):
        if faults:
            raise unusable(unreadable(data, chosen) or faults)
        yield images.pin_memory() if pinned else images, torch.as_tensor(labels)


def in_memory(data: LabelSet, cache_mb: float) -> LabelSet:
    """The same set with all its images decoded now, for going through it many times: where they are of one size,
    fit into cache_mb MB (10^6 bytes) and can all be decoded. Otherwise the set as it is."""
    pictures = Pictures(data, cache_mb)
    pictures.warm()
    if pictures.kept is None:
        return data
    store = Arrays(pictures.kept, data.source)
    return replace(data, store=store, rows=np.arange(len(data)))


def unreadable(data: LabelSet, indices: Sequence[int] | None = None) -> list[UsageError]:
    """Decodes the images at `indices` (None: all); returns the faults of those that can't be decoded."""
    faults = []
    for index in range(len(data)) if indices is None else indices:
        try:
            data.pixels(index)
        except UsageError as e:
            faults.append(e)
    return faults


class Pictures:
    """The decoded images of a set; kept, where all fit into cache_mb (see `train_loader`)."""

    def __init__(self, data: LabelSet, cache_mb: float) -> None:
        self.data = data
        self.room = cache_mb * 1e6
        self._kept: np.ndarray | None = None  # (N, 3, H, W); pages that were never written to cost nothing
        self._there = np.zeros(len(data), bool)
        self._judged = isinstance(data.store, Arrays)  # in memory anyway

    def __getstate__(self) -> dict[str, Any]:  # a spawned process decodes again: cheaper than sending it all
        return self.__dict__ | {"_kept": None, "_there": np.zeros(len(self.data), bool), "_judged": False}

    def pixels(self, index: int) -> np.ndarray:
        """(3, H, W) uint8, not to be written to. Raises UsageError where it can't be decoded."""
        if self._there[index] and self._kept is not None:
            return np.asarray(self._kept[index])
        image = self.data.pixels(index)
        if not self._judged:
            self._judged = True
            if image.size * len(self.data) <= self.room:
                self._kept = np.empty((len(self.data), *image.shape), np.uint8)
        if self._kept is not None and image.shape == self._kept.shape[1:]:
            self._kept[index] = image
            self._there[index] = True
        return image

    def load(self, index: int, strict: bool) -> tuple[np.ndarray | None, int, list[UsageError]]:
        """The image, its index, and the faults of earlier ones: unless strict, it is the first one from `index` on
        (cyclically) that can be decoded. None where none can; the last fault then covers all."""
        faults: list[UsageError] = []
        n = len(self.data)
        for at in range(index, index + (1 if strict else n)):
            try:
                return self.pixels(at % n), at % n, faults
            except UsageError as e:
                faults.append(e)
        return None, index, [unusable(faults)]

    @property
    def kept(self) -> np.ndarray | None:
        """(N, 3, H, W) uint8, once all images are kept."""
        return self._kept if self._there.all() else None

    def warm(self) -> None:
        """Decode now what is to be kept."""
        for index in range(len(self.data)):
            try:
                self.pixels(index)
            except UsageError:
                pass  # judged when it is asked for
            if self._judged and self._kept is None:
                return


class _Steps:
    """The key of every batch of one rank, step by step."""

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        steps: range,
        size: Size | Callable[[int], Size],
        rank: int,
        world: int,
    ) -> None:
        self.n, self.batch_size, self.seed, self.steps = n, batch_size, seed, steps
        self.size, self.rank, self.world = size, rank, world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[_Key]:
        length = steps_per_epoch(self.n, self.batch_size, self.world)
        current, plan = -1, np.empty(0)
        own_part = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for step in self.steps:
            epoch, at = divmod(step, length)
            if epoch != current:
                plan = epoch_batches(np.ones(self.n), self.batch_size * self.world, self.seed, epoch)
                current = epoch
            size = _checked(self.size(step) if callable(self.size) else self.size)
            yield step, epoch, size, plan[at, own_part].tolist()


class _Batches(Dataset):
    """(step, images, labels, indices, faults) for a key; images is None where one is missing."""

    def __init__(
        self, pictures: Pictures, augment: LabelAugment | None, seed: int, crop_ratio: float, strict: bool
    ) -> None:
        self.pictures, self.augment, self.seed = pictures, augment, seed
        self.crop_ratio, self.strict = crop_ratio, strict

    def __getitem__(self, key: _Key) -> tuple[int, Tensor | None, np.ndarray, np.ndarray, Sequence[SearchkitError]]:
        step, epoch, size, indices_asked = key
        images, shown, faults = [], [], []
        for index in indices_asked:
            image, at, load_faults = self.pictures.load(index, self.strict)
            faults += load_faults  # as values: raised in a worker, they would arrive wrapped in a traceback
            if image is None:
                return step, None, np.empty(0), np.empty(0), faults
            images.append(image)
            shown.append(at)
        if self.augment is None:
            batch = torch.from_numpy(np.stack([fit(image, size, self.crop_ratio) for image in images]))
        else:
            batch = augment_batch(images, self.augment, self.seed, epoch, indices_asked, size)
        no_room = share(batch)
        if no_room:
            return step, None, np.empty(0), np.empty(0), [no_room]
        indices = np.array(shown, np.int64)
        return step, batch, self.pictures.data.labels[indices], indices, faults


def _loader(batches: _Batches, plan: Any, workers: int) -> DataLoader:
    # A key is a whole batch.
    return quiet_loader(batches, workers, sampler=plan, batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


def _checked(size: Size) -> tuple[int, int]:
    """(height, width)."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise UsageError(f"size must be an edge or (height, width) of at least 1 px, got {size}")
    return pair[0], pair[1]
