"""The faults of a data set: every kind once, with its count and one example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

HUGE = 2 * 89_478_485  # px; Pillow's limit against files that would decode to fill the memory

# kind -> what its line of the report says; the order is the order of the report.
FAULTS = {
    "moved": "images found elsewhere below the folder of images, by their names (used)",
    "ambiguous": "missing images that several files may be, or a file that several images may be (left missing)",
    "missing": "missing image files (replaced by other images in training, an error in evaluation)",
    "huge": f"images of more than {HUGE / 1e6:.0f} megapixels (Pillow decodes none that large: cut them into tiles)",
    "turned": "images that are stored turned or mirrored (shown upright, by their EXIF orientation; see data.exif)",
    "as_stored": "images with an EXIF orientation, but annotations of the size of the stored pixels (not turned)",
    "not_turned": "images with an EXIF orientation (not turned: data.exif is ignore)",
    "unreadable": "image files that can't be opened, so that their size is unknown (left out)",
    "deep": "images of grey deeper than 8 bits (scaled to 0..255)",
    "not_deep": "images without a grey deeper than 8 bits (data.range changes none of them)",
    "unsized": "images without width or height (read from the image file)",
    "duplicate_image": "images with the id of an earlier one (left out)",
    "unlabelled": "images without a file of labels (taken as images without boxes)",
    "unannotated": "images without a file of annotations (left out)",
    "unlisted": "images that are of no split (left out)",
    "no_image": "files of labels whose image is not there (left out)",
    "unnamed": "classes without a name (called by their numbers)",
    "duplicate_annotation": "annotations with the id of an earlier one (kept: ids are not used)",
    "duplicate_category": "categories with the id of an earlier one (left out)",
    "duplicate_name": "categories with the name of another one (told apart by their id)",
    "orphan": "annotations of images that the file does not list (left out)",
    "malformed": "boxes that are not four finite numbers (left out)",
    "from_mask": "annotations without a bbox, or with one of zeros (it is computed from their polygons or masks)",
    "from_polygon": "boxes around polygons or circles",
    "grouped": "shapes that belong to a group of their label (one box around each group)",
    "other_shape": "shapes that are no rectangle, polygon or circle (left out)",
    "difficult": "objects that are marked as difficult (kept as all others)",
    "flat": "boxes of zero or negative width or height (left out of training; truth that nobody finds, in evaluation)",
    "outside": "boxes outside of their image (left out of training, kept for evaluation)",
    "clipped": "boxes that reach beyond their image (clipped for training, kept as they are for evaluation)",
    "small": "boxes with a side below augment.min_box (left out of training unless enlarged; kept for evaluation)",
    "no_area": "boxes without a usable area (width x height is taken)",
    "crowd": "crowd regions (not trained on; evaluation neither rewards nor punishes detections there)",
    "unselected": "boxes of classes that were not selected (left out)",
    "empty": "images without a box (kept: they teach what background is)",
    "gaps": "category ids that are not used between the first and the last (fine: labels have no gaps)",
}


@dataclass(frozen=True)
class DataReport:
    """What was found in an annotation file: one line in all, then one line per kind of fault."""

    summary: str
    faults: tuple[tuple[str, int, str], ...] = ()  # (kind, how many, the line)

    def count(self, kind: str) -> int:
        """How many faults of a kind (`missing`, `flat`, `clipped`, `crowd`, `empty`, ...) were found."""
        return sum(n for name, n, _ in self.faults if name == kind)

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.summary, *(line for _, _, line in self.faults))


def other_classes(source: str, names: Sequence[str], set_names: Sequence[str]) -> list[tuple[str, int, str]]:
    """The faults of a set whose classes differ from the training set's: those that it lacks, and its others."""
    kinds = {
        "absent_class": ("without examples: they count in no score", [name for name in names if name not in set_names]),
        "unused_class": (
            "not of the training set, without examples",
            [name for name in set_names if name not in names],
        ),
    }
    faults = []
    for kind, (note, some) in kinds.items():
        verb = "lacks" if kind == "absent_class" else "has"
        shown = ", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "")
        faults.append((kind, len(some), f"classes that {source} {verb} ({note}): {len(some)}, {shown}"))
    return [fault for fault in faults if fault[1]]


class Faults:
    """How often each kind of fault was met, and the first example of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, kind: str, example: str, n: int = 1) -> None:
        if n:
            self.counts[kind] += n
            self.examples.setdefault(kind, example)

    def lines(self) -> tuple[tuple[str, int, str], ...]:
        return tuple(
            (kind, self.counts[kind], f"{meaning}: {self.counts[kind]}, e.g. {self.examples[kind]}")
            for kind, meaning in FAULTS.items()
            if self.counts[kind]
        )
