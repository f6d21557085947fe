"""Commands with holes: `{name}` becomes the text of an argument, as the program is to receive it, whatever it holds.

A string is a command of /bin/sh, so a value is quoted by where it stands: bare, inside '…', inside "…", and inside
`$(…)`, backticks, `${…}` and here-documents. A list is an argv without a shell: values go in as they are. Braces that
hold no name stay (`${HOME}`, `{a,b}`, awk, JSON); `{{name}}` is the literal `{name}`.

Three forms are words of their own, which are left out where there is nothing to say: `{flag:x}` is `--x` where x is
true, `{x?--opt}` is `--opt VALUE`, `{x?opt=}` is `opt=VALUE` in one word; nothing for null and for what does not exist.

Known limit: `case` patterns without their opening parenthesis inside `$(…)` end the substitution too early for us.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from searchkit.errors import UsageError
from searchkit.space.args import Value

_NAME = r"[^\W\d][\w-]*(?:\.[\w-]+)*"
_OPTION = r"[\w.+@:/%,-]+=?"
PLACEHOLDER = re.compile(
    rf"\{{\{{(?P<literal>flag:{_NAME}|{_NAME}(?:\?{_OPTION})?)\}}\}}"
    rf"|(?<!\$)\{{(?P<flag>flag:)?(?P<name>{_NAME})(?(flag)|(?:\?(?P<option>{_OPTION}))?)\}}"
)

_HOLE = "\0"  # stands for a placeholder while the shell's syntax is read; a command can't hold a real one
_HEREDOC = re.compile(r"(?<!<)<<(?P<tabs>-?)[ \t]*(?P<word>\\?[\w.-]+|'[^'\n]+'|\"[^\"\n]+\")")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|[0-9])(?=\0)")
_SAFE = re.compile(r"[a-zA-Z0-9@%+=:,./_-]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
# Nothing but words: no expansion, no operator, no comment; quotes only around what they leave alone.
_PLAIN = re.compile(r"""[ \t]*[\w./](?:[\w@%+:,./= \t-]|'[^']*'|"[^"$`\\!]*")*""", re.ASCII)
_PROGRAM = re.compile(r"[\w./+-]+", re.ASCII)
_SHELL_WORDS = frozenset(
    """! . : [ { ( alias bg break case cd chdir command continue do done echo elif else esac eval exec exit export false
    fc fg fi for function getopts hash if in jobs kill let local printf pwd read readonly return select set shift source
    test then time times trap true type typeset ulimit umask unalias unset until wait while } )""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Slot:
    """A place for a value. `context` says how the shell reads that place; `backticks` how many pairs enclose it."""

    name: str
    option: str = ""  # what stands before the value, in a word of its own unless it ends in `=`
    is_flag: bool = False
    context: str = "verbatim"
    backticks: int = 0
    until: str = ""  # the line that would end the here-document around it
    loses_tabs: bool = False  # that here-document begins with `<<-`: the shell drops the tabs that lines begin with

    @property
    def is_word(self) -> bool:
        """Whether it is one of the forms that make a word of their own, or two, or none."""
        return self.is_flag or bool(self.option)

    def __str__(self) -> str:
        return f"{{{'flag:' if self.is_flag else ''}{self.name}{'?' if self.option else ''}{self.option}}}"


@dataclass(frozen=True)
class Template:
    """A parsed command: one word for the shell, or the words of an argv; each a sequence of texts and slots."""

    source: str | tuple[str, ...]
    words: tuple[tuple[str | Slot, ...], ...]
    is_shell: bool

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
        return ""


def parse(template: str | Sequence[str]) -> Template:
    """Read a command: a string for the shell, a list for none.

    Raises UsageError where it is empty, holds a NUL, has a backslash right before a placeholder, or where a form that
    makes words of its own stands inside of another word or of quotes.
    """
    is_shell = isinstance(template, str)
    texts = (template,) if isinstance(template, str) else tuple(template)
    if not texts or not texts[0].strip():
        raise UsageError("the command is empty", "write the command that trains once, with {name} for each argument")
    if any("\0" in text for text in texts):
        raise UsageError("the command holds a NUL character, which no command line can carry")
    words = tuple(_parts(text, is_shell) for text in texts)
    return Template(texts[0] if is_shell else texts, words, is_shell)


def render(template: Template, values: Mapping[str, Value]) -> str | list[str]:
    """The command for one job: a string for the shell, a list for none.

    `values` has every name of the template, but for those used only in forms that may be left out.
    Raises UsageError for a name that lacks, a flag that is neither true nor false, and a value that holds the line at
    which the here-document around it ends.
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


def is_name(text: str) -> bool:
    """Whether `{text}` is a placeholder."""
    return re.fullmatch(_NAME, text) is not None


def is_shell_word(word: str) -> bool:
    """Whether /bin/sh itself answers to a word: its builtins and keywords need no program on PATH."""
    return word in _SHELL_WORDS


def direct(command: str) -> list[str] | None:
    """The words of a command of the shell that the shell would do nothing to but split and start; None for any other.

    Started without a shell it is the same program with the same arguments, and one process less.
    """
    if not _PLAIN.fullmatch(command):
        return None
    first = command.split(None, 1)[0]
    if is_shell_word(first) or not _PROGRAM.fullmatch(first):
        return None
    return shlex.split(command) if "'" in command or '"' in command else command.split()


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command, comments=True)
    except ValueError:  # a quote that doesn't close, for shlex: a comment or a here-document with an apostrophe
        return command.split()


