"""JSON Schema (draft 7) of a dataclass that fill.py fills: editors complete and check a config by it while it is typed.

It takes every file that `fill` takes. It refuses every fault of a key, type, choice or range; what several keys say
together is seen when the file is read, unless the class says it in a `SCHEMA` of its own (a ClassVar, which is added to
what its fields say). It sees values, not how they are written: for it 2.0 is a whole number, and `1e3` a size.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from searchkit.reading.fill import Part, tag_of, tags
from searchkit.reading.keys import is_required, keys_of
from searchkit.reading.kinds import SCALARS, Choice, Reader, Some

DRAFT = "http://json-schema.org/draft-07/schema#"
_TYPES: Mapping[Any, Mapping[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: {"type": SCALARS},
}
_NULL = {"type": "null"}
Schema = dict[str, Any]


def of(cls: type, title: str) -> Schema:
    """The schema of a file that is read into `cls`."""
    definitions: dict[str, Schema] = {}
    body = _class(cls, definitions)
    return {"$schema": DRAFT, "title": title, **body, "definitions": definitions}


def comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line, or the text below it, of the class and those it is made from."""
    told: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        source = inspect.getsource(base)
        pairs = re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", source, re.MULTILINE)
        pairs += re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""$', source, re.MULTILINE | re.DOTALL)
        told |= {name: " ".join(text.split()) for name, text in pairs}
    return told


def _class(cls: type, definitions: dict[str, Schema]) -> Schema:
    described = comments(cls)
    properties: dict[str, Schema] = {}
    for name, (f, hint) in keys_of(cls).items():
        schema = _schema(hint, definitions)
        schema = _given(schema) if is_required(f) else _or_null(schema)
        if f.name in described:
            schema = _described(schema, described[f.name])
        if isinstance(f.default, str | int | float):
            schema = {**schema, "default": f.default}
        properties[name] = schema
    required = [name for name, (f, _) in keys_of(cls).items() if is_required(f)]
    about = inspect.getdoc(cls) or ""
    return {
        "description": " ".join(about.split("\n\n")[0].split()),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
        **getattr(cls, "SCHEMA", {}),
    }


def _schema(hint: Any, definitions: dict[str, Schema]) -> Schema:
    """The schema of what a key or an item may be, but for null."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for mark in options[1:]:
            if isinstance(mark, Reader):
                return dict(mark.to_schema())
        least = "minItems" if typing.get_origin(options[0]) is tuple else "minProperties"
        some = {least: 1} if any(isinstance(mark, Some) for mark in options[1:]) else {}
        return {**_schema(options[0], definitions), **some}
    if origin is Part:
        return _schema(options[0], definitions)
    if origin in (Union, types.UnionType):
        return _union([o for o in options if o is not type(None)], definitions)
    if origin is Literal:
        return dict(Choice(*options).to_schema())
    if origin is tuple:
        if options[-1] is Ellipsis:
            return {"type": "array", "items": _item(options[0], definitions, listed=True)}
        items = [_item(o, definitions, listed=True) for o in options]
        return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        names = _schema(options[0], definitions)
        values = _item(options[1], definitions)
        return {"type": "object", "propertyNames": names, "additionalProperties": values}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        name = f"{hint.__module__.rpartition('.')[2]}.{hint.__name__}"
        if name not in definitions:
            definitions[name] = {}  # which it may hold itself
            definitions[name] = _class(hint, definitions)
        return {"$ref": f"#/definitions/{name}"}
    return dict(_TYPES.get(hint, {}))


def _item(hint: Any, definitions: dict[str, Schema], listed: bool = False) -> Schema:
    """What an item of a list or a value of a mapping may be. A null in a mapping is a text, or an empty mapping."""
    schema = _schema(hint, definitions)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    is_class = dataclasses.is_dataclass(hint) and isinstance(hint, type)
    empty = is_class and not any(is_required(f) for f, _ in keys_of(hint).values())
    holds = schema.get("type") == SCALARS or origin is Mapping
    takes_null = type(None) in options or empty or (holds and not listed)
    return _or_null(schema) if takes_null else schema


def _union(options: list[Any], definitions: dict[str, Schema]) -> Schema:
    classes = [o for o in options if dataclasses.is_dataclass(o)]
    schemas = [_schema(o, definitions) for o in options if o not in classes]
    if classes:
        schemas.append(_classes(classes, definitions))
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _classes(classes: list[Any], definitions: dict[str, Schema]) -> Schema:
    """One of several dataclasses: by the key that tells them apart, so that a fault is told of the one meant."""
    tag = tag_of(classes) if len(classes) > 1 else None
    if tag is None:
        each = [_schema(cls, definitions) for cls in classes]
        return each[0] if len(each) == 1 else {"anyOf": each}
    named = [(_schema(Literal[tags(cls, tag)], definitions), _schema(cls, definitions)) for cls in classes]
    cases: list[Schema] = [
        {"if": {"properties": {tag: choice}, "required": [tag]}, "then": schema} for choice, schema in named
    ]
    default = [cls for cls in classes if not is_required(keys_of(cls)[tag][0])]
    if default:
        absent = {"anyOf": [{"not": {"required": [tag]}}, {"properties": {tag: _NULL}}]}
        cases.append({"if": absent, "then": _schema(default[0], definitions)})
    every = {"enum": [value for choice, _ in named for value in choice["enum"]]}
    needed = {} if default else {"required": [tag]}
    return {"type": "object", "properties": {tag: _or_null(every) if default else every}, **needed, "allOf": cases}


def _or_null(schema: Schema) -> Schema:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema and "allOf" not in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*named, "null"]}
    if set(schema) == {"anyOf"}:
        return {"anyOf": [*schema["anyOf"], _NULL]}
    return {"anyOf": [schema, _NULL]} if schema else schema


def _given(schema: Schema) -> Schema:
    return schema or {"not": _NULL}


def _described(schema: Schema, text: str) -> Schema:
    return {"allOf": [schema], "description": text} if "$ref" in schema else {**schema, "description": text}
