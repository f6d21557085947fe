"""What records say of subnets: their archs, in a space, and their input shapes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchkit.errors import UsageError
from searchkit.nas.space.shapes import InputShape, among, shape_text
from searchkit.nas.train.recipe import Recipe
from searchkit.records.arch import Arch

Record = dict[str, Any]


def shape_of(record: Record, recipe: Recipe) -> InputShape:
    """The input shape of a record as a short edge or (H, W); the recipe's first where it has none."""
    shape = record.get("data", {}).get("input_shape")
    return recipe.scales[0] if shape is None else among(shape, recipe.scales)


def folder_name(record: Record, arch: Arch, recipe: Recipe) -> str:
    """What a subnet's own folder is called: its id and input shape."""
    shape = shape_of(record, recipe)
    return f"{arch.id}-{shape_text(shape)}"


def checked(records: Sequence[Record], recipe: Recipe) -> tuple[list[Record], list[Arch]]:
    """(records, their archs), each arch in its one spelling. Raises UsageError naming every one that does not fit into
    the maximal model."""
    archs, faults = [], []
    for i, record in enumerate(records):
        if "arch" not in record:
            faults.append(f"record {i + 1} has no arch")
            continue
        try:
            arch = Arch.of(record["arch"])
        except UsageError as e:
            faults.append(f"record {i + 1}: {e.message}")
            continue
        faults += [f"record {i + 1} ({arch.id}): {fault}" for fault in recipe.space.faults(arch)]
        archs.append(recipe.space.canonical(arch))
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UsageError(
            f"these archs are not in the supernet: {'; '.join(faults[:5])}{more}", "Take archs of this config's space"
        )
    pairs = zip(records, archs, strict=True)
    return [r if Arch.of(r["arch"]) == arch else {**r, "arch": arch.nested()} for r, arch in pairs], archs
