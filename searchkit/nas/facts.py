"""What the verbs of search-nas print as --json, as plain data; records are printed as they are in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from searchkit.nas.cost.price import price, price_archs
from searchkit.nas.models.part import NetPlan
from searchkit.records.arch import Arch
from searchkit.seeds import rng_of

if TYPE_CHECKING:  # these bring torch, which `search-nas --help` does without
    from searchkit.nas.subnet.standing import Standing
    from searchkit.nas.train.recipe import Recipe

WHOLE = 100_000  # points up to which MACs are of the whole space
SAMPLE = 20_000


def space_facts(recipe: Recipe, plans: NetPlan, macs: Sequence[int], whole: bool) -> dict[str, Any]:
    """How large a space is, and what its archs cost. macs, whole: see `macs_of`."""
    space, scales = recipe.space, recipe.scales
    return {
        "archs": space.count(),
        "points": space.points(),
        "input_shapes": list(scales),
        "dimensions": {dim.key: [list(c) for c in dim.choices] for dim in space.dims},
        "macs_min": min(macs),
        "macs_max": max(macs),
        "macs_of": "all points" if whole else f"{len(macs):,} random points",
        "named": [
            {
                "name": name,
                "arch": space.named(name).nested(),
                "input_shape": scale,
                "macs": (cost := price(plans, space.named(name), scale)).flops,
                "params": cost.params,
            }
            for name in space.names()
            for scale in dict.fromkeys((scales[0], scales[-1]))
        ],
    }


def macs_of(recipe: Recipe, plans: NetPlan, seed: int) -> tuple[list[int], bool]:
    """(MACs of all points of a space, or of a sample that includes MAX and MIN; whether it is all)."""
    space, scales = recipe.space, recipe.scales
    whole = space.count() * len(scales) <= WHOLE
    if whole:
        archs = space.enumerate()
    else:
        rng = rng_of(seed, "space")
        archs = iter([space.minimum(), space.maximum(), *(space.sample(rng) for _ in range(SAMPLE // len(scales)))])
    return [cost for _, flops, _ in price_archs(plans, archs, scales, "macs") for cost in flops], whole


def flops_facts(out: str, records: int, written: int, seconds: float, convention: str) -> dict[str, Any]:
    """A file of priced archs; written: those of its records that were not there before."""
    return {"out": out, "records": records, "written": written, "seconds": seconds, "convention": convention}


def train_facts(
    checkpoint: str, step: int, losses: Mapping[str, float], metrics: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Where a training ended: its last losses, the metrics of each arch that was scored last."""
    return {"checkpoint": checkpoint, "step": step, "losses": losses, "metrics": metrics}


def search_facts(
    standing: Standing, *, new: int, failed: int, rate: float, files: Mapping[str, str], code: int
) -> dict[str, Any]:
    """Where a search ended. new: subnets of this run; failed: trials, of all runs; rate: subnets/s; code: its exit."""
    best = standing.best.get(standing.wanted[0].name)
    return {
        "evaluations": len(standing.records),
        "new": new,
        "failed": failed,
        "subnets_per_s": rate,
        "objectives": [{"name": o.name, "mode": o.mode} for o in standing.wanted],
        "front": [standing.records[i] for i in standing.ranked_front()],
        "best": standing.records[best] if best is not None else None,
        "files": dict(files),
        "exit": code,
    }


def trust_facts(
    report: Mapping[str, Any], records: Sequence[Mapping[str, Any]], results: str, picture: str | None
) -> dict[str, Any]:
    """How well a supernet ranks: the report of searchkit.nas.subnet.trust, its records, and where both are."""
    return {**report, "records": list(records), "files": {"results": results, "picture": picture}}


def extract_facts(out: str, arch: Arch, proof: Mapping[str, Any]) -> dict[str, Any]:
    """An extracted folder, and the proof that it is what was cut out."""
    return {"out": out, "arch": arch.nested(), **proof}
