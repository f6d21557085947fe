"""search-nas as a command: what its verbs print, and what they say of input that is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.nas.cli import data
from searchkit.nas.cli.main import VERBS
from searchkit.nas.cli.records import print_table
from searchkit.nas.cli.space import histogram
from searchkit.nas.cost.price import price_net
from searchkit.nas.train import net as nets
from searchkit.records import modelspace
from searchkit.records.arch import Arch
from tests.support import nas
from tests.support.nas import Trained, bad, call, good, lines, tiny, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- what it prints ----


@pytest.mark.parametrize("verb", [*VERBS, *(f"data {verb}" for verb in (*data.VERBS, *data.KINDS))])
def test_every_verb_has_help(verb: str) -> None:
    out = good(*verb.split(), "--help")
    assert f"Usage: search-nas {verb}" in out and "Example" in out
    assert "--json" in out or verb in ("schema", "data")  # schema prints nothing else, data has verbs of its own


def test_help_is_quick() -> None:
    script = """
import sys
from searchkit.nas.cli.main import main
sys.argv = ["search-nas", "--help"]
try:
    main()
except SystemExit as e:
    assert not e.code
found = {name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "numpy", "rich", "yaml"}
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    assert "did you mean train" in bad("trian")


@pytest.mark.slow
def test_every_verb_prints_one_document(trained: Trained) -> None:
    rules = {"type": "sequential", "rules": [{"type": "sample", "operation": "random", "value": 2}]}
    write(Path("rules.yaml"), rules)
    common = (trained.config, "--checkpoint", trained.checkpoint)
    for argv in (
        ("space", trained.config),
        ("flops", trained.config, "--out", "f.jsonl"),
        ("select", "f.jsonl", "--rules", "rules.yaml", "--out", "p.jsonl"),
        ("train", trained.config, "--work-dir", "w", "--set", "train.steps=1"),
        ("test", *common, "--archs", "p.jsonl", "--out", "t.jsonl", "--raw"),
        ("finetune", *common, "--archs", "t.jsonl", "--out", "u.jsonl", "--set", "finetune.steps=1"),
        ("extract", *common, "--arch", "MIN", "--out", "m"),
        ("predict", "m", trained.data / "images" / "val_00001.png", "--out", "boxes"),
        ("data", "toy-det", "--out", "d", "--images", "1", "1", "1", "--size", "32", "32"),
    ):
        json.loads(good(*argv, "--json"))
    assert json.loads(good("train", trained.config, "--work-dir", "w", "--set", "train.steps=1", "--json"))["step"] == 1
    out = good("test", *common, "--archs", "t.jsonl", "--out", "t.jsonl")
    assert "toy_bbox_mAP" in out and "results: t.jsonl" in out


# ---- space, flops, select ----


def brute_force(body: dict[str, Any]) -> Iterator[Arch]:
    """The tiny space, written out: nested loops over its values, and the condition."""
    stems, depths = (4, 8), product((1, 2), (1,), (1, 2), (1,))
    widths = [w for w in product((4, 8), (4, 8), (8, 16), (8, 16)) if w[0] <= w[1] <= w[2] <= w[3]]
    for stem, width, depth in product(stems, widths, depths):
        yield Arch.of({"backbone.stem.width": stem, "backbone.body.width": width, "backbone.body.depth": depth})


@pytest.mark.slow
def test_the_numbers_of_the_space_are_exact(trained: Trained) -> None:
    shown = json.loads(good("space", trained.config, "--json"))
    archs = list(brute_force(nas.TINY))
    assert shown["archs"] == len(archs) == len(set(archs)) and shown["points"] == 2 * len(archs)
    config = nets.sized(trained.recipe, ("a", "b", "c"))
    macs = [price_net(config, arch, size).flops for arch in archs for size in (48, 64)]
    assert (shown["macs_min"], shown["macs_max"], shown["macs_of"]) == (min(macs), max(macs), "all points")
    named = {(row["name"], row["input_shape"]): row for row in shown["named"]}
    assert set(named) == set(product(("MAX", "MIN", "MIDDLE"), (48, 64)))
    for (name, size), row in named.items():
        net = nets.build_at(trained.recipe, config, trained.recipe.space.named(name), 0)
        assert row["params"] == sum(p.numel() for p in net.parameters())
        assert row["macs"] == price_net(config, Arch.of(row["arch"]), size).flops
    out = good("space", trained.config, "--png", "macs.png")
    assert f"{len(archs)} archs x 2 input shapes = {2 * len(archs)} points" in out
    assert Path("macs.png").read_bytes().startswith(b"\x89PNG")
    bars = [line.split() for line in out.split("MACs of all points:")[1].splitlines() if line.strip()][:24]
    assert sum(int(bar[-1]) for bar in bars if bar[-1].isdecimal()) == 2 * len(archs)
    assert histogram([5, 5]) == [f"{5:>8} {'█' * 50} 2"]


