"""What is read as files grow, and what is kept of jobs that ended, equals what is read in one go."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest

from searchkit.suite.store import growing, kept
from searchkit.suite.store.job import Job
from searchkit.suite.store.scalars import Reader, Reading
from searchkit.suite.workspace import TaskPaths
from tests.suite.store.test_tfevents import event, record, simple
from tests.support.suite import ok, project, run, task_dir

REGEX = (r"epoch (?P<step>\S+) acc (?P<acc>\S+)", r"loss=(?P<loss>\S+)")


def log_bytes(rng: random.Random) -> bytes:
    """Lines of every kind, with some that hold no number and some that are too long."""
    lines = []
    for k in range(rng.randrange(5, 60)):
        what = rng.randrange(8)
        lines.append(
            f"epoch {k} acc {rng.random():.3f}"
            if what < 3
            else f"loss={rng.choice(['0.5,', 'nan', '-inf', '1e3;', '3x', '85%', ''])} ünïcode 准"
            if what < 6
            else "x" * rng.randrange(200)
            if what == 6
            else f"epoch {rng.choice(['1.5', '7,', 'x'])} acc 1"
        )
    text = "".join(line + rng.choice(["\n", "\n", "\r", "\r\n"]) for line in lines).encode()
    return text + rng.choice([b"", b"loss=0.25", b"\xff\xfe"])


def json_bytes(rng: random.Random) -> bytes:
    kinds = [
        '{"acc": %s}',
        '{"step": %s, "acc": 1, "b": 2.5}',
        '{"step": %s.5, "acc": 1}',
        "%s",
        "{",
        '{"b": NaN, "x": []}',
    ]
    lines = [rng.choice(kinds).replace("%s", str(rng.randrange(50))) for _ in range(rng.randrange(40))]
    return "\n".join(lines).encode() + rng.choice([b"", b"\n"])


def event_bytes(rng: random.Random) -> bytes:
    tags = ["acc", "val/acc", f"only{rng.randrange(3)}"]
    made = b"".join(record(event(k, simple(rng.choice(tags), rng.random()))) for k in range(rng.randrange(1, 20)))
    return made + rng.choice([b"", b"", b"no record at all"])


def said(reading: Reading) -> str:
    """All of a reading, NaN being equal to itself."""
    return repr((sorted(reading.series.items()), reading.skipped, reading.faults, dict(reading.shared)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_read_as_it_grows_is_read_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(growing, "MAX_LINE", 120)
    monkeypatch.setattr(growing, "CHUNK", rng.choice([1, 7, 64, 1 << 20]))
    files = {
        "log": log_bytes(rng),
        "callback/scalars.jsonl": json_bytes(rng),
        "callback/scalars.17.jsonl": json_bytes(rng),
        "work/logs/train/events.out.tfevents.1.h": event_bytes(rng),
        "work/logs/validation/events.out.tfevents.2.h": event_bytes(rng),
    }
    names = {"named": ("validation/acc",)} if rng.random() < 0.5 else {}
    places = {"log": str(tmp_path / "log"), "regex": REGEX, "workdir": str(tmp_path / "work"), "tensorboard": True}
    growing_reader = Reader(str(tmp_path / "callback"), **places, **names)
    written = dict.fromkeys(files, 0)
    while any(at < len(files[name]) for name, at in written.items()):
        for name in rng.sample(sorted(files), rng.randrange(1, 5)):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if rng.random() < 0.03:
                path.write_bytes(b"")  # the job writes it anew
                written[name] = 0
            more = files[name][written[name] : written[name] + rng.choice([1, 5, 50, 500])]
            with open(path, "ab") as f:
                f.write(more)
            written[name] += len(more)
        if rng.random() < 0.2:
            growing_reader.read_ahead(rng.choice([1, 50, 1000]))
        if rng.random() < 0.2:
            growing_reader.read(["acc"], ended=False)  # sources that are not needed are left for later
        ended = rng.random() < 0.3
        whole = Reader(str(tmp_path / "callback"), **places, **names).read(ended=ended)
        assert said(growing_reader.read(ended=ended)) == said(whole)


def test_each_byte_of_a_growing_log_is_read_once(tmp_path: Path) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    reader = Reader(str(tmp_path), log=str(tmp_path / "log"), regex=REGEX)
    before = bytes_read()
    with open(tmp_path / "log", "w") as f:
        for k in range(200):
            f.write("noise\n" * 1000 + f"epoch {k} acc 0.5\n")
            f.flush()
            assert len(reader.read(ended=False).series["acc"]) == k + 1
    size = os.path.getsize(tmp_path / "log")
    assert bytes_read() - before < 1.5 * size


def test_a_log_that_was_read_ahead_leaves_little_to_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("noise\n" * 500_000 + "loss=0.5\n")
    reader = Reader(str(tmp_path), log=str(tmp_path / "log"), regex=REGEX)
    steps = [reader.read_ahead(1 << 20) for _ in range(4)]
    assert sum(steps) == os.path.getsize(tmp_path / "log") and max(steps) <= 1 << 20 and steps[3] == 0
    assert reader.read().series == {"loss": {1: 0.5}}


# --- kept ------------------------------------------------------------------------------------------------------------


def attempt(tmp_path: Path, seed: int = 0) -> tuple[TaskPaths, Job, Reader]:
    """A job that ended, with files of every kind and not too few bytes in them."""
    rng = random.Random(seed)
    task = TaskPaths("default", str(tmp_path / "tasks/default"))
    root = Path(task.job(3).attempt(1).root)
    for folder in (root / "callback", root / "work/logs/a", root / "work/logs/b", Path(task.tmp)):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "log").write_bytes(b"noise\n" * 1000 + log_bytes(rng))
    (root / "callback/scalars.jsonl").write_bytes(json_bytes(rng))
    for name in "ab":
        (root / f"work/logs/{name}/events.out.tfevents.1.h").write_bytes(event_bytes(rng))
    reader = Reader(f"{root}/callback", f"{root}/log", REGEX, f"{root}/work", tensorboard=True)
    return task, Job(3, {}, {}, "true", attempt=1), reader


@pytest.mark.parametrize("seed", range(10))
def test_kept_is_what_is_read(tmp_path: Path, seed: int) -> None:
    task, job, reader = attempt(tmp_path, seed)
    kept.save(task, job, "0f3a99c1", reader, reader.read())
    found = kept.load(task, job, "0f3a99c1")
    assert found is not None and said(found) == said(reader.read())
    assert kept.load(task, job, "other") is None
    assert kept.load(task, Job(3, {}, {}, "true", attempt=2), "0f3a99c1") is None


@pytest.mark.parametrize("name", ["log", "callback/scalars.jsonl", "work/logs/a/events.out.tfevents.1.h"])
def test_kept_of_files_that_changed_is_not_taken(tmp_path: Path, name: str) -> None:
    task, job, reader = attempt(tmp_path)
    kept.save(task, job, "m", reader, reader.read())
    path = Path(task.job(3).root, name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])  # cut
    assert kept.load(task, job, "m") is None
    path.write_bytes(whole[:-1] + b"?")  # as long, but other
    assert kept.load(task, job, "m") is None
    path.unlink()
    assert kept.load(task, job, "m") is None


def test_kept_with_a_further_file_of_scalars_is_not_taken(tmp_path: Path) -> None:
    task, job, reader = attempt(tmp_path)
    kept.save(task, job, "m", reader, reader.read())
    Path(task.job(3).root, "callback/scalars.9.jsonl").write_text('{"acc": 1}\n')
    assert kept.load(task, job, "m") is None


def test_damage_is_not_taken(tmp_path: Path) -> None:
    task, job, reader = attempt(tmp_path)
    kept.save(task, job, "m", reader, reader.read())
    path = Path(task.kept(3))
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        bad = bytearray(whole)
        bad[rng.randrange(len(bad) - 1)] ^= 1 << rng.randrange(8)
        path.write_bytes(bad[: rng.choice([len(bad), rng.randrange(len(bad))])])
        assert kept.load(task, job, "m") is None
    path.write_bytes(b"")
    assert kept.load(task, job, "m") is None


def test_numbers_of_event_files_outlive_the_working_folder(tmp_path: Path) -> None:
    task, job, reader = attempt(tmp_path)
    whole = reader.read()
    kept.save(task, job, "m", reader, whole)
    os.rename(Path(task.job(3).root, "work"), tmp_path / "gone")
    found = kept.load(task, job, "m")
    assert found is not None and said(found) == said(whole)
    # By another monitor the rest is read again, and that stays what it was.
    other = Reader(reader.callback, reader.log, (r"loss=(?P<other>\S+)",), reader.workdir, tensorboard=True)
    other.removed = kept.removed(task, job)
    again = other.read()
    assert set(reader.from_events) and "other" in again.series
    assert all(again.series[name] == whole.series[name] for name in reader.from_events)
    kept.save(task, job, "n", other, again)
    assert kept.removed(task, job) == other.removed


CONFIG = """\
task:
  template: sh job.sh {n}
  search_args: [{type: Categorical, name: n, value: [1, 2]}]
