"""Running the installed commands as a user does: real processes, real folders."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
BACKGROUND = "INT HUP QUIT"  # what `nohup COMMAND &` in a script has it ignore
HARNESS = Path(__file__).parents[1] / "harness"
FAKES = Path(__file__).parents[1] / "fakes"

# The example of the reference document, unchanged.
REFERENCE = r"""# Required
task:
  template: "srun -p pat_dev -n1 --gres gpu:1 python mnist.py \
            --lr {lr} --batch-size {batch-size} --epochs {epochs} \
            --gamma {gamma} --pavi"
  # Required
  search_args:
      - type: Categorical
        name: epochs
        value: [3, 5]
      - type: Categorical
        name: gamma
        value: [0.7, 0.8]
      - type: Nested
        value: [
                  {lr: 0.5, batch-size: 512},
                  {lr: 1, batch-size: 1024}
              ]
pavi:
    compare:
        name: compare_new
        # id: xxxxxxxxxxxxx
    # reward_attribute would add to scalars by default
    scalars: ['acc', 'top1']
"""


def command(*argv: str) -> list[str]:
    return [str(BIN / argv[0]), *argv[1:]]


def environment(**extra: str) -> dict[str, str]:
    """Our environment with the venv's programs first on PATH, as a user's would be."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **extra}


def run(
    cwd: Path, *argv: str, env: dict[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run an installed command to its end; its output is text."""
    return subprocess.run(
        command(*argv),
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def start(cwd: Path, *argv: str, env: dict[str, str] | None = None, ignored: str = "") -> subprocess.Popen[str]:
    """Start an installed command in the background, in a process group of its own. `ignored`: signals that it is to
    find ignored, as a shell calls them."""
    before = ["sh", "-c", f'trap \'\' {ignored}; exec "$0" "$@"'] if ignored else []
    return subprocess.Popen(
        [*before, *command(*argv)],
        cwd=cwd,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def ok(done: subprocess.CompletedProcess[str], code: int = 0) -> str:
    """The output of a command that ended with `code`; an assertion that shows all of it otherwise."""
    assert done.returncode == code, f"exit {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fake_gpus(folder: Path, *free_gib: float) -> dict[str, str]:
    """The environment of a machine with a driver and so many GPUs of 16 GiB: a library of the driver's name, made in
    `folder`, and tests/fakes/pynvml.py in the place of NVML's binding."""
    import _ctypes

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "libnvidia-ml.so.1").symlink_to(_ctypes.__file__)
    path = os.pathsep.join(filter(None, (str(FAKES), os.environ.get("PYTHONPATH"))))
    return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path, "FAKE_GPUS": ",".join(map(str, free_gib))}


def project(folder: Path, config: str, **files: str) -> Path:
    """A project folder with a workspace, `config.yaml`, and other files (`name_py` becomes `name.py`)."""
    if not (folder / ".search-run").exists():
        shutil.copytree(Path(_new_project().name, ".search-run"), folder / ".search-run")
    (folder / "config.yaml").write_text(config)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        path = folder / f"{stem}.{suffix}"
        path.write_text(text)
        path.chmod(0o755)
    return folder


@functools.cache
def _new_project() -> tempfile.TemporaryDirectory[str]:
    """A folder as search-init leaves it, made once by this process; a copy of it serves as another run would."""
    made = tempfile.TemporaryDirectory(prefix="new-project-")
    ok(run(Path(made.name), "search-init"))
    return made


def task_dir(folder: Path, task: str = "default") -> Path:
    return folder / ".search-run" / "tasks" / task


def show(folder: Path, task: str = "default") -> dict[str, Any]:
    """`search-ctl show --task T --json`."""
    return json.loads(look(folder, "show", "--task", task, "--json"))


def look(folder: Path, *argv: str) -> str:
    """What `search-ctl argv` prints that changes nothing: run in this process, as tests look often."""
    from searchkit.suite.cli import ctl

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        ctl.group.main([*argv], "search-ctl", standalone_mode=False)
    return out.getvalue()


def states(folder: Path, task: str = "default") -> dict[int, str]:
    return {j["job"]: j["status"] for j in show(folder, task)["jobs"]}


def wait_for(what: Callable[[], Any], timeout_s: float = 30.0, why: str = "") -> Any:
    """The first true value of `what()`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {why or what}")


def processes_with(needle: str) -> list[int]:
    """Live processes (not zombies) with `needle` in their environment."""
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            env = Path(f"/proc/{name}/environ").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if needle.encode() in env and state != "Z":
            pids.append(int(name))
    return pids


def kill(pid: int, sig: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def events(folder: Path, task: str = "default") -> list[dict[str, Any]]:
    """Every decodable event of a task, read without the package's own reader."""
    out = []
    for path in sorted((task_dir(folder, task) / "events").glob("*.jsonl"), key=lambda p: int(p.stem)):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                out.append(json.loads(line))
            except ValueError:
                continue
    return out
