"""`search-run --facts FILE`: what happens, as JSON lines for programs; people still read it on stdout."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import SearchkitError, UsageError
from searchkit.suite import facts
from searchkit.suite.store.job import Job


class Told:
    """The file; `Told(None)` writes nothing. As a context manager it writes the fault that ends the block."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd: int | None = None
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
            except OSError as e:
                raise UsageError(f"--facts {path}: {e.strerror}", "Name a file that can be written") from e

    def __enter__(self) -> Told:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        fault = fsio.storage_error(e) if isinstance(e, OSError) and not isinstance(e, BrokenPipeError) else e
        if isinstance(fault, SearchkitError):
            self._add(console.fault_facts(fault))
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def job(self, job: Job) -> None:
        """A job ended, or an attempt of it."""
        if self._fd is not None:
            self._add(facts.result_facts(job))

    def end(self, body: dict[str, Any]) -> None:
        """The run of a task ended: see searchkit.suite.facts.end_facts."""
        self._add(body)

    def _add(self, body: dict[str, Any]) -> None:
        if self._fd is None:
            return
        try:
            fsio.write_all(self._fd, (console.to_json(body) + "\n").encode("utf-8", "surrogateescape"))
        except OSError as e:  # whoever reads it sees that the end is missing; the run itself is not harmed
            click.echo(f"note: no more facts are written to {self._path}: {e.strerror}", err=True)
            os.close(self._fd)
            self._fd = None
