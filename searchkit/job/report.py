"""The job's side of searchkit: `report` what was measured, read `params`. (`trials` is in trials.py.)

Every job imports this, so it uses little of the standard library and nothing else. All of that is imported here at the
top: a function that imports, in a thread, while another thread forks, leaves the child waiting for an import for ever.
A script that must not import searchkit can do the same by hand:
`echo '{"step": 3, "acc": 0.91}' >> $SEARCHKIT_CALLBACK/scalars.jsonl`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from threading import RLock

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost more than all the rest of this file
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# The first of these that holds a number is this process's rank: torchrun, Open MPI, srun. torchrun may itself have been
# started by srun, so its own name goes first.
RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def report(mapping: Mapping[str, Any] | None = None, /, *, step: int | None = None, **scalars: Any) -> None:
    """Hand numbers to the search: `report(acc=0.91, step=epoch)` or `report({"val/acc": 0.91}, step=epoch)`.

    A number is an int, float, bool (0 or 1), NumPy scalar or tensor of one element; NaN and infinities are kept.
    Without `step` the reports count up from 1; reporting a step again replaces it. Only rank 0 reports, so that every
    rank may call this. In a job one line is appended to the job's scalars; by hand, outside a job, the numbers are
    printed.

    Raises TypeError for what is no number (it names the scalar) and ValueError for a name that can't be used. It never
    raises for a full or broken disk: that is reported once on stderr, and training goes on.
    """
    report_to(os.environ.get("SEARCHKIT_CALLBACK"), mapping, step, scalars)


def report_to(folder: str | None, mapping: Mapping[str, Any] | None, step: int | None, scalars: dict[str, Any]) -> None:
    """`report` to the callback folder of a job; None: by hand."""
    if _rank() != 0:
        return
    line: dict[str, int | float] = {} if step is None else {"step": _as_step(step)}
    for name, value in _named(mapping, scalars).items():
        line[_as_name(name)] = _as_number(f"scalar {name!r}", value)
    if len(line) == (step is not None):
        return  # an empty mapping: nothing was measured
    if not folder:
        print(_readable(line), flush=True)
        return
    _hook_fork()  # before the lock is taken for the first time
    try:
        _sink.append(folder, json.dumps(line).encode() + b"\n")
    except OSError as e:
        _warn_once(f"searchkit: could not write to {folder}: {e.strerror or e}; going on without (said once)")


def params(**defaults: Any) -> dict[str, Any]:
    """This job's arguments, by name, in a job; the defaults by hand: `args = searchkit.params(lr=0.1, epochs=3)`.

    The job's values go over the defaults, and names without a default are included. As a keyword can't be written with
    a hyphen, a default `batch_size` takes the value of an argument `batch-size` (both names are then in the answer).

    Raises StorageError where the job's file of values can't be read.
    """
    path = os.environ.get("SEARCHKIT_PARAMS")
    if not path:
        return defaults
    try:
        with open(path, "rb") as f:
            values = dict(json.load(f)["values"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        from searchkit.errors import StorageError

        reason = e.strerror if isinstance(e, OSError) else 'it must hold JSON with a mapping "values"'
        raise StorageError(f"cannot read this job's arguments from SEARCHKIT_PARAMS={path}: {reason}") from e
    spelled = {name.replace("-", "_"): value for name, value in values.items()}
    return {**{name: spelled.get(name, default) for name, default in defaults.items()}, **values}


def _rank() -> int:
    """Which process of a distributed job this is; 0 where it is not distributed."""
    # Ranks made by torch.multiprocessing have no variable of their own, only a process group.
    dist = sys.modules.get("torch.distributed")
    is_initialized = getattr(dist, "is_initialized", None)  # missing in a torch built without it
    if dist is not None and is_initialized is not None and is_initialized():
        return int(dist.get_rank())
    for variable in RANK_VARIABLES:
        text = os.environ.get(variable, "")
        if text.isdecimal():
            return int(text)
    return 0


def _named(mapping: Mapping[str, Any] | None, scalars: dict[str, Any]) -> dict[str, Any]:
    if mapping is None:
        return scalars
    try:
        return {**mapping, **scalars}
    except TypeError:
        raise TypeError(
            f"report() takes a mapping from names to numbers, or acc=0.9, got {mapping!r:.100} ({_type(mapping)})"
        ) from None


def _as_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a scalar must be a str, got {name!r:.100} ({_type(name)})")
    if not name:
        raise ValueError("the name of a scalar must not be empty")
    if name == "step":
        raise ValueError("'step' is no scalar's name; pass it as report(..., step=3)")
    return name


def _as_step(step: Any) -> int:
    """An int from an int, a whole float, a NumPy integer or an integer tensor of one element."""
    number = _as_number("step", step)
    if isinstance(number, float) and not number.is_integer():  # neither NaN nor an infinity is one
        raise TypeError(f"step must be a whole number, got {number}")
    return int(number)


def _as_number(subject: str, value: Any) -> int | float:
    """A plain int or float; TypeError where there is none in `value`. `subject` names it in the message."""
    plain = value
    if type(plain) not in (int, float):
        try:
            if hasattr(plain, "item"):  # NumPy and JAX arrays, tensors on any device, of one element
                plain = plain.item()
            if not isinstance(plain, (int, float)):  # Fraction, Decimal, TensorFlow; str has no __float__
                plain = type(plain).__float__(plain)
        except (AttributeError, TypeError, ValueError, OverflowError, RuntimeError) as e:
            cause = e if isinstance(e, RuntimeError) else None  # torch's own words: several elements, a lost device, …
            raise TypeError(f"{subject} must be a number, got {value!r:.100} ({_type(value)})") from cause
    if isinstance(plain, int):
        try:
            float(plain)  # what readers make of it
        except OverflowError:
            raise TypeError(f"{subject} must fit into a float, got an int of {plain.bit_length()} bits") from None
        return int(plain)
    return float(plain)


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _readable(line: dict[str, int | float]) -> str:
    numbers = ", ".join(f"{name}={value:.6g}" for name, value in line.items() if name != "step")
    return f"step {line['step']}: {numbers}" if "step" in line else numbers


class _Sink:
    """The file this process reports to, open for as long as the process lives.

    One process per file: whoever holds the flock of `scalars.jsonl` writes there (the next python of the same job may
    take it over, so its lines go on counting), any other process that lives at the same time `scalars.<pid>.jsonl`.
    """

    def __init__(self) -> None:
        self.lock = RLock()  # re-entrant: a signal handler may report in the middle of a report
        self.folder = ""
        self.fd = -1
        self.file = (0, 0)  # device and inode behind `fd`

    def append(self, folder: str, line: bytes) -> None:
        """Add one line, whole, by a single write. Raises OSError."""
        with self.lock:
            info = self._stat()
            if info is None or self.folder != folder or not info.st_nlink:
                info = self._open(folder)
            # Whoever wrote last may have been cut off, by a full disk or a kill; its half line must not spoil this one.
            if info.st_size and os.pread(self.fd, 1, info.st_size - 1) != b"\n":
                line = b"\n" + line
            if os.write(self.fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._stat():
            os.close(self.fd)
        self.fd = -1

    def _stat(self) -> os.stat_result | None:
        """The state of the open file; None where there is none, or it is not ours: a program that closes all its
        descriptors, as daemons do, may have got the same number for a file of its own."""
        if self.fd < 0:
            return None
        try:
            info = os.fstat(self.fd)
        except OSError:
            return None
        return info if (info.st_dev, info.st_ino) == self.file else None

    def _open(self, folder: str) -> os.stat_result:
        self.close()
        main = os.path.join(folder, "scalars.jsonl")
        try:
            fd = _open_append(main)
        except FileNotFoundError:
            os.mkdir(folder)  # only this level: a job's folder that was deleted stays deleted
            fd = _open_append(main)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has it, or the file system has no locks
            os.close(fd)
            fd = _open_append(os.path.join(folder, f"scalars.{os.getpid()}.jsonl"))
        info = os.fstat(fd)
        self.folder, self.fd, self.file = folder, fd, (info.st_dev, info.st_ino)
        return info


def append_line(fd: int, line: bytes) -> None:
    """Add a line to an open file by a single write. Raises OSError, also where only a part of it could be written."""
    if os.write(fd, line + b"\n") != len(line) + 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def close_reports() -> None:
    """Close the file that `report` holds open; the next report opens its own."""
    with _sink.lock:
        _sink.close()


def _open_append(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)  # readable, to look at the last byte


_sink = _Sink()
_fork_hooked = False
_warned = False


def _hook_fork() -> None:
    global _fork_hooked
    if not _fork_hooked:
        _fork_hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """A forked child opens a file of its own, with a new lock: the old one may be held by a thread that it lacks."""
    global _sink
    _sink.close()  # the parent keeps its flock: closing one copy of a descriptor doesn't give it back
    _sink = _Sink()


def _warn_once(message: str) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    try:
        print(message, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # stderr may be on the same full disk, or closed
        pass
