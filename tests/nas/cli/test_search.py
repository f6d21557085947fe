"""Searches over the subnets of a supernet: the installed search-nas, its search-run, its workers; and killing them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.space.shapes import among, plain_shape, shape_text
from searchkit.nas.space.space import read_space
from searchkit.nas.subnet import search, sweep
from searchkit.nas.subnet.standing import Standing, Tail
from searchkit.records.arch import Arch
from searchkit.records.objective import Objective
from searchkit.suite.config import read as config
from tests.support import nas, suite
from tests.support.nas import Trained, bad, good, lines

N = 12  # evaluations of the unbroken run
EVOLUTION = ("--evaluations", str(N), "--population", "4", "--top-k", "2")
TWO = ("--objective", "bbox_mAP", "--objective", "macs")
LIMIT = "body_depth_0 + body_depth_2 < 4"
COSTLY = "macs <= 28.7M and sum(backbone.body.depth) < 6"
RANDOM = ("--algorithm", "random", "--objective", "bbox_mAP")
SLOW = 200  # seconds; a machine that is not ours alone
ONE = {"OMP_NUM_THREADS": "1"}  # thread, so that processes compute the bits that this one does


def argv(trained: Trained, *more: str) -> list[str]:
    return ["search-nas", "search", trained.config, "--checkpoint", trained.checkpoint, "--device", "cpu", *more]


def ids(folder: Path, name: str = "results.jsonl") -> list[str]:
    return [Arch.of(record["arch"]).id for record in lines(folder / name)]


@pytest.fixture(scope="module")
def unbroken(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evolution with a constraint, whose first arch is given; the folder that it was started in."""
    folder = tmp_path_factory.mktemp("unbroken")
    first(trained, folder)
    done = nas.call_in(folder, nas.environment(), *evolution(trained)[1:])
    assert done.code == 0, done.both
    return folder


def first(trained: Trained, folder: Path) -> None:
    nas.archs_file(folder / "first.jsonl", [{"arch": trained.recipe.space.minimum().nested()}])


def evolution(trained: Trained) -> list[str]:
    return argv(trained, *EVOLUTION, *TWO, "--constraint", LIMIT, "--enqueue", "first.jsonl")


# ---- what it finds


@pytest.mark.slow
def test_no_arch_is_scored_twice_and_all_keep_to_the_constraints(trained: Trained, unbroken: Path) -> None:
    records, space = lines(unbroken / "search/results.jsonl"), trained.recipe.space
    assert len(records) == N == len(set(ids(unbroken / "search")))
    assert records[0]["arch"] == space.minimum().nested()  # what was given
    for record in records:
        assert space.contains(Arch.of(record["arch"])) and record["data"] == {"input_shape": 48}
        assert sum(record["arch"]["backbone"]["body"]["depth"]) < 6
    jobs = suite.show(unbroken / "search", "search")["jobs"]
    assert [job["status"] for job in jobs] == ["finished"] * N


@pytest.mark.slow
def test_the_input_shape_is_a_choice_where_there_are_several(trained: Trained, tmp_path: Path) -> None:
    how = ("--algorithm", "random", "--evaluations", "8", "--input", "all", "--constraint", "macs <= 29.5M")
    good("search", trained.config, "--checkpoint", trained.checkpoint, *how, "--work-dir", tmp_path / "search")
    small, large = ({**lines(tmp_path / "search/results.jsonl")[0], "data": {"input_shape": s}} for s in (48, 64))
    assert Standing((Objective("macs", "min"),), "direct").add([small, large, small]) == 2
    records = lines(tmp_path / "search/results.jsonl")
    assert {record["data"]["input_shape"] for record in records} == {48, 64}
    assert len({json.dumps([record["arch"], record["data"]]) for record in records}) == len(records) == 8
    bare = [{"arch": record["arch"], "data": record["data"]} for record in records]
    archs = nas.archs_file(tmp_path / "archs.jsonl", bare)
    good("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--out", tmp_path / "o.jsonl")
    assert lines(tmp_path / "o.jsonl") == records and all(r["overhead"]["flops"] <= 29.5e6 for r in records)


