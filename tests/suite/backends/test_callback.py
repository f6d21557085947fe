"""The callback helper as the job's wrapper runs it: a process of its own, without site-packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import searchkit.suite.backends.local.callback as callback

HELPER = callback.__file__
assert HELPER is not None


def argv(out: Path, command: str) -> list[str]:
    return [sys.executable, "-I", "-S", HELPER, str(out), command]


def run(tmp_path: Path, command: str, **kwargs: Any) -> tuple[int, bytes, bytes, Any]:
    """Exit code, stdout, stderr, and the result (None where there is no file)."""
    out = tmp_path / "callback" / "after.json"
    out.parent.mkdir(exist_ok=True)
    done = subprocess.run(argv(out, command), capture_output=True, cwd=tmp_path, timeout=60, **kwargs)
    assert [p.name for p in out.parent.iterdir()] in ([], ["after.json"])
    return done.returncode, done.stdout, done.stderr, json.loads(out.read_bytes()) if out.exists() else None


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"", None),
        (b"hello\n", None),
        (b'{"a": 1}\n', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        (b'  {"a": 1} \r\n\n', {"a": 1}),
        (b'{"a": 1}\n{"b": [2, {"c": NaN}]}\nbye\n', {"b": [2, {"c": pytest.approx(float("nan"), nan_ok=True)}]}),
        (b'{"a": 1}\n{broken}\n', {"a": 1}),
        (b'{"a": 1}\n[2]\n3\n"x"\nnull\n', {"a": 1}),
        (b'\xff\xfe\n{"a": 1}\n{"\xff": 2}\n', {"a": 1}),
        ('{"准确率": 1}\n'.encode(), {"准确率": 1}),
        (b'{"a": ' * 100_000 + b"}" * 100_000 + b"\n", None),
        (b"{}\n", {}),
    ],
)
def test_result(tmp_path: Path, text: bytes, result: object) -> None:
    (tmp_path / "text").write_bytes(text)
    assert run(tmp_path, "cat text") == (0, text, b"", result)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("false", 1),
        ("no-such-command 2>/dev/null", 127),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
    ],
)
def test_exit_code(tmp_path: Path, command: str, code: int) -> None:
    assert run(tmp_path, f"echo '{{\"a\": 1}}'; {command}") == (code, b'{"a": 1}\n', b"", {"a": 1})


def test_folder_environment_stdin_stderr(tmp_path: Path) -> None:
    command = 'pwd; cat; echo "$A-$LC_CTYPE-$LC_ALL" >&2; $P -c "print(3)"'
    env = {"PATH": os.environ["PATH"], "A": "x y\n'\"", "LANG": "C", "P": sys.executable}
    code, out, err, _ = run(tmp_path, command, env=env, input=b"in\n")
    assert (code, out, err) == (0, f"{tmp_path}\nin\n3\n".encode(), b"x y\n'\"--\n")  # Python's own LC_CTYPE is gone


def test_bytes_of_the_command_line(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xe6")
    done = subprocess.run(
        [*argv(tmp_path / "o.json", "")[:-1], b"ls -d \xff*"], capture_output=True, cwd=tmp_path, env={"LANG": "C"}
    )
    assert done.stdout == b"\xff\xe6\n"


def test_the_command_gets_default_signal_actions(tmp_path: Path) -> None:
    code, out, _, _ = run(tmp_path, "yes | head -n 1; cat /proc/self/status")
    assert (code, out.splitlines()[0]) == (0, b"y")
    status = dict(line.split(b":", 1) for line in out.splitlines()[1:])
    ordinary = (1 << 31) - 1  # past them are two of glibc's own, which any posix_spawn ignores
    assert int(status[b"SigIgn"], 16) & ordinary == 0
    assert int(status[b"SigBlk"], 16) == 0


def test_output_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    fifo = tmp_path / "go-on"
    os.mkfifo(fifo)
    command = f"printf half; read line <{fifo}; echo line"
    with subprocess.Popen(argv(tmp_path / "o.json", command), stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"half"  # though the line is not complete, nor the command done
        fifo.write_text("\n")
        assert process.stdout.read() == b"line\n"
    assert process.returncode == 0


def test_huge_output_takes_little_memory(tmp_path: Path) -> None:
    code = """