def test_flops_go_on_after_a_cut(trained: Trained) -> None:
    out = good("flops", trained.config, "--out", "f.jsonl")
    whole = Path("f.jsonl").read_bytes()
    count = 2 * trained.recipe.space.count()
    assert f"{count} records, convention macs" in out and whole.count(b"\n") == count
    Path("f.jsonl").write_bytes(whole[: len(whole) // 2])
    out = good("flops", trained.config, "--out", "f.jsonl")
    assert "were there)" in out and Path("f.jsonl").read_bytes() == whole
    archs = [Arch.of(r["arch"]) for r in lines("f.jsonl")]
    assert sorted(set(archs), key=archs.index) == list(trained.recipe.space.enumerate())
    said = bad("flops", trained.config, "--convention", "gaia", "--out", "f.jsonl", code=4)
    assert "the line is not the one of point" in said and Path("f.jsonl").read_bytes() == whole
    good("flops", trained.config, "--records", "f.jsonl", "--out", "again.jsonl")
    assert lines("again.jsonl") == lines("f.jsonl")
    good("flops", trained.config, "--sample", "7", "--out", "some.jsonl")
    assert len(lines("some.jsonl")) == 7 and all(r in lines("f.jsonl") for r in lines("some.jsonl"))
    assert "exclude each other" in bad(
        "flops", trained.config, "--sample", "7", "--records", "f.jsonl", "--out", "x.jsonl"
    )


def test_a_table_shows_the_scores_of_archs_with_many_names(capsys: pytest.CaptureFixture[str]) -> None:
    """What all archs have in common is left out, and where there is too little room it is the arch that is cut."""
    names = {f"backbone.body.{i}": list(range(30)) for i in "abcdef"}
    scores = {f"digits_bbox_mAP{end}": 0.125 for end in ("", "_50", "_75")}
    records = [
        {"arch": {**names, "head.kernel": kernel}, "metric": {"final": scores}, "data": {"input_shape": 128}}
        for kernel in (3, 5)
    ]
    print_table(records, "final")
    whole = capsys.readouterr().out
    assert "kernel=3 " in whole and "backbone" not in whole
    print_table(records[:1], "final")
    alone = capsys.readouterr().out.splitlines()
    assert max(map(len, alone)) <= 200 and alone[1].startswith("backbone.body.a=0,1,2") and "…" in alone[1]
    assert all(out.count("0.125") == 3 * (len(out.splitlines()) - 1) for out in (whole, "\n".join(alone)))
    assert "digits_bbox_mAP  digits_bbox_mAP_50  digits_bbox_mAP_75" in alone[0]


def test_select_shows_its_stages(trained: Trained) -> None:
    good("flops", trained.config, "--out", "f.jsonl")
    shapes = {"type": "parallel", "rules": [{"where": f"data.input_shape == {s}"} for s in (48, 64)]}
    sample = {"type": "sample", "operation": "random", "value": 3}
    write(Path("r.yaml"), {"type": "sequential", "rules": [shapes, sample, {"type": "merge"}]})
    count = trained.recipe.space.count()
    out = good("select", "f.jsonl", "--rules", "r.yaml", "--dry-run")
    rows = [line.split() for line in out.splitlines()[:5]]
    assert [row[-1] for row in rows[1:2]] == [str(2 * count)]
    assert f"2  {2 * count}  ({count}, {count})" in out and "2  6  (3, 3)" in out
    assert not Path("p.jsonl").exists() and f"6 of {2 * count} records" in out
    good("select", "f.jsonl", "--rules", "r.yaml", "--out", "p.jsonl")
    assert sorted(r["data"]["input_shape"] for r in lines("p.jsonl")) == [48] * 3 + [64] * 3
    good("select", "f.jsonl", "--rules", "r.yaml", "--out", "q.jsonl")
    assert lines("p.jsonl") == lines("q.jsonl")
    assert "nowhere to write" in bad("select", "f.jsonl", "--rules", "r.yaml")


def test_flat_records_and_null_groups(trained: Trained) -> None:
    flat = {
        "arch.backbone.stem.width": 4,
        "arch.backbone.body.width": [4, 4, 8, 8],
        "arch.backbone.body.depth": [1, 1, 1, 1],
        "data.input_shape": [3, 64, 64],
    }
    nested = {"arch": trained.recipe.space.minimum().nested(), "data": None, "metric": None}
    Path("r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (flat, nested)))
    good("flops", trained.config, "--records", "r.jsonl", "--out", "f.jsonl")
    a, b = lines("f.jsonl")
    assert a["arch"] == b["arch"] and a["data"]["input_shape"] == [3, 64, 64] and b["data"]["input_shape"] == 48
    good("test", trained.config, "--checkpoint", trained.checkpoint, "--archs", "r.jsonl", "--out", "t.jsonl")
    assert len(lines("t.jsonl")) == 2


# ---- input that is wrong ----

WRONG = """model:
  backbone: resnet
  backbone_options: {blok: basic}
  num_clases: 3
space:
  backbone.stem.width: {start: 8, end: 4, step: 4}
train:
  lr: fast
  polcy: sandwich
  batch_size: 0
  milestones: [0.5, x]
test: [1]
lr: 3
"""


NAMES = """model: {num_classes: 3}
space:
  backbone.stem.width: 64
  backbone.body.width: [64, 128, 256, 512]
  backbone.body.depht: [3, 4, 6, 3]
"""


def test_all_faults_of_a_config_at_once() -> None:
    Path("cfg.yaml").write_text(WRONG)
    said = bad("space", "cfg.yaml")
    for part in (
        "cfg.yaml:3:22: model.backbone_options: resnet has no option 'blok' (did you mean block?)",
        "cfg.yaml:4:3: model: unknown key 'num_clases' (did you mean num_classes?)",
        "cfg.yaml:6:32: space.backbone.stem.width.start: must not be above the end, but 8 > 4",
        "cfg.yaml:10:15: train.batch_size: must be a whole number of 1 or more, not 0",
        "cfg.yaml:8:7: train.lr: must be a number above 0, not 'fast'",
        "cfg.yaml:9:3: train: unknown key 'polcy' (did you mean policy?)",
        "cfg.yaml:11:21: train.milestones[1]: must be a number above 0 and below 1, not 'x'",
        "cfg.yaml:12:7: test: must be a mapping",
        "cfg.yaml:13:1: unknown key 'lr'",
    ):
        assert part in said, said
    done = call("space", "cfg.yaml", "--json")
    error = json.loads(done.out)["error"]
    assert (error["kind"], error["exit"], done.code) == ("usage", 2, 2) and done.err == said
    first = {"file": "cfg.yaml", "line": 3, "column": 22}
    assert first.items() <= error["faults"][0].items() and len(error["faults"]) == len(said.splitlines())
    Path("cfg.yaml").write_text(NAMES)
    assert "cfg.yaml:5:3: space.backbone.body.depht: resnet has no such dimension (did you mean body.depth?)" in bad(
        "space", "cfg.yaml"
    )
    Path("cfg.yaml").write_text(f"{NAMES}  sampler: {{type: random}}\n")
    assert "cfg.yaml:6:3: space: unknown key 'sampler'" in bad("space", "cfg.yaml")
    Path("cfg.yaml").write_text("data: {}\n")
    said = bad("space", "cfg.yaml")
    assert "missing key 'model'" in said and "missing key 'space'" in said
    assert "can't read none.yaml" in bad("space", "none.yaml")


@pytest.mark.parametrize(
    ("section", "change", "fault"),
    [
        ("model", {"backbone": "resnext"}, "unknown backbone 'resnext' (did you mean resnet?)"),
        ("model", {"backbone": "none.py:Net"}, "cannot read the backbone's file"),
        ("model", {"rpn_activation": "tanh"}, "must be one of sigmoid, softmax"),
        ("model", {"num_classes": 0}, "model.num_classes: must be a whole number of 1 or more, not 0"),
        ("train", {"batch_size": 0, "lr": 0}, "train.batch_size: must be a whole number of 1 or more, not 0"),
        ("train", {"eval_archs": ["MAX", "MIDLE"]}, "train.eval_archs[1]: the space has no architecture named 'MIDLE'"),
        ("train", {"best_metric": "mAP"}, "train.best_metric: must be one of bbox_mAP, "),
        ("train", {"policy": "anchors", "sampler": {"type": "anchr"}}, "train.sampler.type: unknown type 'anchr'"),
        ("train", {"sampler": {"type": "anchor", "anchors": ["MAX"]}}, "train.sampler: is of policy anchors"),
        ("train", {"random_archs": -1}, "train.random_archs: must be a whole number of 0 or more"),
        ("train", {"loss_weights": {"loss_cls": 2}}, "there is no loss 'loss_cls'"),
        ("test", {"calibration_images": -1}, "test.calibration_images: must be a whole number of 0 or more"),
        ("finetune", {"train_on": ["train", "tset"]}, "must be one of train, val"),
        ("data", {"augment": {"hflip": 2}}, "data.augment.hflip: must be a number from 0 to 1"),
        ("space", {"backbone.stem.widht": 4, "backbone.stem": 3}, "exclude each other"),
        (
            "space",
            {"anchors": {"BIG": {"backbone.stem.width": 64}}},
            "anchors.BIG.backbone.stem.width: backbone.stem.width is 64, but must be from 1 to 8",
        ),
        ("space", {"backbone.body.depth": None}, "body.depth"),
    ],
)
def test_values_that_can_not_be(trained: Trained, section: str, change: dict[str, Any], fault: str) -> None:
    path = write(Path("cfg.yaml"), tiny(trained.data, **{section: change}))
    said = bad("train", path, "--work-dir", "work")
    assert fault in said and not Path("work/latest.pth").exists()


def test_overrides(trained: Trained) -> None:
    for text, fault in (
        ("train.qqqq=1", "steps (null), batch_size (8), optimizer (sgd), lr (0.02)"),
        ("train.qqqq=1", "nesterov (false), weight_decay (0.0001)"),
        ("train.qqqq=1", "milestones ([0.75, 0.92])"),
        ("train.lrr=1", "train: unknown key 'lrr' (did you mean lr?)"),
        ("trian.lr=1", "unknown key 'trian' (did you mean train?)"),
        ("train.lr", "must be section.key=value"),
        ("train..lr=1", "must be section.key=value"),
        ("train.lr=[1", "--set train.lr=[1: not YAML"),
        ("train.lr=!!python/name:os.system x", "the tag !!python/name:os.system is not allowed"),
        ("space.backbone.stem.width=x", "backbone.stem.width"),
    ):
        said = bad("space", trained.config, "--set", text)
        assert fault in said and (f"--set {text.split('=')[0]}" in said), said
    shown = json.loads(good("space", trained.config, "--json", "--set", "space.data.input_shape={choices: [32]}"))
    assert shown["input_shapes"] == [32] and shown["points"] == shown["archs"]
    shown = json.loads(good("space", trained.config, "--json", "--set", "space.backbone.stem.width=8"))
    assert shown["archs"] == trained.recipe.space.count() / 2


def test_archs_beyond_the_supernet(trained: Trained) -> None:
    record = {"arch": trained.recipe.space.maximum().nested()}
    record["arch"]["backbone"]["body"]["width"][2] = 24
    wrong: list[dict[str, Any]] = [
        record,
        {"arch": {"backbone": {"stem": {"width": "x"}}}},
        {"metric": {"t": {"m": 1}}},
    ]
    Path("a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in wrong))
    common = (trained.config, "--checkpoint", trained.checkpoint)
    for argv in (
        ("test", *common, "--archs", "a.jsonl"),
        ("flops", trained.config, "--records", "a.jsonl", "--out", "f.jsonl"),
    ):
        said = bad(*argv)
        assert "backbone.body.width[2] is 24, but must be from 1 to 16" in said
        assert "record 2: " in said and "record 3 has no arch" in said
    assert "no subnets given" in bad("test", *common)
    assert "did you mean MIDDLE" in bad("test", *common, "--arch", "MIDLE")


def test_rules_that_are_wrong(trained: Trained) -> None:
    good("flops", trained.config, "--out", "f.jsonl")
    for where, faults in (
        ("overhead.flps <= 3", ("overhead.flps", "did you mean overhead.flops")),
        ("overhead.flops <= ", ("^",)),
        ("open('x') == 1", ("open",)),
        ("overhead.flops.__class__ == 1", ("__class__",)),
    ):
        write(Path("r.yaml"), {"type": "sequential", "rules": [{"where": where}]})
        for argv in (
            ("select", "f.jsonl", "--rules", "r.yaml", "--out", "p.jsonl"),
            ("test", trained.config, "--checkpoint", "none.pth", "--archs", "f.jsonl", "--rules", "r.yaml"),
        ):
            said = bad(*argv)
            assert all(fault in said for fault in faults), said
    assert not Path("p.jsonl").exists()
    mixed = lines("f.jsonl")
    mixed[3]["overhead"]["convention"] = "gaia"
    Path("mixed.jsonl").write_text("".join(modelspace.dumps(r) + "\n" for r in mixed))
    write(Path("r.yaml"), {"type": "sequential", "rules": [{"where": "overhead.flops > 0"}]})
    said = bad("select", "mixed.jsonl", "--rules", "r.yaml", "--out", "p.jsonl")
    assert "1 of gaia" in said and f"{len(mixed) - 1} of macs" in said
    Path("torn.jsonl").write_text(modelspace.dumps(mixed[0]) + '\n{"arch": ')
    assert "torn.jsonl:2" in bad("select", "torn.jsonl", "--rules", "r.yaml", "--out", "p.jsonl")


def test_checkpoints_that_are_none(trained: Trained) -> None:
    body = json.loads(Path(trained.config).read_text())
    body["data"]["val"]["annotations"] = body["data"]["train"]["annotations"] = "/nowhere.json"
    config = write(Path("cfg.yaml"), body)  # the checkpoint is looked at before data is
    torch.save({"state_dict": {"a": torch.zeros(1)}}, "theirs.pth")
    Path("empty.pth").write_bytes(b"")
    Path("torn.pth").write_bytes(Path(trained.checkpoint).read_bytes()[:5000])
    torch.save(Evil(), "evil.pth")
    for name, fault in (
        ("none.pth", "no checkpoint at none.pth"),
        ("theirs.pth", "was not written by search-nas train"),
        ("empty.pth", "is no checkpoint that can be loaded safely"),
        ("torn.pth", "is no checkpoint that can be loaded safely"),
        ("evil.pth", "is no checkpoint that can be loaded safely"),
        (".", "is no checkpoint that can be loaded safely"),
    ):
        for argv in (
            ("test", config, "--checkpoint", name, "--arch", "MAX"),
            ("finetune", config, "--checkpoint", name, "--arch", "MAX"),
            ("extract", config, "--checkpoint", name, "--arch", "MAX", "--out", "m"),
        ):
            assert fault in bad(*argv)
    assert not Path("was_run").exists() and not Path("m").exists()


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("was_run", "w"))


def test_data_that_is_wrong(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(shutil.copytree(trained.data, "data"))
    path = write(Path("cfg.yaml"), tiny(data.absolute()))
    common = (path, "--checkpoint", trained.checkpoint, "--arch", "MAX")
    for name in ("val_00002.png", "val_00004.png"):
        (data / "images" / name).write_bytes(b"no image")
    said = bad("test", *common)
    assert "val_00002.png" in said and "val_00004.png" in said and "2 images can't be used" in said

    def edited(split: str, **changes: Any) -> str:
        file = data / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps({**json.loads((trained.data / "annotations" / file.name).read_text()), **changes}))
        return bad("train", path, "--work-dir", "work")

    assert "training needs boxes, but" in edited("train", annotations=[])
    said = edited("train", categories=[{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}])
    assert "category 3 is used by" in said and "but not declared" in said
    assert "has no list categories" in edited("train", categories={})
    said = edited("train", categories={}, **{f"tensor_{i}": i for i in range(200)})  # a file of something else
    assert "tensor_1," in said and "more" in said and "tensor_99" not in said
    (data / "annotations" / "instances_train.json").unlink()
    assert "no such annotation file" in bad("train", path, "--work-dir", "work")
    body = tiny(data.absolute(), data={"train": None})
    assert "data.train is missing in the config" in bad("train", write(Path("c.yaml"), body), "--work-dir", "work")
    assert "num_classes" not in body["model"] and "data.train is missing" in bad("space", "c.yaml")


def test_variables_in_paths(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    body = tiny(Path("$TOYS"), model={"num_classes": 3})
    body["data"]["val"]["images"] = "${TOYS}/images"
    path = write(Path("cfg.yaml"), body)
    good("space", path)  # needs no data
    said = bad("train", path, "--work-dir", "work")
    assert "data.train.annotations: $TOYS is not set" in said and "export TOYS=" in said
    said = bad("test", path, "--checkpoint", trained.checkpoint, "--arch", "MAX")
    assert "$TOYS is not set" in said
    monkeypatch.setenv("TOYS", str(trained.data))
    good("test", path, "--checkpoint", trained.checkpoint, "--arch", "MAX")


def test_devices_that_are_not_there(trained: Trained) -> None:
    said = bad("train", trained.config, "--work-dir", "work", "--device", "quantum")
    assert "--device quantum" in said
