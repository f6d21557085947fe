"""Which archs a training step visits: `(space, seed, step) -> [Arch]`, without state, so that all ranks agree without
talking and a resumed run goes on as the unbroken one would. A policy that has a state is a torch module: then this is
among the extras of the run, its parameters in the optimizer, all of it in the checkpoint.

- `sandwich`: the largest, the smallest and n random archs on the same batch, one optimiser step (Yu & Huang,
  "Universally Slimmable Networks", ICCV 2019; Yu et al., "BigNAS", ECCV 2020); or those that `sample_strategy` names.
- `anchors`: one arch a step, in GAIA's cycle (Bu et al., "GAIA", CVPR 2021): MAX, MIN, the anchors of the space in
  their order, then as many random ones as `random_archs` says. Any other cycle is written as a `sampler`.
- `single_path`: one random arch a step (Guo et al., "SPOS", ECCV 2020); with `macs_bins` about as many of each cost
  (as the authors' code of Chen et al., "DetNAS", NeurIPS 2019 does).
- `fixed`: always the same arch.
- `dmcp`: the largest, the smallest and n archs whose widths are drawn, at first evenly, later from chains that learn
  (markov.py).

Where the space has schedules, all archs of a step are of the space as it is in the step's epoch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from searchkit.errors import SearchkitError, UsageError, did_you_mean
from searchkit.nas.space import samplers as sample
from searchkit.nas.space.space import Space
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import Arch
from searchkit.seeds import rng_of

Policy = Callable[[int], list[Arch]]
POLICIES = ("sandwich", "anchors", "single_path", "fixed")
WORDS = ("max", "min", "middle", "random", "random_slim")  # of a sample_strategy, beside the names of anchors
TRIES = 500  # archs drawn for one bin of MACs


def policy(
    name: str,
    space: Space,
    seed: int,
    *,
    steps_per_epoch: int = 1,
    random_archs: int = 2,
    arch: str = "MAX",
    sampler: Any = None,
    sample_strategy: Sequence[str] = (),
    macs: Callable[[Arch], float] | None = None,
    macs_bins: Sequence[float] | None = None,
) -> Policy:
    """The policy of that name as a function of the global step (from 0). The largest arch of a step comes first.

    `steps_per_epoch`: of the epochs (from 1) that the schedules of the space speak of.
    `random_archs`: random archs in a sandwich, or at the end of the anchor cycle. `arch`: the named arch of `fixed`.
    `sampler`: for `anchors`, the cycle as a GAIA record sampler (parsed YAML) instead of the default one.
    `sample_strategy`: what a sandwich visits in every step: max, min, middle, random, random_slim (each position at its
    least or greatest choice), or names of anchors.
    `macs_bins`: for `single_path`, (low, high, width) in MACs: a bin is drawn, then archs until one is in it; after 500
    the nearest of them is taken. `macs` gives those of an arch. Raises UsageError for what some step could not obey.
    """
    phases = [phase for _, phase in space.phases]

    def at(step: int) -> Space:
        return space.at_epoch(1 + step // steps_per_epoch)

    if name == "sandwich":
        if not sample_strategy:
            return lambda step: _sandwich(at(step), rng_of(seed, "arch", step), random_archs)
        words = _check_strategy(sample_strategy, space)
        return lambda step: _strategy(words, at(step), rng_of(seed, "arch", step))
    if name == "anchors":
        if sampler is not None:
            cycle = sample.read_sampler(sampler, "train.sampler")
            if wrong := sampler_faults(cycle, space):
                raise UsageError("\n".join(what for _, what in wrong), sample.MISFIT_HINT)
            return lambda step: [space.canonical(sample.cycle(cycle, at(step), step, seed))]
        cycles = {phase: gaia_cycle(phase, random_archs) for phase in phases}
        return lambda step: [_cycle(cycles[at(step)], at(step), step, seed)]
    if name == "single_path":
        if macs_bins is not None:
            bins, cost = _check_bins(macs_bins, macs, space), macs
            assert cost is not None
            return lambda step: [_binned(at(step), rng_of(seed, "arch", step), cost, bins)]
        return lambda step: [at(step).sample(rng_of(seed, "arch", step))]
    if name == "fixed":
        check_name(arch, space)
        return lambda step: [at(step).named(arch)]
    raise UsageError(f"train.policy: unknown policy {name!r}", f"It is one of {', '.join(POLICIES)}")


def gaia_cycle(space: Space, random_archs: int) -> sample.Sampler:
    """MAX, MIN, the anchors, and `random_archs` random archs, one a step."""
    fixed = sample.Anchors(space.names())
    if not random_archs:
        return fixed
    drawn = sample.Composite(tuple(sample.Draw(dim.key, None) for dim in space.dims))
    return sample.Concat((fixed, sample.Repeat(drawn, random_archs)))


def _cycle(cycle: sample.Sampler, space: Space, step: int, seed: int) -> Arch:
    """A step of `gaia_cycle`. Dimensions are drawn one by one, unless one hangs on another."""
    turn, names = step % sample.length(cycle), space.names()
    if turn >= len(names) and any(dim.depth for dim in space.dims):
        return space.sample(rng_of(seed, step))
    return sample.cycle(cycle, space, step, seed)


# --- sandwich --------------------------------------------------------------------------------------------------------


def _sandwich(space: Space, rng: random.Random, n: int) -> list[Arch]:
    return [space.maximum(), space.minimum(), *(space.sample(rng) for _ in range(n))]


def _strategy(words: Sequence[str], space: Space, rng: random.Random) -> list[Arch]:
    largest, archs = space.maximum(), []
    for word in words:
        match word:
            case "max":
                archs.append(largest)
            case "min":
                archs.append(space.minimum())
            case "middle":
                archs.append(space.middle())
            case "random":
                archs.append(space.sample(rng))
            case "random_slim":
                archs.append(space.slim(rng))
            case _:
                archs.append(space.named(word))
    return sorted(archs, key=lambda arch: arch != largest)


def _check_strategy(given: Any, space: Space) -> tuple[str, ...]:
    if not isinstance(given, (list, tuple)):
        raise UsageError(f"train.sample_strategy must be a list such as [max, random, random, min], not {given!r}")
    wrong = []
    for word in given:
        try:
            check_word(word, space)
        except UsageError as e:
            wrong.append(e)
    if wrong:
        raise UsageError("\n".join(f"train.sample_strategy: {e.message}" for e in wrong), wrong[0].hint)
    return tuple(given)


def check_word(word: str, space: Space) -> None:
    """Raises UsageError for a word of a sample_strategy that a sandwich can't obey in every phase."""
    if word in WORDS:
        return
    if word not in space.names() and str(word).isdigit():
        hint = "numbers of archs would mean others as soon as the space changes"
        raise UsageError(f"{word} is no name: give that arch a name below space.anchors", hint)
    if word not in space.names():
        raise UsageError(f"there is no {word!r}{did_you_mean(str(word), (*WORDS, *space.names()))}")
    check_name(word, space)