import sys
sys.stdout.write('{"first": 1}\\n')
sys.stdout.write('{"a": "' + 'x' * (1 << 20) + '"}\\n')       # too long to be a result
for _ in range(64): sys.stdout.write('y' * (1 << 20))         # one line of 64 MiB
sys.stdout.write('{"a": 2}\\n')                               # still the same line
for i in range(200_000): print('{"n": ', i)
"""
    (tmp_path / "big.py").write_text(code)
    helper = """
import os, resource, sys
code = os.waitstatus_to_exitcode(os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)[1])
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, file=sys.stderr)
"""
    out = tmp_path / "o.json"
    command = [sys.executable, "-c", helper, *argv(out, f"exec {sys.executable} -I -S big.py")]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60)
    code_text, mib = done.stderr.split()
    assert code_text == b"0"
    assert len(done.stdout) > 65 << 20
    assert json.loads(out.read_bytes()) == {"first": 1}
    assert int(mib) < 40


def test_lines_in_pieces() -> None:
    text = b'x\n{"a": 1}\n{"b": 2} \nlong' + b"z" * 50 + b"\ny"
    for size in range(1, len(text)):
        found = callback.LastObject()
        for at in range(0, len(text), size):
            found.feed(text[at : at + size])
        assert found.close() == b'{"b": 2}'


def test_the_longest_line_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "MAX_LINE_BYTES", 8)
    for text, line in [(b'{"a": 1}\n', b'{"a": 1}'), (b'{"a": 1}\n{"b": 10}\n{"c": 10}', b'{"a": 1}')]:
        for size in (1, 3, 100):
            found = callback.LastObject()
            for at in range(0, len(text), size):
                found.feed(text[at : at + size])
            assert found.close() == line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_job_is_the_command_s_to_answer(tmp_path: Path, number: signal.Signals) -> None:
    name = number.name[3:]
    command = f"""trap 'echo "{{\\"saved\\": true}}"; exit 3' {name}; echo ready; while :; do sleep 0.05; done"""
    out = tmp_path / "o.json"
    with subprocess.Popen(argv(out, command), stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, number)
    assert process.returncode == 3
    assert json.loads(out.read_bytes()) == {"saved": True}


def test_a_process_left_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    fifo, end = tmp_path / "fifo", tmp_path / "end"
    os.mkfifo(fifo)
    command = f"(read line <{fifo}; echo late; echo alive >{end}) & echo '{{\"a\": 1}}'"
    with subprocess.Popen(argv(tmp_path / "o.json", command), stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.wait(timeout=20) == 0
        assert json.loads((tmp_path / "o.json").read_bytes()) == {"a": 1}
        assert process.stdout.readline() == b'{"a": 1}\n'
        fifo.write_text("\n")
        assert process.stdout.read() == b"late\n"  # what it prints is still passed on, and doesn't kill it
    deadline = time.monotonic() + 10
    while not end.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert end.exists()


def test_a_result_that_can_not_be_written(tmp_path: Path) -> None:
    out = tmp_path / "missing" / "o.json"
    done = subprocess.run(argv(out, "echo '{}'"), capture_output=True, timeout=60)
    assert done.returncode == callback.EX_IOERR
    assert (
        done.stderr
        == f"searchkit: the callback's result can't be written to {out}: No such file or directory\n".encode()
    )
    assert subprocess.run(argv(out, "echo '{}'; exit 5"), capture_output=True, timeout=60).returncode == 5
    assert subprocess.run(argv(out, "echo no result"), capture_output=True, timeout=60).returncode == 0


def test_a_full_disk_leaves_no_half_result(tmp_path: Path) -> None:
    command = f"ulimit -f 1; exec {sys.executable} -I -S {HELPER} {tmp_path}/o.json 'cat {tmp_path}/text'"
    (tmp_path / "text").write_text(json.dumps({"a": "x" * 5000}) + "\n")
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
    assert done.returncode == callback.EX_IOERR
    assert b"File too large" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["text"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full, a disk that is always full, is not there")
def test_a_log_that_can_not_be_written(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            argv(out, "seq 100000; echo '{\"a\": 1}'"), stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 0
    assert done.stderr == b"searchkit: the callback's output can't be kept: No space left on device\n"
    assert json.loads(out.read_bytes()) == {"a": 1}


def test_usage(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", HELPER, "o.json"], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == b"searchkit: usage: callback.py OUT_JSON COMMAND [SHELL]\n"
