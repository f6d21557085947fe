"""What is needed to repeat a run, kept beside its snapshot: code version, interpreter, packages, host, GPUs, seed,
command line. Of the environment only the variables named here are kept: it may hold secrets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

from searchkit import cpus, fsio, proc
from searchkit.fsio import storage_error
from searchkit.suite.workspace import SnapshotPaths

KEPT_ENV = (
    "PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "SLURM_JOB_ID",
)
MAX_DIFF_BYTES = 20 << 20
_LIST_PACKAGES = (
    "import sys, json; from importlib import metadata as m; "
    "found = {d.metadata['Name'] + '==' + d.version for d in m.distributions() if d.metadata['Name']}; "
    "print(json.dumps({'python_version': sys.version, 'python_prefix': sys.prefix, 'packages': sorted(found)}))"
)


def _run(*argv: str, cwd: str, timeout_s: float = 60.0) -> bytes | None:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _last_object(out: bytes | None) -> dict[str, Any] | None:
    """The JSON object on the last line of a program's output, whatever else a wrapper of `python` may print."""
    try:
        value = json.loads((out or b"").splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return value if isinstance(value, dict) else None


def _git(project: str) -> dict[str, Any] | None:
    head = _run("git", "rev-parse", "HEAD", cwd=project)
    if head is None:
        return None
    dirty = _run("git", "status", "--porcelain", "--", ".", cwd=project) or b""
    return {"commit": head.decode().strip(), "uncommitted": dirty.decode("utf-8", "replace").splitlines()}


def capture(
    snapshot: SnapshotPaths,
    tmp: str,
    project: str,
    *,
    seed: int,
    command_line: list[str],
    gpus: list[str],
    python: str | None,
    run: str = "",
) -> None:
    """Write `provenance.json` (and `uncommitted.diff` where there is one) unless that is done already.

    python: the interpreter that jobs find, which need not be the one that runs this; the packages are those of it.
    run: names a later run whose jobs find another one; a separate file describes it, but not the code, which is still
    that of the snapshot.
    """
    to = snapshot.provenance_of(run) if run else snapshot.provenance
    if os.path.exists(to):
        return
    git = None if run else _git(project)
    if git and git["uncommitted"]:
        diff = _run("git", "diff", "HEAD", "--binary", "--", ".", cwd=project) or b""
        if len(diff) <= MAX_DIFF_BYTES:
            fsio.atomic_write(snapshot.diff, diff, tmp=tmp, durable=False)
        else:
            git["uncommitted_diff"] = f"left out: {len(diff)} bytes"
    listed = _last_object(_run(python, "-c", _LIST_PACKAGES, cwd="/")) if python else None
    body = {
        "command_line": command_line,
        "seed": seed,
        "git": git,
        "python": python,
        **(listed or {"packages": None}),
        "searchkit_python": sys.version,
        "searchkit_prefix": sys.prefix,
        "host": proc.host(),
        "platform": platform.platform(),
        "cpus": cpus.usable(),
        "gpus": gpus,
        "environment": {k: os.environ[k] for k in KEPT_ENV if k in os.environ},
    }
    fsio.atomic_write(to, json.dumps(body, indent=2, ensure_ascii=False) + "\n", tmp=tmp)


def main() -> None:
    """Run by the scheduler beside itself; the one argument is the facts as JSON."""
    facts = json.loads(sys.argv[1])
    snapshot = SnapshotPaths(facts.pop("snapshot"))
    try:
        capture(snapshot, facts.pop("tmp"), facts.pop("project"), **facts)
    except OSError as e:  # the process that started this can't report it
        print(f"note: what is needed to repeat this run is not kept: {storage_error(e).message}", file=sys.stderr)


if __name__ == "__main__":
    main()
