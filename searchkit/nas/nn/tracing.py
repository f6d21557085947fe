"""A module's forward as a straight line of calls (torch.fx), in which each layer of torch or of this package is one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import fx, nn


@runtime_checkable
class Elastic(Protocol):
    """A layer of this package."""

    def plain(self) -> nn.Module: ...


class Tracer(fx.Tracer):
    """Torch's own, which goes into no layer of this package either."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See fx.Tracer."""
        return isinstance(m, Elastic) or super().is_leaf_module(m, module_qualified_name)


def plain(layer: nn.Module) -> nn.Module:
    """The layer as torch has it: of one of this package a copy."""
    return layer.plain() if isinstance(layer, Elastic) else layer


def reason(e: Exception) -> str:
    """Why a forward can't be followed: the innermost cause, by the first lines of its text; its kind if it has none."""
    while isinstance(e.__cause__, Exception):
        e = e.__cause__
    lines = [line.strip(" -") for line in str(e).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(e).__name__
