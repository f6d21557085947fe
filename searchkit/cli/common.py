"""What the three commands share: how errors are printed, and which code they end with."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from searchkit.errors import SearchkitError
from searchkit.fsio import storage_error

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def run(command: click.Command, name: str) -> NoReturn:
    """Run a click command; print faults as `error: …` and a hint; exit with the code that DESIGN names."""
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except BrokenPipeError:  # the reader of our output went away: `search-ctl show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as e:
        code = complain(storage_error(e))
    except SearchkitError as e:
        code = complain(e)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def complain(e: SearchkitError) -> int:
    """Print an error and its hint to stderr; return its exit code."""
    style = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    head = click.style("error:", fg="red", bold=True) if style else "error:"
    click.echo(f"{head} {e.message}", err=True)
    if e.hint:
        click.echo(f"  {e.hint}", err=True)
    return e.exit_code


def print_json(body: Any) -> None:
    """One JSON document on stdout."""
    import json

    click.echo(json.dumps(body, ensure_ascii=False))
