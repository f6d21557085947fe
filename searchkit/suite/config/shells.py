"""Which shell runs the commands of a task, which words are the shell's own, and which commands need none.

A shell is the words that come before `-c COMMAND`. By default that is bash, as strict as a command that must not hide
its failures needs it: `-e` and `pipefail` end it where a line or a part of a pipe fails, and `+B` leaves `{64,128}` and
JSON as they are written. Where there is no bash it is /bin/sh.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from searchkit.errors import UsageError

Shell = tuple[str, ...]

BASH: Shell = ("bash", "+B", "-eo", "pipefail")
SH: Shell = ("/bin/sh",)
_NAMED: Mapping[str, Shell] = {"bash": BASH, "sh": SH}
SYNTAX_ERROR = 2  # the exit code of a shell that can't read its command
READ_S = 10.0  # that a shell may take to read one
_SH_LIKE = ("sh", "dash", "ash", "busybox")
LIKE = f"one of bash, {', '.join(_SH_LIKE)}"  # what the words of a shell may begin with
_FIRST = rf"(.*/)?(bash|{'|'.join(_SH_LIKE)})"
SCHEMA: Mapping[str, Any] = {  # of what `named` and `of_words` take
    "anyOf": [
        {"type": "string", "pattern": rf"""^\s*["']?{_FIRST}["']?(\s|$)"""},
        {"type": "array", "minItems": 1, "items": [{"type": "string", "pattern": f"^{_FIRST}$"}]},
    ]
}
# Nothing but words: no expansion, no operator, no comment; quotes only around what they leave alone.
_PLAIN = re.compile(r"""[ \t]*[\w./](?:[\w@%+:,./= \t-]|'[^']*'|"[^"$`\\!]*")*""", re.ASCII)
_PROGRAM = re.compile(r"[\w./+-]+", re.ASCII)
# Of sh and of bash.
KEYWORDS = frozenset(
    """! [[ ]] { } case coproc do done elif else esac fi for function if in select then time until while""".split()  # noqa: SIM905
)
_BUILTINS = frozenset(
    """. : [ ( alias bg bind break builtin caller cd chdir command compgen complete compopt continue declare dirs disown
    echo enable eval exec exit export false fc fg getopts hash help history jobs kill let local logout mapfile popd
    printf pushd pwd read readarray readonly return set shift shopt source suspend test times trap true type typeset
    ulimit umask unalias unset wait""".split()  # noqa: SIM905
)


def named(given: str) -> Shell:
    """The shell that `run.shell` says: `bash`, `sh`, or words of the user's own that begin with one of their kind.

    Raises UsageError for other programs: nobody knows how they read a quoted value.
    """
    try:
        words = tuple(shlex.split(given))
    except ValueError as e:
        raise UsageError(f"{given!r} can't be split into words: {e}") from e
    return of_words(words)


def of_words(words: Shell) -> Shell:
    """As `named`, of a text that is split already."""
    if len(words) == 1 and words[0] in _NAMED:
        return _NAMED[words[0]]
    if not words or not (is_bash(words) or _name(words) in _SH_LIKE):
        text = " ".join(words)
        what = f"must be bash, sh, or words that begin with {LIKE}, not {text!r}"
        other = _name(words) or "zsh"
        raise UsageError(what, f"values are quoted for these; call others in the template: {other} train.sh")
    if any("\n" in word for word in words):
        raise UsageError("must not hold the end of a line")
    return words


def default(path: str | None = None) -> Shell:
    """The shell of a new task that names none: bash where it exists."""
    return BASH if shutil.which(BASH[0], path=path) else SH


def is_bash(shell: Shell) -> bool:
    """Whether a shell reads commands as bash does."""
    return _name(shell) == "bash"


def located(shell: Shell, path: str | None) -> Shell:
    """A shell with its program as a path, so that the PATH of a job has no say. Raises UsageError where it is gone."""
    program = shutil.which(shell[0], path=path) or shutil.which(shell[0])
    if program is None:
        what = f"the commands of this task are run by {shell[0]}, which is not on PATH"
        raise UsageError(what, "Install it, or put it on PATH")
    return (program, *shell[1:])


def fault(shell: Shell, command: str, env: Mapping[str, str]) -> str:
    """Why a shell, as `located`, can't read a command; empty where it can. Nothing of the command is run, so one that
    changes how the rest is read (`shopt`, `alias`) is taken as right."""
    if direct(command) is not None or re.search(r"\b(shopt|alias)\b", command):
        return ""
    import subprocess  # kept off the start-up path

    argv = [*shell, "-n", "-c", command]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=READ_S)
    except (OSError, ValueError, subprocess.TimeoutExpired):  # too long, say: the jobs tell
        return ""
    errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode != SYNTAX_ERROR or not errors:
        return ""
    return re.sub(r"^\S+: (-c: )?(line )?(?=\d+: )", "line ", errors[0])


def _name(shell: Shell) -> str:
    return shell[0].rpartition("/")[2] if shell else ""


def is_shell_word(word: str) -> bool:
    """Whether a shell itself answers to a word: its builtins and keywords need no program on PATH."""
    return word in KEYWORDS or word in _BUILTINS


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