monitor: {reward_attribute: acc, regex: ['acc=(?P<acc>\\S+)']}
"""


@pytest.mark.slow
def test_search_run_keeps_and_readers_do_not_write(tmp_path: Path) -> None:
    job = "for i in 1 2 3 4 5 6 7 8 9; do printf '%0800d\\n' $i; echo acc=0.$i; done\n"
    folder = project(tmp_path / "p", CONFIG, job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))
    kept_files = sorted((task_dir(folder) / "numbers").iterdir())
    assert [path.name for path in kept_files] == ["0.json", "1.json"]
    first = ok(run(folder, "search-ctl", "show-scalar"))
    assert "{'acc': {1: 0.1, 2: 0.2," in first
    for path in kept_files:
        path.write_bytes(path.read_bytes()[:-9])
    assert ok(run(folder, "search-ctl", "show-scalar")) == first
    for path in kept_files:
        path.unlink()
    assert ok(run(folder, "search-ctl", "show-scalar", "-rt", "+2")) == first
    assert list((task_dir(folder) / "numbers").iterdir()) == []
    ok(run(folder, "search-run", "config.yaml"))  # nothing is left to do
    assert json.loads(ok(run(folder, "search-ctl", "best", "--json")))["jobs"][0]["scores"] == {"acc": 0.9}


@pytest.mark.slow
def test_a_deleted_job_takes_what_was_kept_with_it(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", CONFIG, job_sh="printf '%09999d\\n' 0; echo acc=1\n")
    ok(run(folder, "search-run", "config.yaml"))
    ok(run(folder, "search-ctl", "delete", "--jobs", "0", "--yes"))
    assert [path.name for path in (task_dir(folder) / "numbers").iterdir()] == ["1.json"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("0.9,", 0.9),
            ("0.9;", 0.9),
            ("0.9)", 0.9),
            ("1e-3],", 1e-3),
            ("-.5.", -0.5),
            ("85%", 85.0),
            ("inf,", math.inf),
        ),
        *(("1.", 1.0), ("+2'", 2.0), ("[", None), ("1,000", None), ("", None), ("0.9s", None), ("3.14.15", None)),
        *(("inf,", math.inf), ("0x10", None), ("1e", None), ("infinite", None), ("(0.9)", None)),
    ],
)
def test_a_number_and_the_punctuation_after_it(text: str, value: float | None) -> None:
    assert growing.text_number(text) == value


def test_colours_around_a_number_are_not_of_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"epoch 1 acc \x1b[1;32m0.82\x1b[0m\n\x1b[2K\repoch \x1b[36m2\x1b[m acc 0.9\x1b[0m\x1b[K\n"
        b"loss=\x1b[38:5:9m0.5\x1b[0m, \x1b[31mred 7\x1b[0m\n"
    )
    reading = Reader(str(tmp_path), str(log), (*REGEX, r"\x1b\[31mred (?P<red>\d)")).read()
    assert reading.series == {"acc": {1: 0.82, 2: 0.9}, "loss": {1: 0.5}, "red": {1: 7.0}} and not reading.skipped


@pytest.mark.slow
def test_a_stopper_sees_event_files_grow(tmp_path: Path) -> None:
    """A threshold of 0.4: the first look finds 0.5, and 0.1 comes after it."""
    parts = [record(event(step, simple("acc", value))).hex() for step, value in ((1, 0.5), (2, 0.1))]
    job = f"""
import os, time
os.makedirs("runs")
for part in {parts}:
    with open("runs/events.out.tfevents.1.host", "ab") as f:
        f.write(bytes.fromhex(part))
    time.sleep(1.0)
time.sleep(10.0)
"""
    config = """
task: {template: "python3 job.py", reward_attribute: acc}
search: {n_trials: 1, sampler: random, stop: {type: threshold, lower: 0.4}}
"""
    folder = project(tmp_path / "p", config, job_py=job)
    ok(run(folder, "search-run", "config.yaml"))
    (view,) = json.loads(ok(run(folder, "search-ctl", "show", "--task", "default", "--json")))["jobs"]
    assert (view["status"], view["reason"].split(",")[1]) == ("pruned", " after 0.1 at step 2")
