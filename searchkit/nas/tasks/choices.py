"""Choices of a space that its network cannot have: found when a config is read, not by the step that draws them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from searchkit.errors import UsageError
from searchkit.nas.space.dim import Dim
from searchkit.nas.space.space import Space
from searchkit.records.arch import Arch

DRAWN = 32  # archs that are tried where no choice alone is at fault


def misfit_choices(space: Space, check: Callable[[Arch], object]) -> Iterator[tuple[str | None, UsageError]]:
    """What `check` refuses with a UsageError: dimensions with such a choice while all others stand at their greatest,
    or at their least, each with the first error; where there are none, the first such arch of some drawn ones, with
    None. The greatest and the least arch themselves are to be right."""
    ends, whole = (space.maximum(), space.minimum()), True
    for dim in (dim for dim in space.dims if dim.count() > 1):
        refused = next(
            (e for base in ends for values in _values(dim) if (e := _refusal(space, check, base, dim, values))), None
        )
        if refused is not None:
            whole = False
            yield dim.key, refused
    rng = random.Random(0)
    for arch in (space.sample(rng) for _ in range(DRAWN if whole and space.count() > 1 else 0)):
        try:
            check(arch)
        except UsageError as e:
            yield None, UsageError(f"{e.message} (at {arch.text()})", e.hint)
            return


def _values(dim: Dim) -> Iterator[tuple[int, ...]]:
    """Values of all positions, each at its k-th choice, for every k."""
    for k in range(max(map(len, dim.choices))):
        yield tuple(choices[min(k, len(choices) - 1)] for choices in dim.choices)


def _refusal(
    space: Space, check: Callable[[Arch], object], base: Arch, dim: Dim, values: tuple[int, ...]
) -> UsageError | None:
    items = {**dict(base.items), dim.key: dim.pack(values)}
    arch = space.canonical(Arch(tuple(items.items())))
    if not space.contains(arch):
        return None  # no step draws it
    try:
        check(arch)
    except UsageError as e:
        return e
    return None
