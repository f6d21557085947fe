"""A value reaches the program as it was written, wherever its placeholder stands; all other braces are left alone."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit import template as t
from searchkit.errors import UsageError

NASTY = ["'", '"', "$", "`", "\\", "!", "\n", "$(id)", "`id`", "${HOME}", "$HOME", "*", "~", "#", ";", "&&", "|", "<", ">"]
NASTY += ["}", "{", " ", "\t", "--", "-n", "é", "数据", "\x01", "\x7f", "\x81", "\u2028", "😀", "%s", "\\n", "''", '""', "="]
values = st.lists(
    st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
).map("".join)

# where {v} stands -> what must come before and after the value in the one argument
CONTEXTS = {
    "bare": ("{v}", "", ""),
    "inside a word": ("--lr={v}.", "--lr=", "."),
    "in single quotes": ("'a {v} b'", "a ", " b"),
    "in double quotes": ('"a {v} b"', "a ", " b"),
    "after quotes of both kinds": ("""'"'"it's"{v}""", "\"it's", ""),
    "after escaped quotes": (r"""\'\"{v}"\""'\'""", "'\"", '"\\'),
    "after an escaped quote in quotes": (r'''"\"'{v}"''', "\"'", ""),
    "after a variable": ("$X{v}", "x", ""),
    "after a variable in quotes": ('"$X{v}"', "x", ""),
    "in a substitution": ('"$(printf %s {v}.)"', "", "."),
    "in quotes in a substitution": ('''"a$(printf %s "{v}".)"''', "a", "."),
    "after a substitution": ('''"$(echo "a)" ')')"{v}''', "a) )", ""),
    "in a subshell in a substitution": ("\"$( (printf %s '{v}.') )\"", "", "."),
    "in backticks": ('"`printf %s {v}.`"', "", "."),
    "in single quotes in backticks": ("\"`printf %s '{v}.'`\"", "", "."),
    "in double quotes in bare backticks": ('x"`printf %s "{v}."`"', "x", "."),
    "in a default": ("${NONE:-{v}}", "", ""),
    "in a quoted default": ('"${NONE:-{v}}"', "", ""),
    "after a comment": ("# don't {v} \"\n{v}", "", ""),
    "in a here-document": ("\"$(cat <<END\nit's {v}.\nEND\n)\"", "it's ", "."),
    "in a raw here-document": ("\"$(cat <<-'END'\n\tit's $X {v}.\n\tEND\n)\"", "it's $X ", "."),
    "after a variable in a here-document": ('"$(cat <<END\n$X{v}.\nEND\n)"', "x", "."),
    "after a here-document": ("\"$(cat <<END\nit's\nEND\n)\"{v}", "it's", ""),
}
SHELLS = [shell for shell in ("sh", "bash", "busybox") if shutil.which(shell)]


def argv(shell: str, command: str) -> list[bytes]:
    flag = {"busybox": "sh", "bash": "--posix"}.get(shell)  # as each of them behaves when it is /bin/sh
    run = [shell, flag, "-c"] if flag else [shell, "-c"]
    done = subprocess.run([*run, command], capture_output=True, env={"PATH": "/usr/bin:/bin", "X": "x", "LC_ALL": "C"})
    assert done.stderr == b"" and done.returncode == 0, (command, done.stderr)
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("where", CONTEXTS)
@settings(max_examples=40, deadline=None)
@given(value=values)
def test_value_arrives_verbatim(shell: str, where: str, value: str) -> None:
    place, before, after = CONTEXTS[where]
    # a comment swallows the rest of its line, so the words before it stand on their own
    start = "printf '%s\\0' 1 " + ("\\\n" if not place.startswith("#") else "2\n")
    if place.startswith("#"):
        place = place.replace("\n", "\nprintf '%s\\0' ")
        start = "printf '%s\\0' 1 "
    command = t.render(t.parse(start + place), {"v": value})
    assert isinstance(command, str)
    assert argv(shell, command) == [b"1", (before + value + after).encode()]
