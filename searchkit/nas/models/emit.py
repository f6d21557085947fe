"""A subnet as source code: a file that needs torch and torchvision only.

The backbone with its FPN is traced at its arch (torch.fx): every layer becomes the equal layer of torch.nn with its
sizes written out, and the forward pass a straight line, whatever Python the elastic backbone was written in, the user's
own included.
"""

from __future__ import annotations

import inspect
import keyword
import operator
from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from searchkit.errors import UsageError
from searchkit.nas.data import pixels
from searchkit.nas.nn import tracing, written

_INFIX = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//"}
_INFIX |= {operator.iadd: "+", operator.imul: "*"}
_PACKAGES = {"torch.nn": "nn", "torchvision.ops": "ops"}


def straight_line(module: nn.Module) -> tuple[str, str]:
    """(lines of a table from layer names to constructors, body of a forward pass) of a module at its arch.

    Raises UsageError for a module whose forward can't be traced.
    """
    try:
        graph = tracing.Tracer().trace(module)
    except Exception as e:  # whatever a forward does that depends on data
        raise UsageError(
            f"the forward of backbone, neck or head can't be written down as a straight line: {tracing.reason(e)}",
            "It must not look at the values of tensors (if x.sum() > 0), and use torch functions and layers alone",
        ) from e
    layers = {str(n.target): _layer(module.get_submodule(str(n.target))) for n in graph.nodes if n.op == "call_module"}
    table = "".join(f"    {name!r}: lambda: {text},\n" for name, text in layers.items())
    return table, "\n".join(f"        {line}" for line in _lines(graph, _unindexed(layers)))


def arguments(values: Mapping[str, Any]) -> str:
    """A dict literal, a key a line."""
    return "{\n" + "".join(f"    {k!r}: {v!r},\n" for k, v in values.items()) + "}"


def _layer(module: nn.Module) -> str:
    """The constructor of the plain layer, as text."""
    plain = tracing.plain(module)
    if isinstance(plain, nn.AvgPool2d):  # its repr leaves out half of it
        sizes = f"{plain.kernel_size}, {plain.stride}, {plain.padding}"
        flags = f"{plain.ceil_mode}, {plain.count_include_pad}, {plain.divisor_override}"
        return f"nn.AvgPool2d({sizes}, {flags})"
    home = type(plain).__module__
    if home == written.__name__:
        return repr(plain)
    for package, short in _PACKAGES.items():
        if home.startswith(package):
            text = repr(plain).replace(", bias=True, track", ", track")  # older releases of torch don't know it
            return f"{short}.{text}" if short == "nn" else f"{short}.misc.{text}"
    raise UsageError(f"a layer {type(plain).__name__} of {home} can't be written as a layer of torch or torchvision")


def _unindexed(layers: Iterable[str]) -> set[str]:
    """The parts that ATTACH makes no ModuleDict for: those whose first child has no number for a name."""
    first = {"": ""}
    for name in layers:
        parts = name.split(".")
        for i in range(1, len(parts)):
            first.setdefault(".".join(parts[:i]), parts[i])
    return {part for part, child in first.items() if not child.isdecimal()}


def _lines(graph: fx.Graph, unindexed: Container[str]) -> list[str]:
    names: dict[fx.Node, str] = {}
    lines = []
    for node in graph.nodes:
        names[node] = node.name + ("_" if keyword.iskeyword(node.name) else "")
        if node.op == "placeholder":
            names[node] = "x"
        elif node.op == "output":
            lines.append(f"return {_text(node.args[0], names)}")
        else:
            lines.append(f"{names[node]} = {_call(node, names, unindexed)}")
    return lines


