"""How the end of an attempt is judged: the fields of the `result` event that accepts it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from searchkit.suite.store.job import BY_STOPPER, Job, State
from searchkit.suite.store.journal import Event
from searchkit.suite.store.status import Status

LOST = "lost: its processes are gone, and it left no exit line"
SIGPIPE = 141  # 128 + 13
BROKEN_PIPE = (
    "a part of a pipe wrote on after the next one had ended (`| head`); write `| sed -n 1,5p`, "
    "which reads to the end, or `run: {shell: sh}`"
)
PYTHON_BROKEN_PIPE = "BrokenPipeError"  # Python ignores SIGPIPE, and fails by this instead
MAX_LOST = 3  # a lost attempt (no exit line, processes gone) is run again this often, whatever `retries` says


def outcome(
    job: Job, s: Status, retries: int, timeout_s: float | None, behind: Sequence[str] = (), last_line: str = ""
) -> Event:
    """The fields of the `result` event for the end of a job's highest attempt: pure, so that whoever finds it agrees.

    A stop that reached the command wins over any exit code: a script may answer SIGTERM by saving its state and exiting
    with 0. What had ended by itself before counts as what it ended as, whatever was asked meanwhile.
    behind: the command lines of processes that outlived its command, and were ended. last_line: of its log.
    """
    stopped = job.stop if s.stop_came_first else ""
    spent, reason = "", ""
    if stopped in BY_STOPPER:
        state, retry = State.PRUNED, False
    elif stopped in ("stop", "task", "interrupt"):
        state, retry = State.STOPPED, stopped != "stop"
    elif s.exit_code is None:
        state, reason = State.ERROR, LOST
        # A wrapper that died before its first line cost the job nothing; without any status file, the job removed it.
        spent = "" if s.exists and not s.start else "lost"
        retry = job.lost + (spent == "lost") <= MAX_LOST
    elif s.exit_code == 0 and not stopped:
        state, retry = State.FINISHED, False
        reason = f"the after callback failed with exit code {s.after_code}" if s.after_code else ""
    else:
        state, spent, retry = State.ERROR, "error", job.errors < retries and job.stop != "stop"
        if stopped:
            reason = f"timeout: ran longer than {timeout_s:g} s" if timeout_s else "timeout"
        elif s.pre_failed:
            reason = "the pre callback failed, the command was not run"
        elif s.exit_code == SIGPIPE:
            reason = f"exit code {SIGPIPE}, SIGPIPE: {BROKEN_PIPE}"
        elif last_line.startswith(PYTHON_BROKEN_PIPE) and isinstance(job.command, str) and "|" in job.command:
            reason = f"exit code {s.exit_code}, {PYTHON_BROKEN_PIPE}: {BROKEN_PIPE}"
    if behind and s.exit_code is not None and not stopped:
        code = f"exit code {s.exit_code}" if s.exit_code and not reason else ""
        reason = "; ".join(filter(None, (reason, code, _left_running(behind))))
    now = time.time()
    return {
        "time": now,
        "job": job.index,
        "attempt": job.attempt,
        "state": state.value,
        "rc": s.exit_code,
        "start": s.start.time_s if s.start else None,
        "end": s.end_s if s.end_s is not None else (now if s.start else None),
        "retry": retry,
        "reason": reason,
        "spent": spent,
    }


def _left_running(behind: Sequence[str]) -> str:
    """What a command left running, by name, those of one name together."""
    counts = Counter(line if len(line) <= 80 else line[:77] + "..." for line in behind)
    names = [f"`{line}`" + (f" ({n} times)" if n > 1 else "") for line, n in counts.items()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"left running at its end, and killed: {', '.join(names[:3])}{more}"