@pytest.mark.slow
def test_proposals_are_a_choice_of_a_supernet_that_knows_nothing_of_them(trained: Trained, tmp_path: Path) -> None:
    """A dimension that needs no training, with its own cost and score, from the search to the extracted model."""
    wider = ("--set", "space.head.proposals={choices: [5, 60]}", "--set", "space.anchors=")
    common = (trained.config, "--checkpoint", trained.checkpoint, *wider)
    how = ("--algorithm", "random", "--evaluations", "6", "--constraint", "macs <= 14M or head.proposals > 5")
    good("search", *common, *how, "--work-dir", tmp_path / "search")
    found = {Arch.of(record["arch"]): record for record in lines(tmp_path / "search/results.jsonl")}
    assert {arch["head.proposals"] for arch in found} == {5, 60} and len(found) == 6
    few = next(arch for arch in found if arch["head.proposals"] == 5)
    other = few.nested() | {"head": {"proposals": 60}}
    archs = nas.archs_file(tmp_path / "archs.jsonl", [{"arch": few.nested()}, {"arch": other}])
    good("test", *common, "--archs", archs, "--out", tmp_path / "tested.jsonl")
    first, second = lines(tmp_path / "tested.jsonl")
    assert first["metric"] == found[few]["metric"] != second["metric"]
    assert first["overhead"]["flops"] < second["overhead"]["flops"]
    assert first["overhead"]["params"] == second["overhead"]["params"]
    model = tmp_path / "model"
    good("extract", *common, "--arch", tmp_path / "tested.jsonl", "--out", model)
    proof = json.loads((model / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["score"]["equal"] and proof["cost"]["boxes"] == 5
    assert proof["cost"]["macs"] == proof["cost"]["macs_measured"] == first["overhead"]["flops"]
    assert "'rpn_post_nms_top_n_test': 5," in (model / "model.py").read_text()


@pytest.mark.slow
def test_its_scores_are_those_of_the_verb_test(trained: Trained, unbroken: Path, tmp_path: Path) -> None:
    records = lines(unbroken / "search/results.jsonl")
    bare = [{"arch": record["arch"], "data": record["data"]} for record in records]
    archs = nas.archs_file(tmp_path / "archs.jsonl", bare)
    good("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--out", tmp_path / "o.jsonl")
    assert lines(tmp_path / "o.jsonl") == records
    assert len({json.dumps(record["metric"]) for record in records}) > 4  # the scores tell them apart
    # and the verb takes the front, and finds that all of it is scored
    out = shutil.copy(unbroken / "search/results.jsonl", tmp_path / "results.jsonl")
    common = (trained.config, "--checkpoint", trained.checkpoint, "--archs", unbroken / "search/front.jsonl")
    done = nas.call("test", *common, "--out", out)
    n = len(lines(unbroken / "search/front.jsonl"))
    assert done.code == 0 and f"{n} of {n} have their result" in done.err and lines(out) == records


def test_the_front_is_what_nothing_beats(unbroken: Path) -> None:
    records = lines(unbroken / "search/results.jsonl")
    scores = {r_id: (-r["metric"]["direct"]["toy_bbox_mAP"], r["overhead"]["flops"]) for r_id, r in by_id(records)}

    def beaten(a: str) -> bool:
        return any(
            all(x <= y for x, y in zip(scores[b], scores[a], strict=True)) and scores[b] != scores[a] for b in scores
        )

    front = ids(unbroken / "search", "front.jsonl")
    assert set(front) == {a for a in scores if not beaten(a)} and len(front) > 1
    assert all(scores[a] <= scores[b] for a, b in pairwise(front))  # best of the first objective first
    assert ids(unbroken / "search", "best.jsonl") == [min(scores, key=lambda a: (scores[a][0], list(scores).index(a)))]
    assert (unbroken / "search/front.png").read_bytes()[:4] == b"\x89PNG"


def by_id(records: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(Arch.of(record["arch"]).id, record) for record in records]


def test_another_search_is_refused_with_the_difference(
    trained: Trained, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unbroken)
    before = sorted(os.listdir("search"))
    said = bad(*evolution(trained)[1:], "--seed", "3", "--set", "test.batch_size=2", code=4)
    assert "seed: 0 there, 3 here" in said and "the config differs in test" in said and "overrides" in said
    assert sorted(os.listdir("search")) == before
    (tmp_path / "mine.txt").write_text("x")
    assert "holds other files" in bad(*evolution(trained)[1:], "--work-dir", tmp_path, code=4)
    assert os.listdir(tmp_path) == ["mine.txt"]


# ---- going on


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.long)])
def test_killed_anywhere_it_ends_with_the_same_archs(
    trained: Trained, unbroken: Path, tmp_path: Path, kills: int
) -> None:
    """Up to three kills to a search, of its processes in turn."""
    rng = random.Random(7)
    whole, met = lines(unbroken / "search/results.jsonl"), []
    for k in range(-(-kills // 3)):
        folder = tmp_path / f"k{k}"
        folder.mkdir()
        first(trained, folder)
        results = folder / "search/results.jsonl"
        victims = rng.sample(VICTIMS, min(3, kills - 3 * k))
        moments = sorted(rng.sample(range(N - 2), len(victims)))  # evaluations
        process = None
        for begun, victim in zip(moments, victims, strict=True):
            if process is None or process.poll() is not None:
                process = suite.start(folder, *evolution(trained), env=ONE)
            met.append(kill_at(process, folder, results, begun, victim, rng))
            if victim != "worker":
                process.communicate(timeout=SLOW)
        if process is not None:
            process.communicate(timeout=SLOW)
        suite.ok(suite.run(folder, *evolution(trained), env=ONE, timeout_s=SLOW))
        assert lines(results) == whole, met[-3:]  # in the same order, none twice
        assert "0 fault(s)" in suite.ok(suite.run(folder / "search", "search-ctl", "fsck"))
        assert [job["status"] for job in suite.show(folder / "search", "search")["jobs"]] == ["finished"] * N
        suite.wait_for(lambda folder=folder: not found(folder, "worker"), why="no worker is left")
        shutil.rmtree(folder)
    assert sum(map(bool, met)) >= kills / 2
    print(f"kills met: {met}")


VICTIMS = ("search-nas", "search-run", "worker")


def kill_at(
    process: subprocess.Popen[str], folder: Path, results: Path, begun: int, victim: str, rng: random.Random
) -> str:
    """Kill a process of the search soon after so many evaluations; which one that was."""

    def is_due() -> bool:
        return process.poll() is not None or (results.exists() and len(results.read_bytes().splitlines()) > begun)

    suite.wait_for(is_due, SLOW, "evaluations")
    time.sleep(rng.random() * 0.1)
    pid = process.pid if victim == "search-nas" else found(folder, victim)
    if not pid or process.poll() is not None:
        return ""
    suite.kill(pid)
    return victim


def found(folder: Path, what: str) -> int:
    """The search-run, or a worker, of the search in a folder; 0 where there is none."""
    words = {"search-run": b"searchkit.suite.cli.run", "worker": str(folder / "search/search.json").encode()}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            here = os.readlink(f"/proc/{name}/cwd").startswith(str(folder))
        except OSError:
            continue
        if words[what] in line and b"/bin/sh" not in line and (here or what == "worker"):
            return int(name)
    return 0


@pytest.mark.slow
def test_two_workers_drain_and_go_on_and_more_may_be_asked_for(trained: Trained, tmp_path: Path) -> None:
    command = argv(trained, *RANDOM, "--workers", "2", "--constraint", COSTLY)
    process = suite.start(tmp_path, *command, "--evaluations", "8", env=ONE)
    results = tmp_path / "search/results.jsonl"
    try:
        suite.wait_for(lambda: results.exists() and len(lines(results)) >= 3, SLOW, "evaluations")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SLOW)
    finally:
        suite.kill(process.pid)
    assert process.returncode == 130 and "may finish" in said and "go on" in said, said
    some = lines(results)
    assert 3 <= len(some) < 8
    done = nas.call_in(tmp_path, nas.environment(), *command[1:], "--evaluations", "10", "--json")
    body = json.loads(done.out)
    assert f"{len(some)} subnets have their score already" in done.err
    assert body["evaluations"] == 10 and body["new"] == 10 - len(some) and body["best"] in lines(results)
    assert lines(results)[: len(some)] == some and len(set(ids(tmp_path / "search"))) == 10
    for record in lines(results):
        assert record["overhead"]["flops"] <= 28.7e6 and sum(record["arch"]["backbone"]["body"]["depth"]) < 6
    workers = {json.loads(line)["ready"] for line in outboxes(tmp_path / "search") if "ready" in line}
    assert len(workers) >= 2


def outboxes(folder: Path) -> list[str]:
    paths = (folder / ".search-run/tasks/search/workers").glob("*/outbox.jsonl")
    return [line for path in paths for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_proxy_mode_in_a_job_of_the_suite(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts of one job: what the first one scored is kept, and both leave records that search-ctl sees."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = (*argv(trained, *RANDOM)[1:], "--proxy-steps", "2")
    for k, n in enumerate((2, 3), 1):
        folder = nas.attempt(monkeypatch, tmp_path / "job", k)
        good(*command, "--evaluations", str(n))
        assert len(lines(folder / "search/front.jsonl")) >= 1
        assert len(lines(folder.parent / "callback/records.jsonl")) == n
    kept = tmp_path / "job/checkpoint/search"
    for record in lines(kept / "results.jsonl"):
        assert record["protocol"]["proxy"]["tuned_steps"] == 2 and "toy_bbox_mAP" in record["metric"]["proxy"]
    assert not [*kept.rglob("latest.pth")]
    # the same numbers as the verb finetune gives
    recipe = nas.config.load(trained.config, ["finetune.steps=2"])
    session = nas.open_session(trained, recipe, tune=True)
    (record,) = lines(kept / "results.jsonl")[:1]
    bare = {"arch": record["arch"], "data": record["data"]}
    tuned, _ = sweep.tune_record(session, bare, Arch.of(record["arch"]), "proxy", str(tmp_path / "t"), lambda _: None)
    assert tuned == record


# ---- what it refuses


@pytest.mark.slow
def test_a_constraint_that_nothing_meets_ends_at_once(trained: Trained, tmp_path: Path) -> None:
    done = nas.call_in(tmp_path, nas.environment(), *argv(trained, "--constraint", "macs <= 20M")[1:])
    assert done.code == 2 and "'macs <= 20M'" in done.err, done.err
    assert "macs is 2.8" in done.err and "to 2.88" in done.err  # the reachable range
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--objective", "bbox_map"), "no 'bbox_map' (did you mean bbox_mAP?)"),
        (("--objective", "top1"), "no 'top1'"),
        (("--objective", "bbox_mAP:best"), ":max or :min, not 'best'"),
        (("--objective", "arch.backbone.stem.width"), "say which end is best"),
        (("--objective", "macs", "--objective", "macs"), "given twice"),
        (("--constraint", "mac <= 3"), "there is no 'mac' (did you mean macs?)"),
        (("--constraint", "macs <= "), "column"),
        (("--constraint", "backbone.body.deepth[0] < 2"), "did you mean backbone.body.depth?"),
        (("--evaluations", "0"), "not in the range"),
        (("--population", "-3"), "not in the range"),
        (("--workers", "0"), "not in the range"),
        (("--mutation", "1.5"), "not in the range"),
        (("--proxy-epochs", "0"), "above 0"),
        (("--proxy-epochs", "1", "--proxy-steps", "3"), "exclude each other"),
        (("--top-k", "60"), "at most --population (50), not 60"),
        (("--algorithm", "random", "--population", "5"), "not of --algorithm random"),
        (("--algorithm", "grid"), "'grid' is not one of"),
        (("--input", "0"), "in pixels"),
        (("--input", "48,64,3"), "in pixels"),
        (("--enqueue", "other.jsonl"), "record 1: "),
        (("--set", "space.backbone.stem.width=16"), "checkpoint of another space"),
    ],
)
def test_bad_input_is_said_before_anything_is_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"arch": {"backbone": {"stem": {"width": 99}}}}\n')
    assert said in bad(*argv(trained)[1:], *more)
    assert os.listdir(tmp_path) == ["other.jsonl"]


