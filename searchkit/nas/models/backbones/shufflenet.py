"""A ShuffleNetV2 (https://arxiv.org/abs/1807.11164) whose blocks are chosen one by one
(https://arxiv.org/abs/1904.00420).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.body import Body
from searchkit.nas.models.backbones.shufflenet_plan import BLOCKS, CHOICE, ShuffleNetV2Plan, block_row, choices_of
from searchkit.nas.models.plan import Held, Plan
from searchkit.nas.nn import Chain, TwoPaths, attach, norm_of

if TYPE_CHECKING:
    from searchkit.records.arch import Arch


class ShuffleNetV2(ShuffleNetV2Plan, Body):
    """Features before each halving of the image and at the end, with any of the blocks that it holds.

    `arch` (settable, the only state of the search) has the names below `backbone.`: `stem.width`, `body.width`,
    `body.depth`, and if wanted `body.choice` and `head.width`: see shufflenet_plan. The widths and depths are those it
    is built at; of every block, the choices that it holds are modules of their own, side by side.

    held: for "body.choice", the choices of each position; None: the arch's own alone.
    """

    def __init__(self, arch: Arch, *, held: Held | None = None, **options: Any) -> None:
        """options: see ShuffleNetV2Plan."""
        super().__init__(arch, **options)
        self.held: Held = {CHOICE: _held_choices(held, choices_of(arch))}
        self.arch = arch
        make, frozen = norm_of(*self.norm_style), self.plan_options["frozen_norm"]
        position = iter(self.held[CHOICE])
        for row in self._rows:
            if row.name in ("stem", "head"):
                attach(self, row.name, Chain(row, make))
                continue
            for choice in next(position):
                sizes = (row.stage, row.index, row.cin, row.cout, choice, row.output)
                choice_row = block_row(*sizes, frozen, self.plan_options["keep_width"])
                attach(self, choice_row.name, TwoPaths(choice_row, make))

    def check_held(self, arch: Arch, rows: Plan) -> None:
        for i, (choice, choices) in enumerate(zip(choices_of(arch), self.held[CHOICE], strict=True)):
            if choice not in choices:
                raise UsageError(
                    f"body.choice is {choice} ({BLOCKS[choice]}) at position {i}, but the network holds "
                    f"{', '.join(f'{c} ({BLOCKS[c]})' for c in choices)} there"
                )


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
