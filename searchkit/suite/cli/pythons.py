"""What search-run says about the Python that jobs run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from searchkit.suite.store import imports, interpreter

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.run.launcher import Launcher


def ask(configs: Iterable[Config]) -> interpreter.Pythons:
    """Begin to ask the Pythons of these configs what they are, while the project is copied."""
    asked = interpreter.Pythons()
    for config in configs:
        asked.ask(config.template.program, {**os.environ, **config.env})
    return asked


def notes(launcher: Launcher) -> Iterator[str]:
    """What may surprise the user, or has changed since other jobs of the task ran."""
    plan, state = launcher.plan, launcher.task.state
    if plan.python is None and (path := interpreter.which(plan.config.template.program, plan.base_env)):
        yield f"{path} does not say which Python it is: what it imports from the project itself is not known"
    if text := imports.told(launcher.copied(state.snapshot)):
        yield text
    if plan.python and (pythons := launcher.pythons_before()):
        then = ", ".join(sorted({_name(python) for python in pythons}))
        yield f"{len(pythons)} job(s) ran with {then}; what runs now has {_name(plan.python.facts())}"


def _name(python: dict[str, str]) -> str:
    return f"Python {python['version']} of {python['prefix']} ({python['path']})"