def test_a_checkpoint_that_is_none_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no checkpoint at" in bad("search", trained.config, "--checkpoint", "none.pth")
    assert os.listdir(tmp_path) == []


def test_data_that_is_not_there_is_said(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = json.loads(Path(trained.config).read_text())
    del body["data"]["test"]
    body["data"]["val"]["annotations"] = "none.json"
    command = ("search", nas.write(tmp_path / "cfg.yaml", body), "--checkpoint", trained.checkpoint)
    assert "data.test is missing" in bad(*command, "--split", "test")
    assert "data.val.annotations: there is no none.json" in bad(*command)
    assert os.listdir(tmp_path) == ["cfg.yaml"]


@pytest.mark.slow
def test_where_all_subnets_fail_the_search_ends(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = nas.call(*argv(trained, *RANDOM)[1:], "--proxy-steps", "3", "--set", "finetune.lr=1e30")
    assert done.code == 1 and "the loss is not finite" in done.err, done.err
    assert "the first 1" in done.err and "search-ctl restart --task search --failed" in done.err
    assert len(os.listdir("search/.search-run/tasks/search/jobs/all")) < 40  # some are made ahead


def test_what_search_run_says_is_passed_on() -> None:
    from searchkit.nas.cli.search_run import fault_of, fault_of_code, fault_of_run

    message = "no worker could start\n    | Traceback\n    | KeyError"
    fault = fault_of_run({"kind": "failed", "message": message, "hint": "Mend it", "exit": 1})
    assert (fault.message, fault.hint, fault.exit_code) == (message, "Mend it", 1)
    storage = fault_of_run({"kind": "storage", "message": "a", "hint": "b", "exit": 5})
    assert storage.exit_code == 5 and type(storage) is SearchkitError
    fault = fault_of(f"error: {message}\n  Mend it\n", 4)  # of search-ctl, as people read it
    assert (fault.message, fault.hint, fault.exit_code) == (message, "Mend it", 4)
    killed = fault_of_code(-9, "search.log")
    assert "killed by signal 9" in killed.message and "same command" in killed.hint and killed.exit_code == 1
    assert "search.log" in fault_of_code(7, "search.log").hint and fault_of_code(7, "search.log").exit_code == 7


# ---- the parts


def test_objectives_and_constraints_are_read(trained: Trained) -> None:
    recipe, metrics = trained.recipe, ("bbox_mAP", "bbox_mAP_50")
    record = search.sample_record(recipe, "direct", 48, metrics)

    def read(*texts: str, algorithm: str = "evolution") -> list[Any]:
        return search.objectives(texts, algorithm, metrics, record)

    assert read() == [("bbox_mAP", "max")] and read(algorithm="nsga2") == [("bbox_mAP", "max"), ("macs", "min")]
    assert read("params", "bbox_mAP_50:min", "overhead.flops", "metric.direct.toy_bbox_mAP") == [
        ("params", "min"),
        ("bbox_mAP_50", "min"),
        ("overhead.flops", "min"),
        ("metric.direct.toy_bbox_mAP", "max"),
    ]
    knobs = [knob.name for knob in recipe.space.knobs()]
    texts = [
        "ptflops <= 3M",
        f"{knobs[0]} > 1",
        "backbone.body.depth[0] + arch.backbone.stem.width < max([2, 9])",
    ]
    rewritten, names = search.numeric(texts, knobs, recipe.space, 48)
    parts = ", ".join(f"backbone.body.depth.{i}" for i in range(4))
    assert rewritten == [*texts[:2], f"[{parts}][0] + arch.backbone.stem.width < max([2, 9])"]
    assert names == ["ptflops", *parts.split(", "), "arch.backbone.stem.width"]
    with pytest.raises(UsageError, match="column"):
        search.numeric(["import os"], knobs, recipe.space, 48)


def test_blocks_that_ascend_are_searched_as_they_are_counted(tmp_path: Path) -> None:
    """The order is constraints of the task, which all that samplers draw must meet."""
    choices = {"choices": [[3, 5, 7], [3, 5]], "sample_strategy": "ordered_block_wise"}
    space = read_space({"b.depth": {"choices": [[1, 2], [1, 2]]}, "b.kernel": choices})
    objectives, shapes, none = (("bbox_mAP", "max"),), (64,), ()
    plan = search.Plan("random", {}, objectives, ("sum(b.kernel) > 7",), shapes, "val", 0, "direct", none, "", {})
    (tmp_path / "search.yaml").write_text(search.document(plan, space, str(tmp_path), sys.executable))
    body = yaml.safe_load((tmp_path / "search.yaml").read_text())
    body["task"].pop("measures")
    user, *orders = body["task"].pop("constraints")
    assert user == "sum([b.kernel.0, b.kernel.1, b.kernel.2, b.kernel.3]) > 7"
    body["task"]["constraints"] = orders
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(body))
    loaded, _ = config.load(str(tmp_path / "search.yaml"))
    points = [{name: value.data for name, value in point.items()} for point in loaded.space.points()]
    assert {space.arch_of(point) for point in points} == {space.at(i) for i in range(space.count())}
    assert len(points) == space.count()


def test_a_square_is_no_short_edge_where_the_config_says_so() -> None:
    """From the config to the plan's file, the trials' texts, and records, of which others may mean the edge."""
    objectives, none = (("bbox_mAP", "max"),), ()
    for shapes in (((48, 48),), ((48, 48), (64, 64)), ((48, 64), (64, 64)), (48, 64)):
        plan = search.Plan("random", {}, objectives, none, shapes, "val", 0, "direct", none, "", {})
        again = search.Plan.of(json.loads(json.dumps(plan.data())))
        assert again == plan and again.shape_of({}) == shapes[0]
        for shape in shapes:
            assert again.shape_of({"input_shape": shape_text(shape)}) == shape
            assert among(plain_shape(shape), shapes) == shape
    assert among([3, 48, 48], (48,)) == among([48, 48], (64,)) == among(48, ((48, 48),)) == 48


@pytest.mark.slow
def test_a_search_at_one_square(trained: Trained, tmp_path: Path) -> None:
    wide = ("--set", "space.data.input_shape=[[64, 48], [48, 48]]")
    common = (trained.config, "--checkpoint", trained.checkpoint)
    square = ("--set", "space.data.input_shape=[[48, 48]]")
    good("search", *common, *square, "--algorithm", "random", "--evaluations", "1", "--work-dir", tmp_path / "search")
    (record,) = lines(tmp_path / "search/results.jsonl")
    assert record["data"] == {"input_shape": [48, 48]}
    bare = nas.archs_file(tmp_path / "archs.jsonl", [{"arch": record["arch"], "data": record["data"]}])
    good("test", *common, *wide, "--archs", bare, "--out", tmp_path / "again.jsonl")
    assert lines(tmp_path / "again.jsonl") == [record]


def test_values_are_found_in_records() -> None:
    record = {"arch": {"a": 3}, "overhead": {"flops": 7, "params": 2}, "metric": {"direct": {"toy_bbox_mAP": 0.5}}}
    names = ("bbox_mAP", "macs", "params", "arch.a", "metric.direct.toy_bbox_mAP")
    assert [search.value_of(record, name, "direct") for name in names] == [0.5, 7, 2, 3, 0.5]
    assert search.value_of(record, "bbox_mAP", "proxy") != search.value_of(record, "bbox_mAP", "proxy")  # NaN


def test_the_front_grows_as_it_is(tmp_path: Path) -> None:
    rng = random.Random(3)
    standing = Standing((Objective("top1", "max"), Objective("macs", "min")), "direct")
    rows = [(rng.randrange(12), rng.randrange(12)) for _ in range(80)]
    for i, (top1, macs) in enumerate(rows):
        record = {"arch": {"a": i}, "overhead": {"flops": macs}, "metric": {"direct": {"top1": top1}}}
        assert standing.add([record, record]) == 1
    better = [any(a >= x and b <= y and (a, b) != (x, y) for a, b in rows) for x, y in rows]
    assert standing.front == [i for i, beaten in enumerate(better) if not beaten]
    assert rows[standing.best["top1"]][0] == max(a for a, _ in rows)


def test_a_file_is_followed_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    tail = Tail(str(path))
    assert tail.new() == []
    path.write_text('{"arch": {"a": 1}}\n{"arch": {"a"')
    assert tail.new() == [{"arch": {"a": 1}}] and tail.new() == []
    path.write_text('{"arch": {"a": 1}}\n{"arch": {"a": 2}}\nnonsense\n3\n')
    assert tail.new() == [{"arch": {"a": 2}}] and tail.new() == []


def test_gpus_of_a_job_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from searchkit.nas.cli import search as verb

    assert verb._width(3, "none", None) == (3, ["--gpus", "none"])
    assert verb._width(None, "0,1", None) == (2, ["--gpus", "0,1", "--jobs-per-gpu", "1"])
    assert verb._width(3, "0,1", None) == (3, ["--gpus", "0,1", "--jobs-per-gpu", "2"])
    assert verb._width(None, "0,1", "cpu") == (1, ["--gpus", "none"])
    monkeypatch.setenv("SEARCHKIT_JOB_DIR", "/x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert verb._job_gpus("auto") == ("2", "5") and verb._width(None, "auto", None) == (2, ["--gpus", "none"])
