"""A ShuffleNetV2 (https://arxiv.org/abs/1807.11164) whose blocks are chosen one by one
(https://arxiv.org/abs/1904.00420).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.shufflenet_plan import BLOCKS, NAMES, block_row, choices_of, shufflenet_plan
from searchkit.nas.models.plan import Plan
from searchkit.nas.nn import Chain, TwoPaths, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch

CHOICE = "body.choice"
Held = Mapping[str, tuple[tuple[int, ...], ...]]


class ShuffleNetV2(Body):
    """Features before each halving of the image and at the end, with any of the blocks that it holds.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, and if wanted `body.choice` and `head.width`: see shufflenet_plan. The widths and depths are those it
    is built at; of every block, the choices that it holds are modules of their own, side by side.

    held: for "body.choice", the choices of each position; None: the arch's own alone.
    stem_pool: a max pool behind the stem. stem_stride: 1 for small images. keep_width: see shufflenet_plan.
    norm: "bn", "frozen" (nothing of a norm is learnt or updated) or "gn", in groups of `norm_group` channels, of which
    all widths are multiples, halves of them too.
    Or "sync_bn": "bn" over the ranks of a training together, in groups of `norm_ranks` neighbours (0: all of them).
    """

    CHOICES: ClassVar[tuple[str, ...]] = (CHOICE,)
    NAMES: ClassVar[tuple[str, ...]] = NAMES

    def __init__(
        self,
        arch: Arch,
        *,
        held: Held | None = None,
        stem_pool: bool = True,
        stem_stride: int = 2,
        keep_width: bool = False,
        norm: Literal["bn", "gn", "frozen", "sync_bn"] = "bn",
        norm_group: int = 8,
        norm_eps: float = 1e-5,
        norm_ranks: int = 0,
    ) -> None:
        super().__init__()
        self.plan_options: dict[str, Any] = {
            "stem_pool": stem_pool,
            "stem_stride": stem_stride,
            "keep_width": keep_width,
            "frozen_norm": norm == "frozen",
        }
        own = choices_of(arch)
        self.held: Held = {CHOICE: _held_choices(held, own)}
        self._built = _sizes(arch)
        self.arch = arch
        make = norm_of(norm, norm_group, norm_eps, ranks=norm_ranks)
        position = iter(self.held[CHOICE])
        for row in self._rows:
            if row.name in ("stem", "head"):
                attach(self, row.name, Chain(row, make))
                continue
            for choice in next(position):
                sizes = (row.stage, row.index, row.cin, row.cout, choice, row.output, norm == "frozen", keep_width)
                choice_row = block_row(*sizes)
                attach(self, choice_row.name, TwoPaths(choice_row, make))

    def check_held(self, arch: Arch, rows: Plan) -> None:
        for i, (choice, choices) in enumerate(zip(choices_of(arch), self.held[CHOICE], strict=True)):
            if choice not in choices:
                raise UsageError(
                    f"body.choice is {choice} ({BLOCKS[choice]}) at position {i}, but the network holds "
                    f"{', '.join(f'{c} ({BLOCKS[c]})' for c in choices)} there"
                )

    def plan(self, arch: Arch) -> Plan:
        """The rows of the network at an architecture, whose choices need not be held.

        Raises UsageError for other widths and depths.
        """
        if _sizes(arch) != self._built:
            raise UsageError(
                f"the widths and depths of a ShuffleNetV2 are fixed: it was built at {_text(self._built)}, "
                f"but the architecture has {_text(_sizes(arch))}",
                "Give every width and depth one value in the space; only body.choice may vary.",
            )
        return shufflenet_plan(arch, **self.plan_options)


def _held_choices(held: Held | None, own: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The choices at each position, ascending."""
    if held is None:
        return tuple((choice,) for choice in own)
    rows = held.get(CHOICE, ())
    if [*held] != [CHOICE] or len(rows) != len(own):
        raise UsageError(
            f"held must have the choices of {CHOICE} at each of {len(own)} positions, and nothing else, "
            f"but has {', '.join(f'{name} at {len(value)}' for name, value in held.items()) or 'nothing'}"
        )
    wrong = [c for choices in rows for c in choices if not 0 <= c < len(BLOCKS)]
    if wrong or not all(rows):
        raise UsageError(f"each position must hold choices of 0 to {len(BLOCKS) - 1}, but the held ones are {rows}")
    return tuple(tuple(sorted(set(choices))) for choices in rows)


def _sizes(arch: Arch) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in arch.items if name != CHOICE)


def _text(sizes: tuple[tuple[str, Any], ...]) -> str:
    return " ".join(f"{name}={value}" for name, value in sizes)
