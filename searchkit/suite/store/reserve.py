"""Room on the disk that is kept for the commands that make room: a file of a workspace, given up while they work.

A stop, a deletion and what `free` removes are recorded before they are done, and a full disk takes no record. The
content of the file means nothing; a part of it is better than none, so it is filled as far as the disk allows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from searchkit import fsio
from searchkit.suite.workspace import Workspace

RESERVE_BYTES = 1 << 18  # the events of 10,000 jobs that are stopped at once, and the views, take less


def keep(ws: Workspace) -> None:
    """Make or fill the reserve, as far as the disk has room. Never fails: without it a full disk is only harder to
    recover from."""
    with contextlib.suppress(OSError):
        fd = os.open(ws.reserve, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if (missing := RESERVE_BYTES - os.fstat(fd).st_size) > 0:
                fsio.write_all(fd, os.urandom(missing))  # no zeros, which some file systems keep without taking room
        finally:
            os.close(fd)


@contextlib.contextmanager
def given_up(ws: Workspace) -> Iterator[None]:
    """Give the reserve to what the block records; it is kept again after it."""
    with contextlib.suppress(OSError):
        os.unlink(ws.reserve)
    try:
        yield
    finally:
        keep(ws)
