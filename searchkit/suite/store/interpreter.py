"""The Python that the jobs of a task find: where it is, what it is, and where packages are installed for it.

Usually it is the one that runs search-run, and nothing has to be asked. Any other is asked once, beside other work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

ANSWER_S = 10.0  # how long it may take to say what it is
_PROGRAM = re.compile(r"(python|pypy)[\d.]*")
# Must run on Pythons that are older than searchkit needs, too.
_SAY = """
import json, site, sys
folders = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
names = sorted(getattr(sys, "stdlib_module_names", ()))
version = ".".join(map(str, sys.version_info[:3]))
print(json.dumps({"version": version, "prefix": sys.prefix, "sites": folders, "stdlib": names}))
"""


@dataclass(frozen=True)
class Interpreter:
    path: str
    version: str  # 3.11.7
    prefix: str  # the folder of its environment
    sites: tuple[str, ...]  # folders of installed packages, whose .pth files it obeys
    stdlib: frozenset[str]  # the top-level names of its standard library

    def facts(self) -> dict[str, str]:
        """What distinguishes it from others."""
        return {"path": self.path, "version": self.version, "prefix": self.prefix}


def which(program: str, env: Mapping[str, str]) -> str | None:
    """The Python that a command finds: its program where that is one, else `python` on its PATH."""
    path = env.get("PATH")
    if _PROGRAM.fullmatch(os.path.basename(program)) and (python := shutil.which(program, path=path)):
        return os.path.abspath(python)
    python = shutil.which("python", path=path) or shutil.which("python3", path=path)
    return os.path.abspath(python) if python else None


def own(path: str = sys.executable) -> Interpreter:
    """The one that runs this, which jobs call `path`."""
    import site

    sites = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    version = ".".join(map(str, sys.version_info[:3]))
    return Interpreter(path, version, sys.prefix, tuple(sites), frozenset(sys.stdlib_module_names))


def is_own(path: str) -> bool:
    """Whether a path leads to the Python that runs this, in the same environment."""
    own_folder, folder = (os.path.realpath(os.path.dirname(p)) for p in (sys.executable, path))
    return own_folder == folder and os.path.realpath(path) == os.path.realpath(sys.executable)


@dataclass
class Pythons:
    """The answers of Pythons about themselves: each is asked once."""

    asked: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    answers: dict[str, Interpreter | None] = field(default_factory=dict)

    def ask(self, program: str, env: Mapping[str, str]) -> str | None:
        """Begin to ask the one that a command with this program finds, without waiting; returns its path."""
        path = which(program, env)
        if path is None or path in self.asked or path in self.answers:
            return path
        if is_own(path):
            self.answers[path] = own(path)
            return path
        import subprocess

        try:
            self.asked[path] = subprocess.Popen(
                [path, "-c", _SAY],
                cwd="/",
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            self.answers[path] = None
        return path

    def answer(self, program: str, env: Mapping[str, str]) -> Interpreter | None:
        """What it is; None where there is none, or it does not answer."""
        path = self.ask(program, env)
        if path is None:
            return None
        if (process := self.asked.pop(path, None)) is not None:
            self.answers[path] = _heard(path, process)
        return self.answers[path]


def _heard(path: str, process: subprocess.Popen[bytes]) -> Interpreter | None:
    import subprocess

    with process:
        try:
            out, _ = process.communicate(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    try:
        answer = json.loads(out.splitlines()[-1])  # whatever else a wrapper of `python` may print
        stdlib = frozenset(answer["stdlib"]) or frozenset(sys.stdlib_module_names)
        return Interpreter(path, answer["version"], answer["prefix"], tuple(answer["sites"]), stdlib)
    except (ValueError, IndexError, KeyError, TypeError):
        return None
