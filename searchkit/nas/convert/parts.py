"""What is read of a file of another project: sections of a config, one architecture, and what could not be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchkit.nas.space.shapes import InputShape
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import Arch, Width, is_int

DEEPEST = 100  # blocks of a stage


@dataclass(frozen=True)
class Converted:
    """A network of another project in our terms."""

    project: str
    task: str | None  # "det" or "cls"; None where the file does not say
    model: Mapping[str, Any]  # the section of a config
    space: Mapping[str, Any]  # declarations of dimensions, without data.input_shape
    shapes: tuple[InputShape, ...] = ()  # input shapes, if the file says some
    notes: tuple[str, ...] = ()  # what could not be taken, or was read otherwise than it is written
    arch: Arch | None = None  # of a file of one architecture
    classes: int | None = None  # of a classifier whose project has so many: ImageNet's, for its cost
    train: Mapping[str, Any] = field(default_factory=dict)  # the section of a config


@dataclass
class Stage:
    """One stage of inverted residual blocks as files have it: a value for each of its blocks."""

    width: int
    kernels: list[int] = field(default_factory=list)
    expands: list[int] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)  # channels inside; for files that have these

    @property
    def depth(self) -> int:
        return len(self.kernels)


def arch_of_stages(stem: int, stages: Sequence[Stage], head: int | None) -> Arch:
    """The architecture of a network of inverted residual blocks, by the names below `backbone.`."""
    depths = tuple(stage.depth for stage in stages)
    values: dict[str, Width] = {
        "backbone.stem.width": stem,
        "backbone.body.width": tuple(stage.width for stage in stages),
        "backbone.body.depth": depths,
        "backbone.body.kernel": per_block([stage.kernels for stage in stages], max(2, *depths)),
        "backbone.body.expand": per_block([stage.expands for stage in stages], max(2, *depths)),
    }
    if any(stage.hidden for stage in stages):
        values["backbone.body.hidden"] = per_block([stage.hidden for stage in stages], max(2, *depths))
    if head is not None:
        values["backbone.head.width"] = head
    return Arch.of(values)


def per_block(values: Sequence[Sequence[int]], slots: int) -> tuple[int, ...]:
    """One value for each stage where its blocks agree, else so many slots for each; those without a block repeat the
    last value."""
    if all(len(set(stage)) == 1 for stage in values):
        return tuple(stage[0] for stage in values)
    return tuple(v for stage in values for v in [*stage, *[stage[-1]] * (slots - len(stage))])


def value_of(at: Cursor) -> Cursor:
    """What a file says was chosen, where it has that in a mapping: `{chosen: 3}`, `{current_choice: 3}`."""
    return next((at[key] for key in ("chosen", "current_choice") if key in at), at)


def count(at: Cursor, most: int = 1 << 20) -> int:
    """A whole number above 0 that is no more than `most`; 1 where it is none, which is reported."""
    if not is_int(at.data) or at.data < 1:
        at.fault(f"must be a whole number above 0, not {at.shown}")
    elif at.data > most:
        at.fault(f"must be at most {most:,}, not {at.shown}")
    else:
        value: int = at.data
        return value
    return 1


def counts(at: Cursor, length: int | None = None, most: int = 1 << 20) -> list[int]:
    """A list of whole numbers above 0, of this length; faults are reported."""
    if at.node.kind != "list" or (length is not None and len(at.items) != length):
        many = "" if length is None else f"{length} "
        at.fault(f"must be a list of {many}whole numbers, not {at.shown}")
        return [1] * (length or 1)
    return [count(item, most) for item in at.items]


def shape_of(at: Cursor) -> InputShape:
    """An input shape: an edge, [H, W], or [N, C, H, W]; a square one is its edge."""
    if at.node.kind != "list":
        return count(at)
    if len(at.items) < 2:
        at.fault(f"must be an edge, [H, W] or [N, C, H, W], not {at.shown}")
        return 1
    values = counts(at)[-2:]
    return values[0] if len(set(values)) == 1 else (values[0], values[1])


def with_hidden(model: Mapping[str, Any], width: int, **options: Any) -> dict[str, Any]:
    """A classifier with a layer of that width between the mean and the last one."""
    return {**model, "neck": "hidden", "neck_options": {"width": width, **options}}


def fixed(arch: Arch) -> dict[str, Any]:
    """The declarations of a space of that one architecture."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in arch.items}
