"""Reading the command of a task, and the shell that runs it: what it uses is declared, in a form that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchkit.errors import UsageError
from searchkit.reading.fill import Part
from searchkit.reading.nodes import Node, place
from searchkit.suite.config import shells
from searchkit.suite.config import template as templates
from searchkit.suite.config.args import ArgReader, near
from searchkit.suite.config.quoting import Slot
from searchkit.suite.config.settings import Config
from searchkit.suite.config.shells import Shell
from searchkit.suite.config.template import Template
from searchkit.suite.space.args import Arg, Range


def read(part: Part[str | tuple[str, ...]], shell: Shell) -> Template | None:
    """The template; None where it has a fault, which is in the report."""
    given = part.fill()
    if given is None or part.node is None:
        return None
    try:
        return templates.parse(given, shells.is_bash(shell))
    except UsageError as e:
        part.report.fault(part.node, f"{part.path}: {e.message}{f'; {e.hint}' if e.hint else ''}")
        return None


def check(template: Template, text: str, section: Part[Any], reader: ArgReader, args: tuple[Arg, ...]) -> None:
    """What the template uses is declared, and all that is declared is used, in a form that fits."""
    node = section.get("template")
    assert node is not None  # it was parsed
    for slot in template.slots:
        what = ""
        if slot.name not in reader.names:
            what = f"is not a declared argument{near(slot.name, reader)}; write {{{slot}}} for the literal text"
            what = what if reader.complete else ""
        elif slot.name in reader.needs and not slot.may_be_left_out:
            each = "..." if slot.each else ""
            what = f"may have no value, as it has a condition; write {{{slot.name}?--{slot.name}{each}}}"
            what += f" or {{{slot.name}?{slot.name}={each}}}, which become nothing then"
        elif slot.is_flag and (odd := _unlike(slot, bool, args)):
            what = f"needs true or false, but may be {odd}; write {{{slot.name}?--{slot.name}}}"
        elif slot.each and (odd := _unlike(slot, list, args)):
            other = templates.instead(slot) if odd == "null" else f"{{{slot.name}}}"
            what = f"needs a list, of which each element becomes a word, but may be {odd}; write {other}"
        if what:
            section.fault("template", f"{slot} {what}", _at(text, node, slot))
    unused = [name for name in reader.names if name not in template.names]
    if unused and not template.names:
        section.report.note(node, "the template uses no argument: the script reads searchkit.params()")
    for name in unused if template.names else ():
        what = f"{name!r} is declared, but the template never uses {{{name}}}"
        if not templates.is_name(name):
            what += " (placeholders begin with a letter and hold letters, digits, '_', '-' and '.')"
        section.report.fault(reader.names[name], f"{reader.prefix}search_args: {what}")


def _unlike(slot: Slot, kind: type, args: tuple[Arg, ...]) -> str:
    """A value of an argument that is not of the kind that a slot needs, as far as its values are known."""
    name = slot.name
    for arg in args:
        if name in arg.names and isinstance(arg, Range):
            return f"any number from {arg.low}"
        values = [point[name] for point in arg.points() if name in point] if name in arg.names else []
        for value in values:
            if value.data is None and not slot.may_be_left_out:
                return "null"
            if value.data is not None and not isinstance(value.data, kind):
                return repr(value.text)
    return ""


def check_workers(section: Part[Any], text: str, config: Config) -> None:
    """A worker is started before anybody knows what it will try: its command can't hold that."""
    node = section.get("template")
    if config.run.workers is not None and node is not None:
        for slot in config.template.slots:
            what = f"{slot} has no value where run.workers starts one process for many trials; read trial.params"
            section.fault("template", what, _at(text, node, slot))


def check_ends(section: Part[Any], config: Config) -> None:
    """Nothing of a new task's command may be meant to go on after its end. (Tasks that are begun go on as they are.)"""
    node = section.get("template")
    if node is not None and config.template.background and not section.report.begun:
        section.fault("template", config.template.background)


def note_shell(top: Part[Any], run: Part[Any], configs: Sequence[Config]) -> None:
    """Say it where a new task has to do with less than bash."""
    if top.report.begun or run.get("shell") is not None or shells.default() != shells.SH:
        return
    commands = [c for each in configs for c in (each.task.template, each.callbacks.pre, each.callbacks.after)]
    if top.node is not None and any(isinstance(c, str) and c and not shells.direct(c) for c in commands):
        what = "there is no bash here: /bin/sh runs the commands, which hides a failure before the last part of a pipe"
        top.report.note(top.node, f"{what}; `run: {{shell: sh}}` says that this is meant")


def _at(text: str, node: Node, slot: Slot) -> Node:
    """The place of a slot inside the template; the template's own where an escape hides it."""
    for part in node.items or (node,):
        for m in templates.PLACEHOLDER.finditer(text, *part.span):
            if m.group() == str(slot):
                return place(text, m.start())
    return node
