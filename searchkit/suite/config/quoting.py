"""A place for a value in a command of a shell, and how the value is quoted to be read back unchanged there.

syntax.py says in which context a place stands. In arithmetic a value must be a whole number, since anything else would
be evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from searchkit.errors import UsageError
from searchkit.suite.config.shells import KEYWORDS


@dataclass(frozen=True)
class Slot:
    """A place for a value. `context` says how the shell reads that place; `backticks` how many pairs enclose it."""

    name: str
    option: str = ""  # what stands before the value, in a word of its own unless it ends in `=`
    is_flag: bool = False
    each: bool = False  # the value is a list, of which each element is a word
    context: str = "verbatim"
    backticks: int = 0
    until: str = ""  # the line that would end the here-document around it
    loses_tabs: bool = False  # that here-document begins with `<<-`: the shell drops the tabs that lines begin with

    @property
    def is_word(self) -> bool:
        """Whether it is one of the forms that make a word of their own, or several, or none."""
        return self.is_flag or self.each or bool(self.option)

    @property
    def may_be_left_out(self) -> bool:
        """Whether it is nothing where there is no value."""
        return self.is_flag or bool(self.option)

    def __str__(self) -> str:
        option = f"?{self.option}" if self.option else ""
        return f"{{{'flag:' if self.is_flag else ''}{self.name}{option}{'...' if self.each else ''}}}"


def stand_alone(slot: Slot, alone: bool) -> None:
    """Raise UsageError for a form of words that is part of another word, or inside quotes."""
    if not alone:
        raise UsageError(
            f"{slot} must stand alone, as a word of its own outside of quotes",
            f"it may become no word or several; write {{{slot}}} for the literal text",
        )


_SAFE = re.compile(r"[a-zA-Z0-9@%+=:,./_-]+")
_BRACES = re.compile(r",|\.\.")  # what makes braces expand, where a user's own bash does that
# bash as sh looks for the end of `<(` even in quotes in `${…}`; `${0##*}`, which is empty, keeps the two apart
_APART = re.compile(r"(?=\()|(?<=[<>])\Z")
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|[0-9]+)")


def quote(slot: Slot, value: str) -> str:
    """`value` so that the shell reads it back unchanged at this place.

    Raises UsageError for one that can't stand there: part of the here-document's end, or no whole number in arithmetic.
    """
    if slot.until and slot.until in value:
        raise UsageError(
            f"the value {value!r} of {slot.name} holds {slot.until!r}, which ends the here-document it is put into",
            "end the here-document with another word",
        )
    if slot.loses_tabs and "\n\t" in "\n" + value:
        raise UsageError(
            f"the value {value!r} of {slot.name} has a line that begins with a tab, which `<<-` drops",
            "write << in place of <<-",
        )
    if slot.context == "number" and not _INTEGER.fullmatch(value):
        raise UsageError(
            f"the value {value!r} of {slot.name} stands in arithmetic of the shell, where it must be a whole number",
            "compute with others in the script, or by awk",
        )
    text = _QUOTE[slot.context](value)
    for _ in range(slot.backticks):  # the shell removes one layer of these before it reads the inside
        text = re.sub(r"([\\$`])", r"\\\1", text)
    return text


def _single(value: str) -> str:
    # not shlex.quote's `'"'"'`: bash 5.2 misreads that where it stands in backticks in double quotes
    return "'" + value.replace("'", "'\\''") + "'"


def _bare(value: str) -> str:
    return value if _SAFE.fullmatch(value) and value not in KEYWORDS else _single(value)


_QUOTE: Mapping[str, Callable[[str], str]] = {
    "bare": _bare,
    "braces": lambda value: _single(value) if _BRACES.search(value) else _bare(value),
    "digits": lambda value: f"'{value}'" if value.isdigit() else _bare(value),  # `echo {n}>log` has no descriptor
    "single": lambda value: value.replace("'", "'\\''"),
    "ansi": lambda value: re.sub(r"([\\'])", r"\\\1", value),
    "double": lambda value: re.sub(r'([\\"$`])', r"\\\1", value),
    "double brace": lambda value: _APART.sub("${0##*}", re.sub(r'([\\"$`}])', r"\\\1", value)),
    # quotes of its own: without them bash would look here for the end of a `'` or `<(` in the value
    "bash brace": lambda value: '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"',
    "number": lambda value: f" {value}" if value[0] in "-+" else value,  # `1-{n}` must not become a decrement
    "heredoc": lambda value: re.sub(r"([\\$`])", r"\\\1", value),
    "comment": lambda value: value.replace("\n", " "),
    "verbatim": lambda value: value,
}