def _parts(text: str, is_shell: bool) -> tuple[str | Slot, ...]:
    slots: list[Slot] = []

    def flatten(m: re.Match[str]) -> str:
        if m["literal"] is not None:
            return "{" + m["literal"] + "}"
        slots.append(Slot(m["name"], m["option"] or "", bool(m["flag"])))
        return _HOLE

    flat = PLACEHOLDER.sub(flatten, text)
    if is_shell:
        shell = _Shell(flat, iter(slots))
        slots = shell.read()
        for at in reversed(shell.glued):  # `$A{lr}` would become the variable A0
            flat = flat[:at] + _VARIABLE.sub(r"${\1}", flat[at:], count=1)
    elif flat != _HOLE:
        for slot in slots:
            _stand_alone(slot, not slot.is_word)
    texts = flat.split(_HOLE)
    parts: list[str | Slot] = [texts[0]]
    for slot, after in zip(slots, texts[1:], strict=True):
        parts += [slot, after]
    return tuple(part for part in parts if part != "")


def _stand_alone(slot: Slot, alone: bool) -> None:
    if not alone:
        raise UsageError(
            f"{slot} must stand alone, as a word of its own outside of quotes",
            f"it may become no word or several; write {{{slot}}} for the literal text",
        )


def _texts(slot: Slot, values: Mapping[str, Value]) -> list[str]:
    """The words that a value becomes, not quoted yet."""
    value = values.get(slot.name)
    if not slot.is_word:
        if value is None:
            what = f"the template needs {slot}, but there is no {slot.name!r} here"
            raise UsageError(what, f"write {{{slot.name}?--{slot.name}}}")
        return [value.rendered]
    if value is None or value.data is None:
        return []
    if slot.is_flag:
        if not isinstance(value.data, bool):
            raise UsageError(f"{slot} needs true or false, not {value.text!r}", f"write {{{slot.name}?--{slot.name}}}")
        return [f"--{slot.name}"] if value.data else []
    return [slot.option + value.rendered] if slot.option.endswith("=") else [slot.option, value.rendered]


def _words(slot: Slot, values: Mapping[str, Value]) -> str:
    return " ".join(_quote(slot, text) for text in _texts(slot, values))


def _quote(slot: Slot, value: str) -> str:
    """`value` so that the shell reads it back unchanged at this place."""
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
    text = _QUOTE[slot.context](value)
    for _ in range(slot.backticks):  # the shell removes one layer of these before it reads the inside
        text = re.sub(r"([\\$`])", r"\\\1", text)
    return text


def _bare(value: str) -> str:
    # not shlex.quote's `'"'"'`: bash 5.2 misreads that where it stands in backticks in double quotes
    return value if _SAFE.fullmatch(value) else "'" + value.replace("'", "'\\''") + "'"


_QUOTE: Mapping[str, Callable[[str], str]] = {
    "bare": _bare,
    "digits": lambda value: f"'{value}'" if value.isdigit() else _bare(value),  # `echo {n}>log` has no descriptor
    "single": lambda value: value.replace("'", "'\\''"),
    "double": lambda value: re.sub(r'([\\"$`])', r"\\\1", value),
    "double brace": lambda value: re.sub(r'([\\"$`}])', r"\\\1", value),
    "heredoc": lambda value: re.sub(r"([\\$`])", r"\\\1", value),
    "comment": lambda value: value.replace("\n", " "),
    "verbatim": lambda value: value,
}

_CLOSES = {"'": "'", '"': '"', "`": "`", "(": ")", "$(": ")", "${": "}", "$((": "))", "((": ")"}
_BARE = ("sh", "(", "$(", "`")
_ARITHMETIC = ("$((", "((")
_WENT_ON = re.compile(r"(?<!\\)(?:\\\\)*(\\\n)\Z")  # a line that goes on in the next
_GOES_ON = re.compile(r"\A(?:\\\n)+")


