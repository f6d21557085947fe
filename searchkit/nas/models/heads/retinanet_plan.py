"""The head of a RetinaNet as pieces: a tower for classes and one for boxes, on every level. Pure Python, no torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from searchkit.nas.models.part import LEVELS, Channels, Misfit, Piece, Pieces
from searchkit.nas.models.plan import CACHE, Layer, Plan, Row

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

SIZES = ("depth", "width", "kernel")
PER_LEVEL = ("per_level", "sync_bn")  # the norms of which each level has its own
NAMES = tuple(f"{tower}.{size}" for tower in ("cls", "box") for size in SIZES)


class Options(Protocol):
    """What this module reads of RetinaNetOptions (searchkit.nas.models.heads.retinanet)."""

    @property
    def depth(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def kernel(self) -> int: ...
    @property
    def norm(self) -> str: ...
    @property
    def norm_group(self) -> int: ...
    @property
    def anchors(self) -> int: ...


class Tower(NamedTuple):
    """One tower at one architecture."""

    depth: int  # convs before the last one
    width: int  # of these
    kernel: int  # of these; the last one has 3


def towers_of(options: Options, arch: Arch) -> tuple[Tower, Tower]:
    """The towers of classes and of boxes at an architecture (its names below `head.`). What it has no `box.` name for
    is as in the tower of classes. Raises UsageError for values of another form."""
    cls = _tower("cls", Tower(options.depth, options.width, options.kernel), options, arch)
    return cls, _tower("box", cls, options, arch)


def _tower(name: str, default: Tower, options: Options, arch: Arch) -> Tower:
    values = {size: arch.get(f"{name}.{size}", getattr(default, size)) for size in SIZES}
    for size, value in values.items():
        if not isinstance(value, int) or value < 1:
            keys = (f"space.head.{name}.{size}",)
            raise Misfit(f"head.{name}.{size} must be one integer of at least 1, but is {value}", keys=keys)
    if values["kernel"] % 2 == 0:
        of_either = (f"space.head.{name}.kernel", "space.head.cls.kernel")
        raise Misfit(f"head.{name}.kernel must be odd, but is {values['kernel']}", keys=of_either)
    if options.norm == "group" and values["width"] % options.norm_group:
        raise Misfit(
            f"head.{name}.width must be a multiple of head_options.norm_group, {options.norm_group}, but is "
            f"{values['width']}",
            keys=(f"space.head.{name}.width", "space.head.cls.width", "model.head_options.norm_group"),
        )
    return Tower(**values)


def head_pieces(options: Options, towers: tuple[Tower, Tower], num_classes: int, levels: Channels) -> Pieces:
    """The two towers on levels of so many channels, with torchvision's names. Raises UsageError where the levels are
    not equally wide."""
    if len(set(levels)) != 1:
        raise Misfit(
            f"the towers are the same for all levels, which must be equally wide, but they have {levels} channels",
            "Take a neck that gives out one width, such as elastic_fpn.",
            keys=("model.neck", "model.head"),
        )
    return _pieces(towers, options.norm, options.anchors, num_classes, levels[0], len(levels))


@lru_cache(CACHE)
def _pieces(
    towers: tuple[Tower, Tower], norm: str, anchors: int, num_classes: int, cin: int, levels: int
) -> tuple[Piece, Piece]:
    own = levels if norm in PER_LEVEL else 0
    cls, box = towers
    return (
        Piece(tower_rows("classification_head", "cls_logits", cls, cin, anchors * num_classes, norm, own), LEVELS),
        Piece(tower_rows("regression_head", "bbox_reg", box, cin, anchors * 4, norm, own), LEVELS),
    )


@lru_cache(CACHE)
def tower_rows(name: str, last: str, tower: Tower, cin: int, outputs: int, norm: str, levels: int) -> Plan:
    """The convs of a tower, with norm and relu, and the last one, 3x3 with `outputs` channels."""
    rows = []
    for i in range(tower.depth):
        wide, size = tower.width, tower.kernel
        conv = f"{name}.conv.{i}"
        layers = [Layer("conv", f"{conv}.0", cin, wide, kernel=size, padding=size // 2, bias=norm == "none")]
        if norm != "none":
            layers.append(Layer("norm", f"{conv}.1", wide, wide, bias=True, levels=levels))
        layers.append(Layer("relu", "relu", wide, wide))
        rows.append(Row("head", 0, i, tuple(layers)))
        cin = wide
    logits = Layer("conv", f"{name}.{last}", cin, outputs, kernel=3, padding=1, bias=True)
    return (*rows, Row("head", 0, tower.depth, (logits,)))
