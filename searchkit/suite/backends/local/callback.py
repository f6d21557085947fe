"""Runs a job's `pre` or `after` callback and keeps its result: the JSON object on the last line of stdout that is one.

    python -I -S callback.py OUT_JSON COMMAND [SHELL]

COMMAND runs in the current folder and environment, by SHELL (words, one a line; /bin/sh without it). Its stdout is
passed on as it comes; stdin and stderr are inherited. OUT_JSON appears whole, or not at all where no line is a JSON
object. The exit code is the command's (128 plus the signal that killed it), or 74 where the command succeeded but its
result could not be written.

The standard library alone, and nothing of searchkit: a job waits for this to start, and any Python can run it.
"""

from __future__ import annotations

import os
import select
import signal
import sys

MAX_LINE_BYTES = 1 << 20  # a longer line is passed on, but is no result
EX_IOERR = 74  # sysexits.h
_CHUNK = 1 << 16


class LastObject:
    """The last line of a stream that parses as a JSON object; memory for two lines, however long the stream."""

    def __init__(self) -> None:
        self.line: bytes | None = None
        self._rest = bytearray()
        self._too_long = False  # the line that `_rest` is the start of

    def feed(self, data: bytes) -> None:
        first, *lines = data.split(b"\n")
        self._extend(first)
        for line in lines:
            self._end_line()
            self._extend(line)

    def close(self) -> bytes | None:
        """End the stream; return the last object's line, without its newline. A last line counts without a newline."""
        self._end_line()
        return self.line

    def _extend(self, part: bytes) -> None:
        if len(self._rest) + len(part) > MAX_LINE_BYTES:
            self._too_long, self._rest = True, bytearray()
        elif not self._too_long:
            self._rest += part

    def _end_line(self) -> None:
        line, usable = bytes(self._rest).strip(), not self._too_long
        self._rest, self._too_long = bytearray(), False
        if usable and line.startswith(b"{") and line.endswith(b"}") and _is_object(line):
            self.line = line


def _is_object(line: bytes) -> bool:
    import json  # most callbacks print no line that looks like a result

    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False


class Copier:
    """Passes bytes on to our own stdout. Where that fails (a full disk), says so once and drops the rest: the command
    must not die of it."""

    def __init__(self) -> None:
        self.works = True

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self.works:
            try:
                view = view[os.write(1, view) :]
            except OSError as e:
                self.works = False
                _warn(f"the callback's output can't be kept: {e.strerror}")


def run(command: str, shell: list[str]) -> tuple[int, bytes | None]:
    """Run the command to its end. Its exit code, and the line that holds its result (None where none does)."""
    out_read, out_write = os.pipe()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    # The end of the command, not of its stdout, is what we wait for: something it left in the background may hold that
    # open. A signal handler and its wake-up pipe tell of it on any Linux; pidfds need 5.3.
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pid = os.posix_spawn(
        shell[0],
        [*shell, "-c", command],
        _environment(),
        file_actions=[(os.POSIX_SPAWN_DUP2, out_write, 1)],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these two, and a child would inherit that
    )
    os.close(out_write)
    last, copier = LastObject(), Copier()
    poll = select.poll()
    poll.register(out_read, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    status = None
    while status is None:
        ready = {fd for fd, _ in poll.poll()}
        if out_read in ready:
            data = os.read(out_read, _CHUNK)
            last.feed(data)
            copier.write(data)
            if not data:
                poll.unregister(out_read)
        if wake_read in ready:
            os.read(wake_read, _CHUNK)
            done, code = os.waitpid(pid, os.WNOHANG)
            status = code if done else None
    _drain(out_read, last, copier)
    code = os.waitstatus_to_exitcode(status)
    return (code if code >= 0 else 128 - code), last.close()


def _drain(fd: int, last: LastObject, copier: Copier) -> None:
    """Take what the command wrote before its end. If something that it left running still holds its stdout, a child of
    ours goes on copying: a server that `pre` started must not die of a closed pipe when it next prints."""
    os.set_blocking(fd, False)
    try:
        while data := os.read(fd, _CHUNK):
            last.feed(data)
            copier.write(data)
        return
    except BlockingIOError:
        pass
    if os.fork() == 0:
        os.set_blocking(fd, True)
        while data := os.read(fd, _CHUNK):
            copier.write(data)
        os._exit(0)


def _environment() -> dict[bytes, bytes]:
    """The environment we were started with, unlike os.environ: in the C locale Python sets LC_CTYPE at its start."""
    try:
        with open("/proc/self/environ", "rb") as f:
            entries = f.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    return {name: value for name, _, value in (entry.partition(b"=") for entry in entries) if name}


def write_whole(path: str, data: bytes) -> None:
    """A reader sees the whole file or none, after a power cut too. Raises OSError."""
    folder = os.path.dirname(path) or "."
    half = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}")
    fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(half, path)
    except OSError:
        os.unlink(half)
        raise
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _warn(message: str) -> None:
    try:
        os.write(2, f"searchkit: {message}\n".encode())
    except OSError:
        pass


def main(argv: list[str]) -> int:
    if len(argv) not in (3, 4):
        _warn("usage: callback.py OUT_JSON COMMAND [SHELL]")
        return 2
    # These are sent to the whole job. Each process of the command decides for itself; we live to pass on what it says,
    # and its exit code. Ignoring would be inherited by the command, a handler isn't.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    code, result = run(argv[2], argv[3].split("\n") if len(argv) > 3 else ["/bin/sh"])
    if result is None:
        return code
    try:
        write_whole(argv[1], result + b"\n")
    except OSError as e:
        _warn(f"the callback's result can't be written to {argv[1]}: {e.strerror}")
        return code or EX_IOERR
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