class _Shell:
    """Reads the syntax of /bin/sh just far enough to know, for each hole, how the shell will read what stands there.

    The stack holds what is open: `sh` at the bottom, then any of the keys of `_CLOSES`, and `<<`, the body of a
    here-document; `((` is a parenthesis inside arithmetic.
    """

    def __init__(
        self,
        text: str,
        holes: Iterator[Slot],
        stack: Sequence[str] = ("sh",),
        until: str = "",
        loses_tabs: bool = False,
    ) -> None:
        self.text = text
        self.holes = holes
        self.stack = list(stack)
        self.until = until
        self.loses_tabs = loses_tabs
        self.at = 0
        self.slots: list[Slot] = []
        self.pending: list[re.Match[str]] = []  # here-documents whose bodies start at the next line
        self.glued: list[int] = []  # where `$NAME` runs into a hole

    def read(self) -> list[Slot]:
        """The slots, in order. Raises UsageError as `parse`."""
        while self.at < len(self.text):
            self._step(self.text[self.at])
        return self.slots

    def _step(self, c: str) -> None:
        top = self.stack[-1]
        closing = _CLOSES.get(top)
        if c == _HOLE:
            self._slot(self._context())
        elif closing and self.text.startswith(closing, self.at):
            self.stack.pop()
            self.at += len(closing)
        elif top == "'":
            self.at += 1
        elif c == "\\":
            self._escape()
        elif c == "$":
            self._dollar()
        elif c == "`" or (c == '"' and top != "<<") or (c == "'" and self._is_bare()):
            self._open(c)
        elif c == "(" and top in (*_BARE, *_ARITHMETIC):
            self._open("((" if top in _ARITHMETIC else "(", 1)
        elif top in _BARE:
            self._bare(c)
        else:
            self.at += 1

    def _open(self, frame: str, length: int | None = None) -> None:
        self.stack.append(frame)
        self.at += len(frame) if length is None else length

    def _is_bare(self) -> bool:
        """Whether quotes start here, and words end; the inside of `${…}` is as its outside."""
        outer = next(frame for frame in reversed(self.stack) if frame != "${")
        return outer in _BARE

    def _context(self) -> str:
        top = self.stack[-1]
        if self._is_bare():
            return "digits" if top in _BARE and self.text[self.at + 1 : self.at + 2] in ("<", ">") else "bare"
        return {"'": "single", "${": "double brace", "<<": "heredoc"}.get(top, "double")

    def _slot(self, context: str) -> None:
        slot = next(self.holes)
        if slot.is_word and context != "comment":
            _stand_alone(slot, context == "bare" and self.stack[-1] in _BARE and self._is_alone())
        slot = replace(slot, context=context, backticks=self.stack.count("`"))
        self.slots.append(replace(slot, until=self.until, loses_tabs=self.loses_tabs))
        self.at += 1

    def _is_alone(self) -> bool:
        """Whether words end before and after the hole."""
        before, after = self.text[: self.at], _GOES_ON.sub("", self.text[self.at + 1 :], count=1)
        while joined := _WENT_ON.search(before):
            before = before[: joined.start(1)]
        tick = "`" if self.stack[-1] == "`" else ""  # these backticks' own
        ends = " \t\n;&|" + tick
        return before[-1:] in (*ends, "(", "") and after[:1] in (*ends, ")", "")

    def _escape(self) -> None:
        if self.text[self.at + 1 : self.at + 2] == _HOLE:
            slot = next(self.holes)
            raise UsageError(
                f"the backslash before {slot} would escape the first character of the value",
                f"write {{{slot}}} for the literal text, or two backslashes for a backslash and the value",
            )
        self.at += 2

    def _dollar(self) -> None:
        if _VARIABLE.match(self.text, self.at):
            self.glued.append(self.at)
        for opening in ("$((", "$(", "${"):
            if self.text.startswith(opening, self.at):
                return self._open(opening)
        self.at += 1

    def _bare(self, c: str) -> None:
        """What is special only where words are split: comments and here-documents."""
        heredoc = _HEREDOC.match(self.text, self.at)
        if c == "#" and (self.at == 0 or self.text[self.at - 1] in " \t\n;&|()`"):
            end = self.text.find("\n", self.at)
            self._holes("comment", len(self.text) if end < 0 else end)
        elif heredoc:
            self.pending.append(heredoc)
            self.at = heredoc.end()
        else:
            self.at += 1
            if c == "\n" and self.pending:
                documents, self.pending = self.pending, []
                for document in documents:
                    self._body(document)

    def _holes(self, context: str, end: int) -> None:
        """Every hole up to `end`, where nothing else has a meaning."""
        while (hole := self.text.find(_HOLE, self.at, end)) >= 0:
            self.at = hole
            self._slot(context)
        self.at = end

    def _body(self, document: re.Match[str]) -> None:
        """The body of a here-document: raw if any part of its word is quoted, otherwise with `$`, backticks and \\."""
        word, start = document["word"], self.at
        until = word.strip("\\'\"")
        line = re.compile(("\t*" if document["tabs"] else "") + re.escape(until) + r"(?:\n|\Z)")
        end = start
        while end < len(self.text) and not line.match(self.text, end):
            end = self.text.find("\n", end) + 1 or len(self.text)
        if word != until:
            outside, self.until, self.loses_tabs = (self.until, self.loses_tabs), until, bool(document["tabs"])
            self._holes("verbatim", end)
            self.until, self.loses_tabs = outside
        else:
            inside = _Shell(self.text[start:end], self.holes, (*self.stack, "<<"), until, bool(document["tabs"]))
            self.slots += inside.read()
            self.glued += [start + at for at in inside.glued]
        last = line.match(self.text, end)
        self.at = last.end() if last else end
