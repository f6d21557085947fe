"""Reading the command of a task, and the shell that runs it: what it uses is declared, in a form that fits."""

from __future__ import annotations

from collections.abc import Sequence

from searchkit.errors import UsageError
from searchkit.reading.nodes import Node, Section, place
from searchkit.suite.config import shells
from searchkit.suite.config import template as templates
from searchkit.suite.config.args import ArgReader, near
from searchkit.suite.config.quoting import Slot
from searchkit.suite.config.settings import Config
from searchkit.suite.config.shells import Shell
from searchkit.suite.config.template import Template
from searchkit.suite.space.args import Arg, Range


def shell(run: Section, base: Shell) -> Shell:
    """`run.shell`: `bash`, `sh`, or words of the user's own, as one text or a list; `base` where it is not given."""
    node = run.get("shell")
    if node is None:
        return base
    try:
        if node.kind == "list":
            return shells.of_words(tuple(item.text for item in node.items if item.kind == "scalar"))
        return shells.named(node.text if node.kind == "scalar" else "")
    except UsageError as e:
        run.fault("shell", node, f"{e.message}; {e.hint}" if e.hint else e.message)
        return base


def read(section: Section, node: Node, shell: Shell) -> Template | None:
    """The template; None where it has a fault, which is in the report."""
    parts = node.items if node.kind == "list" else (node,)
    odd = next((part for part in parts if part.kind in ("list", "map")), None)
    if odd is not None:
        section.fault("template", odd, f"must be a command for the shell, or the list of its words, not {odd}")
        return None
    try:
        texts = [part.text for part in parts] if node.kind == "list" else node.text
        return templates.parse(texts, shells.is_bash(shell))
    except UsageError as e:
        section.fault("template", node, f"{e.message}; {e.hint}" if e.hint else e.message)
        return None


def check(
    template: Template, text: str, node: Node, section: Section, reader: ArgReader, args: tuple[Arg, ...]
) -> None:
    """What the template uses is declared, and all that is declared is used, in a form that fits."""
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
            section.fault("template", _at(text, node, slot), f"{slot} {what}")
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


def check_workers(section: Section, text: str, config: Config) -> None:
    """A worker is started before anybody knows what it will try: its command can't hold that."""
    node = section.get("template")
    if config.run.workers is not None and node is not None:
        for slot in config.template.slots:
            what = f"{slot} has no value where run.workers starts one process for many trials; read trial.params"
            section.fault("template", _at(text, node, slot), what)


def check_ends(section: Section, config: Config) -> None:
    """Nothing of a new task's command may be meant to go on after its end. (Tasks that are begun go on as they are.)"""
    node = section.get("template")
    if node is not None and config.template.background and not section.report.begun:
        section.fault("template", node, config.template.background)


def note_shell(top: Section, configs: Sequence[Config]) -> None:
    """Say it where a new task has to do with less than bash."""
    given = Section(top.report, top.get("run"), "run").get("shell")
    if top.report.begun or given is not None or shells.default() != shells.SH:
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
