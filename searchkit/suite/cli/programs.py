"""What search-run checks of a template before anything is written: its program exists, and its shell can read it."""

from __future__ import annotations

import os
import shutil

from searchkit.errors import UsageError
from searchkit.suite.config import shells, template
from searchkit.suite.config.settings import Config
from searchkit.suite.workspace import Workspace


def check(config: Config, ws: Workspace) -> None:
    """A command that no shell can read, or whose program or shell does not exist, would fail in every job. Raises
    UsageError."""
    path = config.env.get("PATH", os.environ.get("PATH", ""))
    shell = shells.located(config.run.shell, path)
    callbacks = config.callbacks
    commands = {"callbacks.pre": callbacks.pre, "callbacks.after": callbacks.after}
    if config.template.is_shell:
        commands = {"task.template": template.sample(config.template), **commands}
    for key, command in commands.items():
        if command and (fault := shells.fault(shell, command, {**os.environ, **config.env})):
            raise UsageError(
                f"{key}: {config.run.shell[0]} can't read it: {fault}", "Fix it: quotes, pipes, `fi`, `done`"
            )
    _check_exists(config, ws, path)


def _check_exists(config: Config, ws: Workspace, path: str) -> None:
    program = config.template.program
    if (
        not program
        or any(c in program for c in "${}*?`\"'()|&;<>~")
        or (config.template.is_shell and shells.is_shell_word(program))
    ):
        return
    if "/" in program:
        exists = os.path.exists(os.path.join(ws.project, program))
    else:
        exists = shutil.which(program, path=path) is not None
    if not exists:
        where = f"in the project {ws.project}" if "/" in program else "on PATH"
        raise UsageError(f"task.template starts with {program!r}, which is not {where}", "Fix the template, or PATH")
