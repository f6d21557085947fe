"""Commands with holes: `{name}` becomes the text of an argument, as the program is to receive it, whatever it holds.

A string is a command of a shell, so a value is quoted by where it stands (quoting.py). A list is an argv without a
shell: values go in as they are. Braces that hold no name stay (`${HOME}`, `{a,b}`, awk, JSON); `{{name}}` is the
literal `{name}`.

Three forms are words of their own, which are left out where there is nothing to say: `{flag:x}` is `--x` where x is
true, `{x?--opt}` is `--opt VALUE`, `{x?opt=}` is `opt=VALUE` in one word; nothing for null and for what does not exist.
`{x...}` is the elements of a list, each a word; so are `{x?--opt...}`, behind one `--opt`, and `{x?opt=...}`, each
behind an `opt=` of its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from searchkit.errors import ConfigError, UsageError
from searchkit.reading import yaml_tree
from searchkit.suite.config import quoting, syntax
from searchkit.suite.config.quoting import Slot
from searchkit.suite.config.syntax import HOLE
from searchkit.suite.space.args import Value

_NAME = r"[^\W\d][\w-]*(?:\.[\w-]+)*"
_OPTION = r"[\w.+@:/%,-]+?=?"
PLACEHOLDER = re.compile(
    rf"\{{\{{(?P<literal>flag:{_NAME}|{_NAME}(?:\?{_OPTION})?(?:\.\.\.)?)\}}\}}"
    rf"|(?<!\$)\{{(?P<flag>flag:)?(?P<name>{_NAME})"
    rf"(?(flag)|(?:\?(?P<option>{_OPTION}))?(?P<each>\.\.\.)?)\}}"
)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


@dataclass(frozen=True)
class Template:
    """A parsed command: one word for the shell, or the words of an argv; each a sequence of texts and slots."""

    source: str | tuple[str, ...]
    words: tuple[tuple[str | Slot, ...], ...]
    is_shell: bool
    background: str = ""  # what of the command would go on after its end, and how to mend that

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The places for values, in order."""
        return tuple(part for word in self.words for part in word if isinstance(part, Slot))

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that are used, in order of first use."""
        return tuple(dict.fromkeys(slot.name for slot in self.slots))

    @property
    def program(self) -> str:
        """The program that the command starts, as it is written there, without `VAR=x`, `exec` and `env`."""
        words = self.source if isinstance(self.source, tuple) else _split(self.source)
        rest = iter(words)
        prefixed = False
        for word in rest:
            name = word.rpartition("/")[2]
            if name in ("exec", "env"):
                prefixed = True
            elif prefixed and word.startswith("-"):
                if word in ("-u", "--unset", "-C", "--chdir", "-a"):
                    next(rest, None)
            elif not _ASSIGNMENT.match(word):
                return word
            elif "$(" in word or "`" in word:  # what follows may be part of it
                return ""
        return ""


def parse(template: str | Sequence[str], bash: bool = True) -> Template:
    """Read a command: a string for the shell, a list for none. `bash`: whether that shell is bash.

    Raises UsageError where it is empty, holds a NUL, has a placeholder where the shell would not give back a value as
    it is, or where a form that makes words of its own stands inside of another word or of quotes.
    """
    texts = (template,) if isinstance(template, str) else tuple(template)
    if not texts or not texts[0].strip():
        raise UsageError("the command is empty", "write the command that trains once, with {name} for each argument")
    if any("\0" in text for text in texts):
        raise UsageError("the command holds a NUL character, which no command line can carry")
    if not isinstance(template, str):
        return Template(texts, tuple(map(_word, texts)), is_shell=False)
    flat, slots = _flat(template)
    reading = syntax.read(flat, iter(slots), bash)
    return Template(template, (_parts(reading.text, reading.slots),), True, reading.background)


def render(template: Template, values: Mapping[str, Value]) -> str | list[str]:
    """The command for one job: a string for the shell, a list for none.

    `values` has every name of the template, but for those used only in forms that may be left out.
    Raises UsageError for a name that lacks, a flag that is neither true nor false, what should be a list, and as
    `quoting.quote`.
    """
    if template.is_shell:
        (word,) = template.words
        return "".join(p if isinstance(p, str) else _words(p, values) for p in word)
    argv: list[str] = []
    for word in template.words:
        alone = word[0] if len(word) == 1 else ""
        if isinstance(alone, Slot):
            argv += _texts(alone, values)
        else:
            argv.append("".join(p if isinstance(p, str) else _texts(p, values)[0] for p in word))
    return argv


def sample(template: Template) -> str:
    """A command of a shell with 1 in place of each value: what of it the shell reads alike in every job."""
    return "".join(part if isinstance(part, str) else "1" for word in template.words for part in word)


def is_name(text: str) -> bool:
    """Whether `{text}` is a placeholder."""
    return re.fullmatch(_NAME, text) is not None


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command, comments=True)
    except ValueError:  # a quote that doesn't close, for shlex: a comment or a here-document with an apostrophe
        return command.split()


def _flat(text: str) -> tuple[str, list[Slot]]:
    """The text with a hole in place of each placeholder, and what these are."""
    slots: list[Slot] = []

    def flatten(m: re.Match[str]) -> str:
        if m["literal"] is not None:
            return "{" + m["literal"] + "}"
        slots.append(Slot(m["name"], m["option"] or "", bool(m["flag"]), bool(m["each"])))
        return HOLE

    return PLACEHOLDER.sub(flatten, text), slots


def _word(text: str) -> tuple[str | Slot, ...]:
    """One word of an argv."""
    flat, slots = _flat(text)
    for slot in slots:
        quoting.stand_alone(slot, flat == HOLE or not slot.is_word)
    return _parts(flat, slots)


def _parts(flat: str, slots: Sequence[Slot]) -> tuple[str | Slot, ...]:
    texts = flat.split(HOLE)
    parts: list[str | Slot] = [texts[0]]
    for slot, after in zip(slots, texts[1:], strict=True):
        parts += [slot, after]
    return tuple(part for part in parts if part != "")


def _texts(slot: Slot, values: Mapping[str, Value]) -> list[str]:
    """The words that a value becomes, not quoted yet."""
    value = values.get(slot.name)
    if value is None and not slot.may_be_left_out:
        what = f"the template needs {slot}, but there is no {slot.name!r} here"
        raise UsageError(what, f"write {instead(slot)}")
    if value is None or (value.data is None and slot.may_be_left_out):
        return []
    if slot.is_flag:
        if not isinstance(value.data, bool):
            raise UsageError(f"{slot} needs true or false, not {value.text!r}", f"write {{{slot.name}?--{slot.name}}}")
        return [f"--{slot.name}"] if value.data else []
    if slot.each and not isinstance(value.data, list):
        raise UsageError(f"{slot} needs a list, not {value.text!r}", f"write {instead(slot)}")
    texts = elements(value) if slot.each else [value.rendered]
    if slot.option.endswith("="):
        return [slot.option + text for text in texts]
    return [slot.option, *texts] if slot.option and texts else texts


def instead(slot: Slot) -> str:
    """The form that a slot would have to have to take what it does not."""
    return f"{{{slot.name}?--{slot.name}{'...' if slot.each else ''}}}"


def elements(value: Value) -> list[str]:
    """The texts of the elements of a list, as they are written."""
    texts = _items(value.text)
    if len(texts) != len(value.data):
        import json

        texts = tuple(json.dumps(element, ensure_ascii=False) for element in value.data)
    # A text in quotes is what it means: YAML takes some of its characters, such as \x85, for the end of a line.
    return [e if isinstance(e, str) else text for e, text in zip(value.data, texts, strict=True)]


@lru_cache(maxsize=4096)  # a grid has few lists, and many points
def _items(text: str) -> tuple[str, ...]:
    try:
        return tuple(item.text for item in yaml_tree.read(text, yaml_tree.Report("")).items)
    except ConfigError:  # with characters that only quotes of YAML can hold
        return ()


def _words(slot: Slot, values: Mapping[str, Value]) -> str:
    return " ".join(quoting.quote(slot, text) for text in _texts(slot, values))
