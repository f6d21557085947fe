"""The syntax of a shell, read just far enough to know how the shell will read each placeholder of a command.

`read` goes through a command whose placeholders are NUL characters, and says for each in which context it stands:
bare, inside '…', "…", `$'…'`, in `$(…)`, `<(…)`, backticks, `${…}`, in here-documents. What bash adds to sh is read
only where bash is the shell. Places that can't give a value back as it is are refused: `[[ … ]]`, `$"…"`, patterns in
`${…}`.

Known limits: `case` patterns without their opening parenthesis inside `$(…)` end the substitution too early for us.
What a command itself does with its words (`eval`, `let`, `test -v`) is that command's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from searchkit.errors import UsageError
from searchkit.suite.config.quoting import Slot, stand_alone

HOLE = "\0"  # stands for a placeholder while the syntax is read; a command can't hold a real one

_HEREDOC = re.compile(r"(?<!<)<<(?P<tabs>-?)[ \t]*(?P<word>\\?[\w.-]+|'[^'\n]+'|\"[^\"\n]+\")")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|[0-9])(?=\0)")
_CLOSES = {"'": "'", '"': '"', "`": "`", "(": ")", "$(": ")", "${": "}", "$((": "))", "((": ")"}
_CLOSES |= {"$'": "'", '$"': '"', "<(": ")", "${:": "}", "${?": "}", "$[": "]", "[": "]"}  # of bash alone
_BARE = ("sh", "(", "$(", "`", "<(", "[[")
_COMMANDS = (*_BARE[:-1], "<<")  # what stands in one of these doesn't depend on what encloses it
_ARITHMETIC = ("$((", "((", "$[", "[", "${:")
_REFUSED = {
    "[[": ("inside [[ … ]], which would read it as a pattern or evaluate it", "write [ … ]"),
    '$"': ('inside $"…", which is looked up in a catalogue of translations', 'write "…"'),
    "${?": ("in a form of ${…} which would read it as a name or a pattern", "set a variable first"),
}
_PARAMETER = re.compile(r"\$\{[!#]?(?:[A-Za-z_]\w*|[0-9]+|[@*#?$!-](?=[}:=?+\[#%/^,@-]))?", re.ASCII)
_DEFAULT = re.compile(r":?[-=?+]")
_SUBSCRIPT = re.compile(r"(?:\A|[\s;&|(])(?:[A-Za-z_]\w*)?\[[^\s\]]*\Z", re.ASCII)  # `a[` and, in a list, `[`
_ASSIGNS = re.compile(r"[^\s\]]*\]\+?=")
_WENT_ON = re.compile(r"(?<!\\)(?:\\\\)*(\\\n)\Z")  # a line that goes on in the next
_GOES_ON = re.compile(r"\A(?:\\\n)+")
_NO_COMMAND = re.compile(r"(?:[\s;)}]|\b(?:done|fi|esac)\b|#[^\n]*)*")  # what may follow the last command


@dataclass(frozen=True)
class Reading:
    """What there is to know of a command. `text` is the command, mended where `$NAME` would run into a value;
    `background` says what of it would go on after its end; empty where nothing would."""

    slots: tuple[Slot, ...]
    text: str
    background: str


def read(text: str, slots: Iterator[Slot], bash: bool) -> Reading:
    """Find out where the holes of a command are. Raises UsageError for places where no value can be."""
    shell = _Shell(text, slots, bash)
    shell.read()
    for at in reversed(shell.glued):  # `$A{lr}` would become the variable A0
        text = text[:at] + _VARIABLE.sub(r"${\1}", text[at:], count=1)
    return Reading(tuple(shell.slots), text, shell.background())


class _Shell:
    """Reads the syntax of a shell just far enough to know, for each hole, how the shell will read what stands there.

    The stack holds what is open: `sh` at the bottom, then any of the keys of `_CLOSES`, and `<<`, the body of a
    here-document. `((` is a parenthesis inside arithmetic, `$((` also stands for the command `((…))`, `[[` for that of
    bash; `[` is the subscript of a variable, `${:` the numbers of `${x:1:2}`, `${?` a form without place for a value.
    """

    def __init__(
        self,
        text: str,
        holes: Iterator[Slot],
        bash: bool,
        stack: Sequence[str] = ("sh",),
        until: str = "",
        loses_tabs: bool = False,
    ) -> None:
        self.text = text
        self.holes = holes
        self.bash = bash
        self.stack = list(stack)
        self.until = until
        self.loses_tabs = loses_tabs
        self.at = 0
        self.slots: list[Slot] = []
        self.pending: list[re.Match[str]] = []  # here-documents whose bodies start at the next line
        self.glued: list[int] = []  # where `$NAME` runs into a hole
        self.ampersand: int | None = None  # the last `&` that starts a command in the background
        self.foreign = False  # `&>` where the shell is not bash

    def read(self) -> None:
        """Go through the text. Raises UsageError for a hole where no value can be."""
        while self.at < len(self.text):
            self._step(self.text[self.at])

    def background(self) -> str:
        """What goes on after the end of the command, and how to mend that; empty where nothing does."""
        if self.foreign:
            what = "`&>` is bash's; sh starts the command in the background instead"
            return f"{what}: write `> FILE 2>&1`, or set run.shell: bash"
        if self.ampersand is None or not _NO_COMMAND.fullmatch(self.text, self.ampersand + 1):
            return ""
        return (
            "its last command ends in `&`: the job would end at once, and what it started with it; "
            "leave out the `&`, or end with `wait`"
        )

    def _step(self, c: str) -> None:
        top = self.stack[-1]
        closing = _CLOSES.get(top)
        if c == HOLE:
            self._slot(self._context())
        elif closing and self.text.startswith(closing, self.at):
            self.stack.pop()
            self.at += len(closing)
            if top == "[" and self.stack[-1] == "${":
                self._operation()
        elif top == "'":
            self.at += 1
        elif c == "\\":
            self._escape()
        elif top == "$'":
            self.at += 1
        elif c == "$":
            self._dollar()
        elif c == "`" or (c == '"' and top != "<<") or (c == "'" and self._is_bare()):
            self._open(c)
        elif c == "[" and top in ("[", "$["):
            self._open("[")
        elif c == "(" and top != "[[" and top in (*_BARE, *_ARITHMETIC):
            self._parenthesis(top)
        elif top in _BARE:
            self._bare(c)
        else:
            self.at += 1

    def _open(self, frame: str, length: int | None = None) -> None:
        self.stack.append(frame)
        self.at += len(frame) if length is None else length

    def _is_bare(self) -> bool:
        """Whether quotes start here, and words end; the inside of `${…}` is as its outside."""
        outer = next(frame for frame in reversed(self.stack) if frame not in ("${", "${?"))
        return outer in _BARE

    def _context(self) -> str:
        if self.bash:
            for frame in reversed(self.stack):
                if frame in _ARITHMETIC:
                    return "number"
                if frame in _REFUSED:
                    return frame
                if frame in _COMMANDS:
                    break
        top = self.stack[-1]
        if self._is_bare():
            return self._word() if top in _BARE else "bare"
        brace = "bash brace" if self.bash else "double brace"
        return {"'": "single", "$'": "ansi", "${": brace, "<<": "heredoc"}.get(top, "double")

    def _word(self) -> str:
        """The context of a hole between words."""
        after = self.text[self.at + 1 :]
        if after[:1] in ("<", ">"):
            return "digits"
        if not self.bash:
            return "bare"
        if _SUBSCRIPT.search(self.text, 0, self.at) and _ASSIGNS.match(after):
            return "number"
        begins = max(self.text.rfind(blank, 0, self.at) for blank in " \t\n")
        return "braces" if "{" in self.text[begins + 1 : self.at] else "bare"

    def _slot(self, context: str) -> None:
        slot = next(self.holes)
        if context in _REFUSED:
            where, instead = _REFUSED[context]
            hint = instead if context != "${?" else f"{instead}: x={slot}; then write $x"
            raise UsageError(f"{slot} stands {where}", hint)
        if slot.is_word and context != "comment":
            bare = context in ("bare", "braces") and self.stack[-1] in _BARE
            stand_alone(slot, bare and self._is_alone())
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
        if self.text[self.at + 1 : self.at + 2] == HOLE:
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
                return self._parameter() if opening == "${" and self.bash else self._open(opening)
        for opening in ("$'", '$"') if self.bash and self._is_bare() else ():
            if self.text.startswith(opening, self.at):
                return self._open(opening)
        if self.bash and self.text.startswith("$[", self.at):
            return self._open("$[")
        self.at += 1

    def _parameter(self) -> None:
        """`${`, its name and its operator, as bash reads them."""
        name = _PARAMETER.match(self.text, self.at)
        assert name is not None  # the pattern needs no more than the `${`
        self._open("${", len(name.group()))
        if self.text.startswith("[", self.at):
            self._open("[")
        else:
            self._operation()

    def _operation(self) -> None:
        if default := _DEFAULT.match(self.text, self.at):
            self.at = default.end()
        elif self.text.startswith(":", self.at):
            self.stack[-1] = "${:"
            self.at += 1
        elif not self.text.startswith("}", self.at):
            self.stack[-1] = "${?"

    def _parenthesis(self, top: str) -> None:
        if top in _ARITHMETIC:
            self._open("((", 1)
        elif self.bash and self.text.startswith("((", self.at) and self._is_arithmetic():
            self._open("$((", 2)
        else:
            self._open("<(" if self.bash and self.text[self.at - 1 : self.at] in ("<", ">") else "(", 1)

    def _is_arithmetic(self) -> bool:
        """Whether `((` begins arithmetic, as bash decides it: its inner parenthesis closes right before another."""
        depth, at = 1, self.at + 2
        while depth and at < len(self.text):
            depth += {"(": 1, ")": -1}.get(self.text[at], 0)
            at += 2 if self.text[at] == "\\" else 1
        return self.text.startswith(")", at)

    def _bare(self, c: str) -> None:
        """What is special only where words are split: comments, here-documents, what goes to the background, [[ ]]."""
        heredoc = _HEREDOC.match(self.text, self.at)
        starts_word = self.at == 0 or self.text[self.at - 1] in " \t\n;&|()`"
        if c == "#" and starts_word:
            end = self.text.find("\n", self.at)
            self._holes("comment", len(self.text) if end < 0 else end)
        elif heredoc:
            self.pending.append(heredoc)
            self.at = heredoc.end()
        elif c == "&":
            self._ampersand()
        elif self.bash and self.text.startswith("[[", self.at) and starts_word:
            self._open("[[")
        elif self.stack[-1] == "[[" and self.text.startswith("]]", self.at) and self.text[self.at - 1].isspace():
            self.stack.pop()
            self.at += 2
        else:
            self.at += 1
            if c == "\n" and self.pending:
                documents, self.pending = self.pending, []
                for document in documents:
                    self._body(document)

    def _ampersand(self) -> None:
        before, after = self.text[self.at - 1 : self.at], self.text[self.at + 1 : self.at + 2]
        if after == "&" or (after == ">" and self.bash):
            self.at += 2
            return
        self.foreign |= after == ">" and before not in ("<", ">")
        if before not in ("<", ">", "|") and {*self.stack} <= {"sh", "("}:
            self.ampersand = self.at
        self.at += 1

    def _holes(self, context: str, end: int) -> None:
        """Every hole up to `end`, where nothing else has a meaning."""
        while (hole := self.text.find(HOLE, self.at, end)) >= 0:
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
            stack = (*self.stack, "<<")
            inside = _Shell(self.text[start:end], self.holes, self.bash, stack, until, bool(document["tabs"]))
            inside.read()
            self.slots += inside.slots
            self.glued += [start + at for at in inside.glued]
        last = line.match(self.text, end)
        self.at = last.end() if last else end