def check_name(name: str, space: Space) -> None:
    """Raises UsageError for an arch that is not there in every phase."""
    space.named(name)
    for first, phase in space.phases:
        _in_phase(space, first, partial(phase.named, name))


def sampler_faults(cycle: sample.Sampler, space: Space) -> list[tuple[Cursor | None, str]]:
    """What a sampler gives that does not fit into the space, in every phase of it; and where what gives it stands."""
    return [
        (place, f"from epoch {first} on: {what}" if space.scheduled else what)
        for first, phase in space.phases
        for place, what in sample.misfits(cycle, phase)
    ]


def _in_phase(space: Space, first: int, call: Callable[[], object]) -> None:
    """Raises what the call does, and says in which phase that is."""
    try:
        call()
    except SearchkitError as e:
        if not space.scheduled:
            raise
        hint = "the space is narrower then: an anchor must have no choice that its schedules leave out"
        raise UsageError(f"from epoch {first} on: {e.message}", e.hint or hint) from None


# --- bins of MACs ----------------------------------------------------------------------------------------------------


def _check_bins(
    given: Sequence[float], macs: Callable[[Arch], float] | None, space: Space
) -> list[tuple[float, float]]:
    """The bins, each from its first number to below its second; the last one includes it."""
    numbers = [v for v in given if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if len(given) != 3 or len(numbers) != 3:
        raise UsageError(f"train.macs_bins must be [low, high, width] in MACs, not {list(given)}")
    low, high, width = numbers
    if not low < high or not width > 0:
        raise UsageError(f"train.macs_bins must have low < high and a width above 0, not {list(given)}")
    if macs is None:
        raise UsageError("train.macs_bins needs the MACs of an arch")
    least, most = macs(space.minimum()), macs(space.maximum())
    if high < least or low > most:
        raise UsageError(
            f"train.macs_bins: no arch has {low:,.0f} to {high:,.0f} MACs; those of the space have {least:,.0f} to "
            f"{most:,.0f}"
        )
    n = max(1, math.ceil((high - low) / width))
    return [(low + i * width, min(high, low + (i + 1) * width)) for i in range(n)]


def _binned(
    space: Space, rng: random.Random, macs: Callable[[Arch], float], bins: Sequence[tuple[float, float]]
) -> Arch:
    low, high = bin_ = rng.choice(bins)
    near: tuple[float, Arch] | None = None
    for _ in range(TRIES):
        arch = space.sample(rng)
        cost = macs(arch)
        if low <= cost < high or (cost == high and bin_ == bins[-1]):
            return arch
        away = max(low - cost, cost - high)
        if near is None or away < near[0]:
            near = away, arch
    assert near is not None
    return near[1]
