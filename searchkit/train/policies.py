"""Which archs a training step visits: `(space, seed, step) -> [Arch]`, without state, so that all ranks agree without
talking and a resumed run goes on as the unbroken one would.

- `sandwich`: the largest, the smallest and n random archs on the same batch, one optimiser step (Yu & Huang,
  "Universally Slimmable Networks", ICCV 2019; Yu et al., "BigNAS", ECCV 2020).
- `anchors`: one arch a step, in GAIA's cycle (Bu et al., "GAIA", CVPR 2021): MAX, MIN, the anchors of the space in
  their order, then as many random ones as `random_archs` says. Any other cycle is written as a `sampler`.
- `single_path`: one random arch a step (Guo et al., "SPOS", ECCV 2020).
- `fixed`: always the same arch.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from searchkit.errors import UsageError
from searchkit.space import sample
from searchkit.space.arch import Arch, Space

Policy = Callable[[int], list[Arch]]
POLICIES = ("sandwich", "anchors", "single_path", "fixed")


def rng_of(*parts: object) -> random.Random:
    """A generator that is a function of its parts alone."""
    return random.Random("/".join(map(str, parts)))


def policy(
    name: str, space: Space, seed: int, *, random_archs: int = 2, arch: str = "MAX", sampler: Any = None
) -> Policy:
    """The policy of that name as a function of the global step.

    `random_archs`: random archs in a sandwich, or at the end of the anchor cycle. `arch`: the named arch of `fixed`.
    `sampler`: for `anchors`, the cycle as a GAIA record sampler (parsed YAML) instead of the default one.
    """
    if name == "sandwich":
        return lambda step: _sandwich(space, rng_of(seed, "arch", step), random_archs)
    if name == "anchors":
        cycle = (
            sample.read_sampler(sampler, "train.sampler") if sampler is not None else gaia_cycle(space, random_archs)
        )
        sample.check(cycle, space)
        return lambda step: [sample.cycle(cycle, space, step, seed)]
    if name == "single_path":
        return lambda step: [space.sample(rng_of(seed, "arch", step))]
    if name == "fixed":
        fixed = space.named(arch)
        return lambda step: [fixed]
    raise UsageError(f"train.policy: unknown policy {name!r}", f"It is one of {', '.join(POLICIES)}")


def gaia_cycle(space: Space, random_archs: int) -> sample.Sampler:
    """MAX, MIN, the anchors, and `random_archs` random archs, one a step."""
    fixed = sample.Anchors(space.names())
    if not random_archs:
        return fixed
    drawn = sample.Composite(tuple(sample.Draw(dim.key, None) for dim in space.dims))
    return sample.Concat((fixed, sample.Repeat(drawn, random_archs)))


def _sandwich(space: Space, rng: random.Random, n: int) -> list[Arch]:
    return [space.maximum(), space.minimum(), *(space.sample(rng) for _ in range(n))]
