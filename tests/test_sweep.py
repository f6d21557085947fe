"""Sweeps over subnets: killed and gone on, nothing measured twice, the supernet untouched, data other than its own."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.data.images import decode
from searchkit.errors import UsageError
from searchkit.models.detector import set_arch
from searchkit.models.subnet import subnet
from searchkit.modelspace import dumps
from searchkit.space.arch import Arch
from searchkit.subnet import sweep
from searchkit.subnet.results import open_results
from searchkit.train import bench, checkpoint, config, evaluate
from searchkit.train import net as nets
from searchkit.train.loop import set_scale
from tests import nas, suite
from tests.nas import CPU, Trained, bad, equal, good, lines, tensors, write


@pytest.fixture(autouse=True)
def one_thread() -> None:
    nas.one_thread()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return nas.trained(tmp_path_factory)


@pytest.fixture(scope="module")
def session(trained: Trained) -> sweep.Session:
    return open_session(trained)


def open_session(trained: Trained, recipe: config.Recipe | None = None, tune: bool = False) -> sweep.Session:
    options: dict[str, Any] = {"split": None, "device": CPU, "seed": 0, "tune": tune, "say": lambda _: None}
    return sweep.open_session(recipe or trained.recipe, trained.checkpoint, **options)


def some(trained: Trained, n: int) -> list[dict[str, Any]]:
    """n records: archs spread over the space, each at both input shapes."""
    space = trained.recipe.space
    step = space.count() // n
    shapes = space.scales
    return [{"arch": space.at(i // 2 * step).nested(), "data": {"input_shape": shapes[i % 2]}} for i in range(n)]


def archs_file(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(dumps(record) + "\n" for record in records))
    return path


def scores(session: sweep.Session, arch: Arch, calibrated: bool = True) -> dict[str, float]:
    record = sweep.test_record(session, {"arch": arch.nested()}, arch, "t", calibrated)
    found: dict[str, float] = record["metric"]["t"]
    return found


# ---- test ----


def test_a_killed_sweep_goes_on(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = some(trained, 24)
    archs = archs_file(tmp_path / "archs.jsonl", [*records, records[0]])  # one is there twice
    out = tmp_path / "out.jsonl"
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--device", "cpu")
    process = nas.spawn(*command, "--out", out, cwd=tmp_path)
    with nas.killed_after(process):
        suite.wait_for(lambda: process.poll() is not None or (out.exists() and len(lines(out)) >= 5), why="5 results")
        assert process.poll() is None
    kept = lines(out)
    assert 5 <= len(kept) < 24
    with open(out, "a") as f:
        f.write(dumps(kept[0])[:100])  # killed in the middle of a line
    counted: Counter[str] = Counter()
    real = bench.Bench.score

    def score(self: bench.Bench, *args: Any, **more: Any) -> dict[str, float]:
        counted["scores"] += 1
        return real(self, *args, **more)

    monkeypatch.setattr(bench.Bench, "score", score)
    monkeypatch.chdir(tmp_path)
    said = nas.call(*command, "--out", out)
    assert said.code == 0 and f"of 25 have their result in {out} already" in said.err
    assert counted["scores"] == 24 - len(kept) and lines(out)[: len(kept)] == kept
    good(*command, "--out", out)
    assert counted["scores"] == 24 - len(kept)  # all is there
    good(*command, "--out", tmp_path / "unbroken.jsonl")
    assert lines(out) == lines(tmp_path / "unbroken.jsonl") and len(lines(out)) == 24
    for record, asked in zip(lines(out), records, strict=True):
        assert record["arch"] == asked["arch"] and record["data"] == asked["data"]
        assert record["overhead"]["convention"] == "macs" and 0 <= record["metric"]["direct"]["toy_bbox_mAP"] <= 1
        protocol = record["protocol"]["direct"]
        assert protocol["checkpoint"] == checkpoint.digest(trained.checkpoint)
        assert protocol["input_shape"] == asked["data"]["input_shape"] and protocol["calibration_images"] == 6
    assert len({json.dumps(r["metric"]) for r in lines(out)}) > 4  # the scores tell them apart


def test_records_of_a_job_survive_its_attempts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    monkeypatch.setenv("SEARCHKIT_CHECKPOINT", str(kept))
    records = some(trained, 3)

    def attempt(n: int, count: int) -> Path:
        folder = tmp_path / f"attempt-{n}"
        (folder / "callback").mkdir(parents=True)
        monkeypatch.setenv("SEARCHKIT_CALLBACK", str(folder / "callback"))
        monkeypatch.chdir(folder)
        archs = archs_file(folder / "archs.jsonl", records[:count])
        good("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--out", "o.jsonl")
        return folder

    first, second = attempt(1, 2), attempt(2, 3)
    assert lines(first / "callback/records.jsonl") == lines(kept / "o.jsonl")[:2]
    assert lines(second / "callback/records.jsonl") == lines(kept / "o.jsonl")
    assert len(lines(kept / "o.jsonl")) == 3 and (second / "o.jsonl").resolve() == kept / "o.jsonl"


def test_raw_scores_come_beside(trained: Trained, tmp_path: Path) -> None:
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--out", tmp_path / "o.jsonl")
    good(*command, "--arch", "MAX")
    good(*command, "--arch", "MAX", "--arch", "MIN", "--raw")
    latest = {record["name"]: record for record in lines(tmp_path / "o.jsonl")}
    for record in latest.values():
        assert set(record["metric"]) == {"direct", "direct_raw"}
        assert record["protocol"]["direct_raw"]["calibration_images"] == 0
    assert len(lines(tmp_path / "o.jsonl")) == 3
    shown = json.loads(good(*command, "--arch", "MAX", "--raw", "--json"))
    assert {r["name"]: r for r in shown} == latest


def test_processes_share_the_archs_out(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = archs_file(tmp_path / "archs.jsonl", some(trained, 5))
    command = ("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--out", "o.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        out = good(*command)
        assert ("results: o.jsonl" in out) == (rank == "0")
        found.append(len(lines("o.jsonl")))
    assert found == [2, 5] and len({json.dumps(r["arch"]) + str(r["data"]) for r in lines("o.jsonl")}) == 5


# ---- scores ----


def test_scoring_leaves_the_supernet_as_it_is(session: sweep.Session) -> None:
    space = session.recipe.space
    before = {k: v.clone() for k, v in session.net.state_dict().items()}
    modes = [m.training for m in session.net.modules()]
    for arch in (space.maximum(), space.minimum(), space.named("MIDDLE"), space.at(7)):
        scores(session, arch)
        scores(session, arch, calibrated=False)
    assert equal(before, session.net.state_dict()) and modes == [m.training for m in session.net.modules()]


def test_scores_do_not_depend_on_what_was_scored_before(trained: Trained, session: sweep.Session) -> None:
    space = session.recipe.space
    archs = [space.maximum(), space.named("MIDDLE"), space.at(40)]
    forward = [scores(session, arch) for arch in archs]
    torch.manual_seed(17)  # nor on the state of any generator
    other = open_session(trained)
    assert [scores(other, arch) for arch in reversed(archs)] == forward[::-1]


def test_raw_scores_are_those_of_the_supernet_itself(session: sweep.Session) -> None:
    net, space, b = copy.deepcopy(session.net), session.recipe.space, session.bench
    for arch in (space.maximum(), space.minimum(), space.named("MIDDLE")):
        set_arch(net, arch)
        set_scale(net, 48, 1333)
        itself = evaluate.score(net, b.batches, b.evaluator, CPU)
        raw = scores(session, arch, calibrated=False)
        assert raw == {f"toy_{k}": round(v, 6) for k, v in itself.items() if k != "images_per_s"}
        assert raw != scores(session, arch)


def test_statistics_are_of_training_images_alone(trained: Trained, session: sweep.Session) -> None:
    training = bench.open_split(trained.recipe.data, "train")
    paths = {info.id: info for info in training.images}
    ids = session.bench.calibration_ids
    assert len(ids) == len(set(ids)) == 6
    shown = [image for batch in session.bench.calibration for image in batch]
    for number, image in zip(ids, shown, strict=True):
        info = paths[number]
        assert "train_" in info.path and torch.equal(image, decode(info.path, info.width, info.height))
    # each norm then has the mean over the batches of what it sees in them, by torch's own formula
    arch = trained.recipe.space.named("MIDDLE")
    static: Any = subnet(session.net, arch, session.config)
    set_scale(static, 48, 1333)
    assert evaluate.calibrate(static, session.bench.calibration, CPU) == 6
    means, variances = [], []
    for batch in session.bench.calibration:
        x = static.transform([image.float() / 255 for image in batch])[0].tensors
        y = static.backbone.body.conv1(x)
        means.append(y.mean((0, 2, 3)))
        variances.append(y.var((0, 2, 3)))
    norm = static.backbone.body.bn1
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.momentum == 0.1


def test_without_calibration_images_the_statistics_stay(trained: Trained, session: sweep.Session) -> None:
    none = open_session(trained, config.load(trained.config, ["test.calibration_images=0"]))
    arch = trained.recipe.space.minimum()
    assert scores(none, arch) == scores(session, arch, calibrated=False)


def test_the_second_arch_needs_no_files(trained: Trained, tmp_path: Path) -> None:
    data = shutil.copytree(trained.data, tmp_path / "data")
    work = shutil.copytree(Path(trained.checkpoint).parent, tmp_path / "work")
    body = json.loads(Path(trained.config).read_text())
    body["data"] |= {split: nas.section(data, split) for split in ("train", "val", "test")}
    recipe = config.load(write(tmp_path / "cfg.yaml", body))
    options: dict[str, Any] = {"split": None, "device": CPU, "seed": 0, "tune": False, "say": lambda _: None}
    opened = sweep.open_session(recipe, str(work / "latest.pth"), **options)
    for folder in (data, work):
        shutil.rmtree(folder)
    space = recipe.space
    assert scores(opened, space.maximum()) != scores(opened, space.minimum())


def test_images_that_do_not_fit_into_memory_are_read_again(trained: Trained, session: sweep.Session) -> None:
    recipe = config.load(trained.config, ["data.cache_mb=0"])
    small = open_session(trained, recipe)
    for name in ("MAX", "MIN"):
        assert scores(small, recipe.space.named(name)) == scores(session, recipe.space.named(name))


# ---- finetune ----


def test_a_killed_tuning_goes_on(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = archs_file(tmp_path / "archs.jsonl", some(trained, 3))

    def command(name: str) -> tuple[str | Path, ...]:
        folder = tmp_path / name
        first = ("finetune", trained.config, "--checkpoint", trained.checkpoint, "--archs", archs, "--device", "cpu")
        return (*first, "--set", "finetune.steps=8", "--work-dir", folder, "--out", tmp_path / f"{name}.jsonl")

    process = nas.spawn(*command("broken"), "--set", "finetune.checkpoint_steps=1", cwd=tmp_path)
    out = tmp_path / "broken.jsonl"

    def second_begun() -> bool:
        return process.poll() is not None or len(list((tmp_path / "broken").glob("*/latest.pth"))) == 2

    with nas.killed_after(process):
        suite.wait_for(second_begun, why="the second arch")
        assert process.poll() is None
    done = {path.parent.name: checkpoint.load(str(path)).step for path in (tmp_path / "broken").glob("*/latest.pth")}
    assert len(lines(out)) <= 2 and min(done.values()) < 8
    steps: list[int] = []
    real = sweep.fit

    def fit(*args: Any, **more: Any) -> Iterator[Any]:
        for report in real(*args, **more):
            steps.append(report.step)
            yield report

    monkeypatch.setattr(sweep, "fit", fit)
    good(*command("broken"))
    assert len(steps) == 3 * 8 - sum(done.values())
    good(*command("unbroken"))
    assert lines(out) == lines(tmp_path / "unbroken.jsonl") and len(lines(out)) == 3
    folders = sorted(path.name for path in (tmp_path / "unbroken").iterdir())
    assert len(folders) == 4 and folders == sorted(path.name for path in (tmp_path / "broken").iterdir())
    for name in folders:
        mine, theirs = tmp_path / "broken" / name / "latest.pth", tmp_path / "unbroken" / name / "latest.pth"
        assert equal(tensors(mine), tensors(theirs)) and checkpoint.load(str(mine)).step == 8
    best = max(lines(out), key=lambda r: r["metric"]["finetune"]["toy_bbox_mAP"])
    shape = best["data"]["input_shape"]
    assert (tmp_path / "broken" / "best").resolve().name == f"{Arch.of(best['arch']).id}-{shape}"
    assert {r["protocol"]["finetune"]["tuned_steps"] for r in lines(out)} == {8}


def test_tuning_of_a_job_survives_its_attempts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCHKIT_CHECKPOINT", str(tmp_path / "kept"))
    command = ("finetune", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MIN")
    for n in (1, 2):
        (tmp_path / f"attempt-{n}" / "callback").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / f"attempt-{n}")
        monkeypatch.setenv("SEARCHKIT_CALLBACK", str(tmp_path / f"attempt-{n}" / "callback"))
        good(*command, "--set", "finetune.steps=1")
        folder = (tmp_path / f"attempt-{n}" / "finetune" / "best").resolve()
        assert folder.parent == tmp_path / "kept" / "finetune" and (folder / "latest.pth").exists()
        assert len(lines("callback/records.jsonl")) == len(lines("metrics.jsonl")) == 1
    good(*command, "--set", "finetune.steps=2")  # another tuning is another result
    assert [r["protocol"]["finetune"]["tuned_steps"] for r in lines("metrics.jsonl")] == [1, 2]


def test_tuning_moves_a_copy(trained: Trained, tmp_path: Path) -> None:
    recipe = config.load(trained.config, ["finetune.train_on=[train, val]", "finetune.steps=2"])
    opened = open_session(trained, recipe, tune=True)
    assert opened.tune_set is not None and len(opened.tune_set.images) == nas.IMAGES["train"] + nas.IMAGES["val"]
    before = {k: v.clone() for k, v in opened.net.state_dict().items()}
    arch = recipe.space.named("MIDDLE")
    start = subnet(opened.net, arch, opened.config).state_dict()
    _, tuned = sweep.tune_record(opened, {"arch": arch.nested()}, arch, "t", str(tmp_path / "t"), lambda _: None)
    assert equal(before, opened.net.state_dict())
    kept = tensors(tmp_path / "t" / "latest.pth")
    assert all(torch.equal(kept[k], v) for k, v in tuned.state_dict().items())
    assert not torch.equal(kept["backbone.body.layer1.0.conv1.weight"], start["backbone.body.layer1.0.conv1.weight"])


def test_both_ways_to_name_the_archs(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good("flops", trained.config, "--out", "flops.jsonl")
    where = {"where": "data.input_shape == 48 and overhead.flops <= 28.3M"}
    rules = [where, {"type": "sample", "operation": "last", "key": "overhead.flops", "value": 2}]
    write(tmp_path / "pick.yaml", {"type": "sequential", "rules": rules})
    common = (trained.config, "--checkpoint", trained.checkpoint)
    good("test", *common, "--archs", "flops.jsonl", "--rules", "pick.yaml", "--out", "tested.jsonl")
    tested = lines("tested.jsonl")
    cheapest = sorted(
        (r["overhead"]["flops"] for r in lines("flops.jsonl") if r["data"]["input_shape"] == 48), reverse=False
    )[:2]
    assert sorted(r["overhead"]["flops"] for r in tested) == cheapest
    top = {"type": "sample", "operation": "top", "key": "metric.direct.toy_bbox_mAP", "value": 1}
    write(tmp_path / "best.yaml", {"type": "sequential", "rules": [top]})
    sets = ("--set", "finetune.steps=1")
    good("finetune", *common, "--archs", "tested.jsonl", "--rules", "best.yaml", "--out", "tuned.jsonl", *sets)
    (tuned,) = lines("tuned.jsonl")
    best = max(tested, key=lambda r: r["metric"]["direct"]["toy_bbox_mAP"])
    assert tuned["arch"] == best["arch"] and tuned["metric"]["direct"] == best["metric"]["direct"]
    assert set(tuned["metric"]["finetune"]) == set(best["metric"]["direct"])


# ---- other data than the checkpoint's ----


def relabelled(trained: Trained, folder: Path, names: list[str]) -> dict[str, Any]:
    """The config on data whose categories are `names`, in that order; boxes of others are gone."""
    body = json.loads(Path(trained.config).read_text())
    for split in ("train", "val"):
        old = json.loads(Path(body["data"][split]["annotations"]).read_text())
        number = {c["id"]: names.index(c["name"]) + 11 for c in old["categories"] if c["name"] in names}
        kept = [a | {"category_id": number[a["category_id"]]} for a in old["annotations"] if a["category_id"] in number]
        old |= {"annotations": kept, "categories": [{"id": i, "name": n} for i, n in enumerate(names, 11)]}
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(old))
        body["data"][split]["annotations"] = str(folder / f"{split}.json")
    return body


@pytest.mark.parametrize("agnostic", [False, True])
def test_rows_of_the_head_go_by_name(trained: Trained, tmp_path: Path, agnostic: bool) -> None:
    body = json.loads(Path(trained.config).read_text())
    path, learnt = trained.config, trained.checkpoint
    if agnostic:
        body["model"]["class_agnostic"] = True
        path = write(tmp_path / "agnostic.yaml", body)
        learnt = nas.train(path, tmp_path / "work", "train.steps=2")
    own: Any = checkpoint.load(learnt)
    theirs = list(own.meta["categories"])
    recipe = config.load(path)
    cls, box = (own.net[f"roi_heads.box_predictor.{k}.weight"] for k in ("cls_score", "bbox_pred"))
    for names in (theirs[::-1], theirs[1:], ["oval", *theirs[::-1], "star"]):
        for to_train in (False, True):
            net, match = nets.load(recipe, own, names, 0, to_train=to_train, where="it")
            head: Any = net.get_submodule("roi_heads.box_predictor")
            rows = [0] + [1 + theirs.index(n) if n in theirs else None for n in names]
            for mine, its in enumerate(rows):
                if its is not None:
                    assert torch.equal(head.cls_score.weight[mine], cls[its])
                    if not agnostic:
                        assert torch.equal(head.bbox_pred.weight[4 * mine : 4 * mine + 4], box[4 * its : 4 * its + 4])
                elif to_train:
                    assert 0 < head.cls_score.weight[mine].abs().max() < 1 and head.cls_score.bias[mine] > -1
                else:
                    assert head.cls_score.bias[mine] == nets.NEVER and head.cls_score.weight[mine].abs().max() == 0
            assert not agnostic or torch.equal(head.bbox_pred.weight, box)
            assert match.matched == tuple(n for n in names if n in theirs)
            assert torch.equal(net.state_dict()["backbone.body.conv1.weight"], own.net["backbone.body.conv1.weight"])


def test_scores_on_other_data(trained: Trained, tmp_path: Path) -> None:
    command = ("test", "--checkpoint", trained.checkpoint, "--arch", "MAX", "--out")
    (own,) = json.loads(good(*command, tmp_path / "own.jsonl", trained.config, "--json"))
    names = ["circle", "square", "triangle"]
    turned = write(tmp_path / "turned.yaml", relabelled(trained, tmp_path / "turned", names[::-1]))
    done = nas.call(*command, tmp_path / "turned.jsonl", turned)
    assert done.code == 0 and "classes: all 3 of the data are the checkpoint's" in done.err
    (record,) = lines(tmp_path / "turned.jsonl")
    assert record["metric"] == own["metric"]  # the same boxes under the same names
    assert record["protocol"]["direct"]["data"] != own["protocol"]["direct"]["data"]
    more = write(tmp_path / "more.yaml", relabelled(trained, tmp_path / "more", ["star", *names]))
    done = nas.call(*command, tmp_path / "more.jsonl", more)
    assert done.code == 0 and "classes: 3 matched by name, 1 start fresh (star)" in done.err
    none = write(tmp_path / "none.yaml", relabelled(trained, tmp_path / "none", ["star", "moon"]))
    said = bad(*command, tmp_path / "none.jsonl", none)
    assert "none of the data's classes (star, moon) is one of the checkpoint's (circle, square, triangle)" in said
    assert "search-nas finetune" in said and not (tmp_path / "none.jsonl").exists()


def test_tuning_on_other_data(trained: Trained, tmp_path: Path) -> None:
    path = write(tmp_path / "cfg.yaml", relabelled(trained, tmp_path / "d", ["triangle", "moon", "circle"]))
    more = ("--out", tmp_path / "o.jsonl", "--work-dir", tmp_path / "w", "--set", "finetune.steps=2")
    done = nas.call("finetune", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", *more)
    assert done.code == 0 and "classes: 2 matched by name, 1 start fresh (moon)" in done.err
    found = checkpoint.load(str(tmp_path / "w" / "best" / "latest.pth"))
    assert found.meta["categories"] == ["triangle", "moon", "circle"]


def test_files_with_other_classes_do_not_mix(trained: Trained, tmp_path: Path) -> None:
    body = relabelled(trained, tmp_path / "d", ["triangle", "square", "circle"])
    body["data"]["val"] = json.loads(Path(trained.config).read_text())["data"]["val"]
    path = write(tmp_path / "cfg.yaml", body)
    said = bad("train", path, "--work-dir", tmp_path / "work", "--set", "train.steps=1")
    assert "must have the same classes in the same order" in said and "data.classes" in said
    said = bad("finetune", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
    assert "must have the same classes in the same order" in said


def test_the_checkpoint_of_another_space(trained: Trained, tmp_path: Path) -> None:
    body = json.loads(Path(trained.config).read_text())
    body["space"]["backbone.stem.width"] = {"start": 4, "end": 12, "step": 4}
    body["data"]["val"]["annotations"] = "/nowhere.json"  # it is said before data is looked for
    path = write(tmp_path / "cfg.yaml", body)
    said = bad("test", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
    assert "of another space: backbone.stem.width: 8 there, 12 here" in said
    same = json.loads(Path(trained.config).read_text())
    for change, named in (
        ({"fpn_channels": 8}, "fpn"),
        ({"box_head_width": 16}, "box_head"),
        ({"class_agnostic": True}, "bbox_pred"),
    ):
        body = {**same, "model": {**same["model"], **change}}
        path = write(tmp_path / "cfg.yaml", body)
        said = bad("test", path, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", tmp_path / "o.jsonl")
        assert "does not fit the model of" in said and named in said


def test_more_classes_than_the_data_has(trained: Trained, tmp_path: Path) -> None:
    body = json.loads(Path(trained.config).read_text())
    body["model"] |= {"num_classes": 9, "score_thresh": 0.0001}
    path = write(tmp_path / "cfg.yaml", body)
    good("train", path, "--work-dir", tmp_path / "work", "--set", "train.steps=2")  # scored at the end
    body["model"]["num_classes"] = 2
    said = bad("train", write(tmp_path / "cfg.yaml", body), "--work-dir", tmp_path / "other")
    assert "model.num_classes is 2, but the data has 3 categories" in said


def test_results_files(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a \.jsonl file"):
        open_results(str(tmp_path / "o.csv"), "direct")
    (tmp_path / "o.jsonl").write_text('{"metric": {"direct": {}}}\n')
    with pytest.raises(UsageError, match="is no results file: a record has no arch"):
        open_results(str(tmp_path / "o.jsonl"), "direct")