def _call(node: fx.Node, names: Mapping[fx.Node, str], unindexed: Container[str]) -> str:
    args = [_text(a, names) for a in node.args]
    if node.op == "call_module":
        return f"{_path(str(node.target), unindexed)}({args[0]})"  # without the widths: a plain layer has one
    if node.op == "get_attr":
        fault = f"a forward uses the tensor {node.target!r} by itself"
        raise UsageError(f"{fault}, but only layers can be written down", "Put it into a layer of torch.nn")
    keywords = [f"{k}={_text(v, names)}" for k, v in node.kwargs.items()]
    if node.op == "call_method":
        return f"{args[0]}.{node.target}({', '.join(args[1:] + keywords)})"
    target: Any = node.target
    if target in _INFIX:
        return f"{args[0]} {_INFIX[target]} {args[1]}"
    if target is getattr:
        return f"{args[0]}.{node.args[1]}"
    if target is operator.getitem:
        return f"{args[0]}[{args[1]}]"
    name = torch.fx.node._get_qualified_name(target).replace("torch.nn.functional.", "F.")
    return f"{name}({', '.join(args + keywords)})"


def _text(value: Any, names: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, dict):
        return "OrderedDict([" + ", ".join(f"({k!r}, {_text(v, names)})" for k, v in value.items()) + "])"
    if isinstance(value, tuple | list):
        inner = ", ".join(_text(v, names) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, slice):
        return ":".join("" if v is None else _text(v, names) for v in (value.start, value.stop))
    return repr(value)


def _path(target: str, unindexed: Container[str]) -> str:
    """A layer below `self` by its dotted name."""
    path, parent = "self", ""
    for part in target.split("."):
        by_number = f".get_submodule({part!r})" if parent in unindexed else f"[{part!r}]"
        path += by_number if part.isdecimal() else f".{part}"
        parent = f"{parent}.{part}".lstrip(".")
    return path


ATTACH = '''def attach(root, name, layer):
    """Put a layer at a dotted name; parts that are numbers live in a ModuleDict."""
    parts = name.split(".")
    for part, child in zip(parts, parts[1:]):
        children = root._modules
        if part not in children:
            root.add_module(part, nn.ModuleDict() if child.isdecimal() else nn.Module())
        root = children[part]
    root.add_module(parts[-1], layer)
'''


def attach(module: nn.Module) -> str:
    """The source of `attach`, and of the layers of a module that torch has not."""
    used = [cls for cls in written.LAYERS if any(isinstance(layer, cls) for layer in module.modules())]
    sources = [inspect.getsource(cls) for cls in used]
    return "\n\n".join((ATTACH, *sources))


_READ = '''def read(path, folder=HERE):
    """An image file as the network takes it: (3, H, W) of 0..1, upright, greys of more than 8 bits scaled as those of
    the training were (`exif` and `range` of config.json)."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        said = json.load(f)
    with Image.open(path) as image:
        pixels, turn = stored(image, said["range"])
    if said["exif"] != "ignore":
        pixels = upright(pixels, turn)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255
'''


_LOAD = '''def load(folder=HERE{more}):
    """The {kind} with its weights, in eval mode."""
    net = build({settings})
    net.load_state_dict(load_file(os.path.join(folder, "weights.safetensors")))
    return net.eval()


'''

_CATEGORIES = '''
def categories(folder=HERE):
    """Names of the classes by label{background}."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        return {names}
'''


def ending(kind: str, settings: str = "") -> str:
    """The source that all networks end with: `load`, `read`, `categories`. kind: of network, "detector" or
    "classifier"; settings: what a detector's `build` calls its keywords, which go over those of its config."""
    load = _LOAD.format(kind=kind, settings=f"**{settings}" * bool(settings), more=f", **{settings}" * bool(settings))
    names = 'json.load(f)["categories"]'
    if kind == "detector":
        categories = _CATEGORIES.format(background="; 0 is the background", names=f'["background", *{names}]')
    else:
        categories = _CATEGORIES.format(background="", names=names)
    return f"{load}{reader()}\n{categories}"


def reader() -> str:
    """The source of `read`, which makes image files what a network takes."""
    parts = (pixels.stored, pixels.upright, pixels.orientation_of, pixels.scaled)
    return "\n\n".join((_READ, *(inspect.getsource(part) for part in parts)))
