"""The modules of a network: their names, what they give out at one arch and input shape, and what follows them.

They are seen while the network runs once. A name that is listed is one that features can be learnt from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from searchkit.errors import UsageError
from searchkit.nas.space.shapes import InputShape, height_width
from searchkit.nas.train.distill import shapes_text, tensors_in, watched
from searchkit.nas.train.mimics import Shapes
from searchkit.nas.train.task import Task

ACTIVATIONS = frozenset(
    ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "leakyrelu", "gelu", "elu", "prelu")
)


@dataclass(frozen=True)
class ModuleRow:
    """One module: what it gives out, by call and tensor, and the norm and activation that read it, or whatever does."""

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    follows: tuple[str, ...]


def noise(shape: InputShape, device: torch.device) -> Tensor:
    """One image of random pixels, (1, 3, H, W) uint8, the same each time."""
    size = (1, 3, *height_width(shape))
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)


def list_modules(net: nn.Module, shape: InputShape, section: Any, task: Task) -> tuple[ModuleRow, ...]:
    """All modules of a network that give out tensors, in the order in which they do so first, as it is set to run.

    section: the config's `data`. Modules that it doesn't run now are left out.
    """
    trace = _Trace()
    hooks = [hook for name, module in net.named_modules() if name for hook in trace.hooks(name, module)]
    try:
        with trace:
            _run(net, shape, section, task)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(
        ModuleRow(name, type(net.get_submodule(name)).__name__, tuple(shapes), trace.follows(name))
        for name, shapes in trace.shapes.items()
    )


def shapes_of(
    net: nn.Module,
    names: Sequence[str],
    shape: InputShape,
    section: Any,
    task: Task,
    run: Callable[[Any], Any] | None = None,
) -> dict[str, Shapes]:
    """The shapes of what these modules of a network give out for one image, by call and tensor; none of one that
    doesn't run. run: how the network is run on inputs; None: its forward."""
    seen = outputs_of(net, names, shape, section, task, run)
    return {name: [tuple(tensor.shape) for tensor in tensors_in(outputs)] for name, outputs in seen.items()}


def outputs_of(
    net: nn.Module,
    names: Sequence[str],
    shape: InputShape,
    section: Any,
    task: Task,
    run: Callable[[Any], Any] | None = None,
) -> dict[str, list[Any]]:
    """What these modules give out for one image, by call. run: as in shapes_of."""
    with watched(net, names) as seen:
        _run(net, shape, section, task, run)
    return seen


def require_names(names: Iterable[str], net: nn.Module, key: str, listed: Callable[[], Sequence[ModuleRow]]) -> None:
    """Raises UsageError for names that no module of a network has, with the nearest ones and their shapes.

    key: of the config; listed: its modules, asked for only then.
    """
    known = {name for name, _ in net.named_modules() if name}
    for name in names:
        if name in known:
            continue
        rows = {row.name: row for row in listed()}
        alike = {each: difflib.SequenceMatcher(None, name, each).ratio() for each in rows}
        near = [each for each in sorted(rows, key=lambda each: -alike[each])[:4] if alike[each] >= 0.4]
        lines = [f"{each} ({shapes_text(rows[each].shapes)})" for each in near]
        raise UsageError(
            f"{key}: there is no module {name!r}; near it are {', '.join(lines)}"
            if lines
            else f"{key}: there is no module {name!r}",
            "search-nas modules CONFIG lists all",
        )


@torch.no_grad()
def _run(net: nn.Module, shape: InputShape, section: Any, task: Task, run: Callable[[Any], Any] | None = None) -> None:
    was, device = net.training, next((p.device for p in net.parameters()), torch.device("cpu"))  # a file has none
    net.eval()
    task.network.set_scale(net, shape, section)
    (run or net)(task.network.inputs_of(noise(shape, device), device))
    net.train(was)


@dataclass(eq=False)
class _Trace(TorchFunctionMode):
    """What reads each tensor of a forward: layers by their class, else functions of torch by their name.

    Every tensor gets a number, anew each time it is written to.
    """

    shapes: dict[str, Shapes] = field(default_factory=dict)  # by module
    first: dict[str, int] = field(default_factory=dict)  # by module, the number of the first tensor that it gave out
    readers: dict[int, tuple[str, int]] = field(default_factory=dict)  # by tensor, (what read it first, what it gave)
    count: int = 0
    inside: int = 0  # layers that run

    def __post_init__(self) -> None:
        super().__init__()

    def hooks(self, name: str, module: nn.Module) -> list[Any]:
        """Watch a module."""
        is_layer = next(module.children(), None) is None
        kind = type(module).__name__

        def before(_: nn.Module, args: Any) -> None:
            self.inside += is_layer

        def after(_: nn.Module, args: Any, output: Any) -> None:
            self.inside -= is_layer
            tensors = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
            if is_layer and tensors:
                self._read(kind, args, tensors[0])
            self.shapes.setdefault(name, []).extend(tuple(tensor.shape) for tensor in tensors)
            if not self.shapes[name]:
                del self.shapes[name]
            elif tensors:
                self.first.setdefault(name, self._number(tensors[0]))

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if not self.inside and isinstance(output, Tensor) and output.is_floating_point() and not name.startswith("__"):
            self._read(name, args, output)
        return output

    def _number(self, tensor: Tensor) -> int:
        number: int | None = getattr(tensor, "_number_of_trace", None)
        return self._anew(tensor) if number is None else number

    def _anew(self, tensor: Tensor) -> int:
        self.count += 1
        tensor._number_of_trace = self.count  # type: ignore[attr-defined]
        return self.count

    def _read(self, reader: str, args: Any, output: Tensor) -> None:
        numbers = [self._number(tensor) for tensor in tensors_in(args) if tensor.is_floating_point()]
        given = self._anew(output)
        for number in numbers:
            self.readers.setdefault(number, (reader, given))

    def follows(self, name: str) -> tuple[str, ...]:
        """What reads the output of a module: its norm, then its activation; else the first that does."""
        readers: list[str] = []
        number = self.first[name]
        while number in self.readers and len(readers) < 3:
            reader, number = self.readers[number]
            plain = reader.strip("_").replace("_", "").lower()
            if readers and not ("norm" in plain or plain in ACTIVATIONS):
                break
            readers.append(reader.strip("_"))
            if not ("norm" in plain or plain in ACTIVATIONS):
                break
        return tuple(readers)


def as_json(rows: Sequence[ModuleRow]) -> list[Mapping[str, Any]]:
    """As plain data."""
    return [
        {"name": r.name, "kind": r.kind, "shapes": [list(shape) for shape in r.shapes], "follows": list(r.follows)}
        for r in rows
    ]
