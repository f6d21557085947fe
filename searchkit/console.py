"""What all commands share: how errors, times and JSON are printed, what a terminal gets that a pipe does not, and which
code they end with."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import click

from searchkit.errors import ConfigError, SearchkitError, UsageError
from searchkit.fsio import storage_error

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def span(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes} min {s:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(n: int, one: str, several: str = "") -> str:
    """`1 job`, `2,000 jobs`."""
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"


def size(n: float) -> str:
    """`812 B`, `4.0 KiB`, `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def one_line(text: str) -> str:
    """A text with its control characters escaped, which names of files may have: one line, that moves no cursor."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _CONTROL else c for c in text)


_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are no UTF-8, separators of lines and paragraphs


def run(command: click.Command, name: str, leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Run a click command; print faults as `error: …` and a hint; exit with the code that DESIGN names.

    leave: ends the process. What the command returned, where that is no exit code, lives until then.
    """
    _open_standard_files()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as e:
        e.show()
        code = e.exit_code
        _print_fault(UsageError(e.format_message()))
    except BrokenPipeError:  # the reader of our output went away: `search-ctl show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as e:
        code = complain(storage_error(e))
        _print_fault(storage_error(e))
    except SearchkitError as e:
        code = complain(e)
        _print_fault(e)
    except KeyboardInterrupt:
        code = 130
    leave(code if isinstance(code, int) else 0)


def leave_at_once(code: int) -> NoReturn:
    """Exit without taking apart what was made: of 10,000 jobs, that would take a tenth of the time of a look."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # one that counts was raised before, and is told by the code
            stream.flush()
    os._exit(code)


def _open_standard_files() -> None:
    """Where stdin, stdout or stderr is closed, the next file that is opened would take its number, and its output."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (as long-lived as what it stands for)


def complain(e: SearchkitError) -> int:
    """Print an error and its hint to stderr; return its exit code."""
    head = click.style("error:", fg="red", bold=True) if is_coloured("stderr") else "error:"
    message, hint = ("\n".join(map(one_line, text.split("\n"))) for text in (e.message, e.hint or ""))
    click.echo(f"{head} {message}", err=True)
    if hint:
        click.echo(f"  {hint}", err=True)
    return e.exit_code


def _print_fault(e: SearchkitError) -> None:
    """What programs get instead of the document that they asked for."""
    if "--json" in sys.argv[1:]:
        print_json(fault_facts(e))


def fault_facts(e: SearchkitError) -> dict[str, Any]:
    """A fault that ended a command, as plain data; those of a config with their places."""
    facts: dict[str, Any] = {"kind": e.kind, "message": e.message, "hint": e.hint, "exit": e.exit_code}
    if isinstance(e, ConfigError):
        places = [{"file": e.filename, "line": f.line, "column": f.col, "message": f.what} for f in e.faults]
        facts["faults"] = places
    return {"error": facts}


def is_terminal(stream: Literal["stdin", "stdout", "stderr"] = "stdout") -> bool:
    """Whether a person sits at a stream: gets a live display, can be asked."""
    return bool(getattr(sys, stream).isatty())


def is_coloured(stream: Literal["stdout", "stderr"] = "stdout") -> bool:
    """Whether what is written to a stream may have colours (https://no-color.org)."""
    return is_terminal(stream) and "NO_COLOR" not in os.environ


def width() -> int | None:
    """The columns of the terminal; None where the output goes elsewhere and nobody says how wide that is."""
    if not is_terminal() and not os.environ.get("COLUMNS"):
        return None
    return shutil.get_terminal_size().columns


def rich_console(in_pipe: int | None = None, *, stderr: bool = False) -> Any:
    """rich's console on stdout or stderr; it knows itself which of them are coloured. in_pipe: how many columns it has
    where that is no terminal, as a machine cuts none."""
    from rich.console import Console

    return Console(stderr=stderr, width=None if is_terminal("stderr" if stderr else "stdout") else in_pipe)


def print_json(body: Any) -> None:
    """One JSON document on stdout."""
    click.echo(to_json(body))


def to_json(body: Any) -> str:
    """JSON has no NaN: it becomes the text "NaN", infinities likewise."""
    import json

    return json.dumps(_finite(body), ensure_ascii=False, allow_nan=False)


def _finite(body: Any) -> Any:
    if isinstance(body, dict):
        return {k: _finite(v) for k, v in body.items()}
    if isinstance(body, (list, tuple)):
        return [_finite(v) for v in body]
    if isinstance(body, float) and not math.isfinite(body):
        return "NaN" if body != body else "Infinity" if body > 0 else "-Infinity"
    return body
