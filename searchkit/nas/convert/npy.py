"""Numpy's .npy files as plain data, those with objects too, without running anything that is in them.

`numpy.load` with objects unpickles, which may run any code. This reads the few instructions of a pickle that make
numbers, texts, lists, dicts and numpy arrays of these, and refuses all others, with what they ask for.
"""

from __future__ import annotations

import ast
import io
import math
import pickletools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.errors import UsageError

MAGIC = b"\x93NUMPY"
LONGEST = 1 << 24  # bytes of a file
NUMBERS = "biuf"  # kinds of dtypes whose values are numbers
_HINT = "Numbers, texts, lists, dicts and numpy arrays of these are read, and nothing else"
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
# What a pickle may name: it is told apart here, and never called.
KNOWN = {
    **{(module, "_reconstruct"): "array" for module in _NUMPY},
    **{(module, "scalar"): "scalar" for module in _NUMPY},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}


@dataclass(frozen=True)
class _Name:
    """Something that a pickle names."""

    kind: str


@dataclass
class _Made:
    """A dtype, or an array, before its state is set and after."""

    kind: str
    code: str = ""  # of a dtype: f8
    value: Any = None


def load(path: str) -> Any:
    """The value of a .npy file: nested lists, or the dict, list, text or number that an array of no dimension holds.

    Raises UsageError for a file that is none, or that holds anything else, which is named.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(LONGEST + 1)
    except OSError as e:
        raise UsageError(f"can't read {path}: {e.strerror}") from e
    if len(raw) > LONGEST:
        raise UsageError(f"{path} is larger than {LONGEST >> 20} MB", _HINT)
    try:
        descr, shape, body = _parts(raw)
        if descr != "|O":
            return _numbers(descr, shape, body)
        value = _plain(_Unpickler(body).value())
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as e:
        raise UsageError(f"{path} is damaged, or no .npy file: {type(e).__name__}: {e}", _HINT) from e
    except UsageError as e:
        raise UsageError(f"{path} {e.message}", e.hint) from None
    return value


def _parts(raw: bytes) -> tuple[str, tuple[int, ...], bytes]:
    """(dtype, shape, content)."""
    if not raw.startswith(MAGIC):
        raise ValueError("it does not begin as one")
    size = 2 if raw[6] == 1 else 4
    length = int.from_bytes(raw[8 : 8 + size], "little")
    header = ast.literal_eval(raw[8 + size : 8 + size + length].decode("latin-1").strip())
    return header["descr"], header["shape"], raw[8 + size + length :]


def _numbers(descr: Any, shape: Sequence[int], raw: bytes) -> Any:
    """The values of an array of numbers."""
    if not isinstance(descr, str) or np.dtype(descr).kind not in NUMBERS:
        raise UsageError(f"holds an array of {descr!r}", _HINT)
    values = np.frombuffer(raw, np.dtype(descr), math.prod(shape))
    return values.reshape(tuple(shape)).tolist()


class _Unpickler:
    """A pickle, instruction by instruction."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def value(self) -> Any:
        """What the pickle makes."""
        for opcode, arg, _ in pickletools.genops(io.BytesIO(self.raw)):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._run(opcode.name, arg)
        raise ValueError("it is cut short")

    def _run(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            stack.append(arg)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _FEW:
            n = _FEW[name]
            stack[len(stack) - n :] = [tuple(stack[len(stack) - n :])]
        else:
            match name:
                case "PROTO" | "FRAME":
                    pass
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
                case "MARK":
                    self.marks.append(len(stack))
                case "TUPLE" | "LIST":
                    items = self._since_mark()
                    stack.append(tuple(items) if name == "TUPLE" else items)
                case "DICT":
                    stack.append(_pairs(self._since_mark()))
                case "APPEND":
                    item = stack.pop()
                    _of(stack[-1], list).append(item)
                case "APPENDS":
                    items = self._since_mark()
                    _of(stack[-1], list).extend(items)
                case "SETITEM":
                    pair = [stack.pop(-2), stack.pop()]
                    _of(stack[-1], dict).update(_pairs(pair))
                case "SETITEMS":
                    items = self._since_mark()
                    _of(stack[-1], dict).update(_pairs(items))
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    self.memo[int(arg)] = stack[-1]
                case "MEMOIZE":
                    self.memo[len(self.memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(self.memo[int(arg)])
                case "GLOBAL":
                    stack.append(_named(*arg.split(" ", 1)))
                case "STACK_GLOBAL":
                    last = stack.pop()
                    stack.append(_named(stack.pop(), last))
                case "REDUCE":
                    given = stack.pop()
                    stack.append(_called(stack.pop(), given))
                case "BUILD":
                    state = stack.pop()
                    _set(stack[-1], state)
                case _:
                    raise UsageError(f"has the pickle instruction {name}, which makes something else", _HINT)

    def _since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_FEW = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"fills a {type(value).__name__} as if it were a {kind.__name__}", _HINT)
    return value


def _pairs(items: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _named(module: Any, name: Any) -> _Name:
    kind = KNOWN.get((module, name))
    if kind is None:
        raise UsageError(f"holds a {module}.{name}", _HINT)
    return _Name(kind)


def _called(name: Any, given: Any) -> Any:
    """What the few functions that a pickle may name make of their arguments."""
    kind = name.kind if isinstance(name, _Name) else ""
    if kind == "array":
        return _Made("array")
    if kind == "dtype":
        return _Made("dtype", str(given[0]))
    if kind == "scalar":
        return _numbers(_code(given[0]), (), _bytes(given[1]))
    if kind == "encode":
        return str(given[0]).encode("latin-1")
    raise UsageError(f"calls a {name if kind == '' else kind}", _HINT)


def _set(made: Any, state: Any) -> None:
    """The state of a dtype (version, byte order ...) or of an array (version, shape, dtype, Fortran order, values)."""
    if not isinstance(made, _Made):
        raise UsageError(f"sets the state of a {type(made).__name__}", _HINT)
    if made.kind == "dtype":
        order = str(state[1])
        made.code = (order if order in "<>" else "") + made.code.lstrip("<>|=")
        return
    _, shape, dtype, fortran, values = state
    if dtype.code.startswith("O"):
        if math.prod(shape) != len(values):
            raise ValueError("an array has another number of values than its shape says")
        made.value = values[0] if not shape else _folded(values, shape)
    elif fortran:
        raise UsageError("holds an array in Fortran order", _HINT)
    else:
        made.value = _numbers(dtype.code, shape, _bytes(values))


def _code(dtype: Any) -> str:
    if not isinstance(dtype, _Made) or dtype.kind != "dtype":
        raise ValueError("a number has no dtype")
    return dtype.code


def _bytes(value: Any) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


def _folded(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """A flat list in the nested form of a shape."""
    if len(shape) <= 1:
        return list(values)
    each = math.prod(shape[1:])
    return [_folded(values[i * each : (i + 1) * each], shape[1:]) for i in range(shape[0])]


def _plain(value: Any) -> Any:
    """With the values of arrays in place of these."""
    if isinstance(value, _Made):
        if value.kind != "array":
            raise UsageError("holds a numpy.dtype", _HINT)
        return _plain(value.value)
    if isinstance(value, _Name):
        raise UsageError(f"holds a {value.kind}", _HINT)
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
