"""One base error: what must hold, what was found, what to do next; and the exit code that says which kind it was."""

from __future__ import annotations

from dataclasses import dataclass


class SearchkitError(Exception):
    """A fault the user can act on. The command line prints `message`, then `hint`, and exits with `exit_code`; programs
    know it by its `kind`."""

    kind = "failed"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SearchkitError):
    """A command line or a config that can't be obeyed."""

    kind, exit_code = "usage", 2


class NotFoundError(SearchkitError):
    """No such workspace, task or job."""

    kind, exit_code = "not_found", 3


class ConflictError(SearchkitError):
    """What is asked for contradicts what is there, or what somebody else does."""

    kind, exit_code = "conflict", 4


class OtherConfigError(ConflictError):
    """The task exists with another config."""

    kind = "other_config"


class HeldError(ConflictError):
    """Another process holds the lease of the task."""

    kind = "held"


class StorageError(SearchkitError):
    """The disk is full, read-only, or holds something that can't be read."""

    kind, exit_code = "storage", 5


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong at one place of a file; line and column count from 1."""

    line: int
    col: int
    what: str


class ConfigError(UsageError):
    """Every fault of one file, in the order of the file: `cfg.yaml:7:15: unknown key 'tempate' (did you mean ...)`."""

    def __init__(self, filename: str, faults: list[Fault], hint: str = "") -> None:
        self.filename, self.faults = filename, sorted(faults)
        super().__init__("\n".join(f"{filename}:{f.line}:{f.col}: {f.what}" for f in self.faults), hint)


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """` (did you mean X?)` for the nearest of `known`, or where none is near, the list of them."""
    from difflib import get_close_matches  # kept off the start-up path

    near = get_close_matches(word, known, n=1)
    if near:
        return f" (did you mean {near[0]}?)"
    return f" (valid: {', '.join(known)})" if known else ""
