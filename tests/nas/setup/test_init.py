"""search-nas init: the configs that it makes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from searchkit.errors import UsageError
from searchkit.nas.cli.init import Place, seconds_of
from searchkit.nas.data.toy import make_toy_det
from searchkit.nas.models.init.load import load_init
from searchkit.nas.setup import budget as budgets
from searchkit.nas.setup import design, measure
from searchkit.nas.setup.anchors import Anchors, best_iou, clusters, fitted, recall
from searchkit.nas.setup.families import FAMILIES, Body
from searchkit.nas.setup.schedule import Speeds, estimate, has_room, split
from searchkit.nas.space.shapes import height_width
from searchkit.nas.tasks import read as configs
from searchkit.nas.train import net as nets
from searchkit.suite.config import read as suite
from tests.nas.test_latency import table_of
from tests.support.nas import bad, call, good
from tests.support.suite import ok, run

FILES = ("net.yaml", "cfg.yaml", "finalists.yaml")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    return Path(make_toy_det(str(folder), images={"train": 24, "val": 15, "test": 6}, size=(96, 128)))


@pytest.fixture
def here(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the data in it, as `toy`."""
    (tmp_path / "toy").symlink_to(toy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*argv: str) -> dict[str, Any]:
    """What init decides, as --json tells it."""
    out = good("init", "toy", *argv, "--no-measure", "--json")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("family", ["ssd", "retinanet", "faster_rcnn"])
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "scratch"])
def test_configs_are_whole_and_surround_the_budget(
    here: Path, monkeypatch: pytest.MonkeyPatch, family: str, weights: bool
) -> None:
    monkeypatch.setattr(design, "has_weights", lambda: weights)
    monkeypatch.setenv("DATA", "toy")
    cost = {"ssd": "100M", "retinanet": "400M", "faster_rcnn": "400M"}[family]
    told = init("--budget", cost, "--family", family, "--time", "30m")["decisions"]
    recipe = configs.load("net.yaml")
    assert recipe.notes == ()  # no key is idle
    counted = "what runs on boxes is counted on 50 to 200 boxes an image" in (shown := good("space", "net.yaml"))
    assert counted == ("head.proposals" in shown) == ("50 to 200)" in told["space"]) == (family == "faster_rcnn")
    macs = budgets.price_text(Path("net.yaml").read_text(), [(64, 64)], 0)  # prices what the file says
    assert macs.least[0] < budgets.read_budget(cost).value
    shapes = [(s, s) if isinstance(s, int) else s for s in recipe.scales]
    costs = budgets.price_text(Path("net.yaml").read_text(), shapes, 1).of(shapes)  # other random archs
    share = budgets.share_below(costs, budgets.read_budget(cost).value)
    assert 0.1 <= share <= 0.9, told["space"]
    assert (recipe.init is not None) == weights
    config, _ = suite.load("cfg.yaml")
    assert config is not None
    names = [stage for stage in re.findall(r"- name: (\w+)", Path("cfg.yaml").read_text()) if stage != "arch"]
    trusted = ["trust"] if "are trained alone" in told["trust"] else []  # where the measured speed leaves room
    assert names == ["check", "train", *trusted, "search", "tune", "plain", "export", "report"]
    # Paths may have spaces: what a shell puts in is quoted, but for $PLAIN, which is several words.
    commands = re.sub(r"^ +space: .*", "", Path("cfg.yaml").read_text().partition("\nstages:")[2], flags=re.M)
    assert {*re.findall(r"\$\w+", re.sub('"[^"]*"', "", commands))} == {"$PLAIN"}


@pytest.mark.parametrize("finest", [4, 8])
@pytest.mark.parametrize("family", ["ssd", "retinanet", "faster_rcnn"])
def test_no_layer_is_computed_for_nothing(here: Path, family: str, finest: int) -> None:
    body = Body(family, True, 1.0, finest, 3)
    config = design.draft(body, FAMILIES[family], FAMILIES[family].default(body, (96, 128)), [(96, 128)])
    Path("some.yaml").write_text(config)
    recipe = configs.load("some.yaml")
    with torch.random.fork_rng():
        net = nets.build(recipe, ("a", "b", "c"), 0)
    recipe.task.network.set_scale(net, (96, 128), recipe.data)
    images = [torch.rand(3, 96, 128)]
    boxes = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    losses = net.train()(images, [boxes])
    sum(losses.values()).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_plain_detector_is_one_arch_within_the_budget(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "toy")
    init("--budget", "80 MMACs", "--time", "30m")
    overrides = re.findall(r"--set (\S+)", re.search(r"PLAIN: >-\n((?:    .*\n)+)", Path("cfg.yaml").read_text())[1])
    recipe = configs.load("net.yaml", overrides)
    assert recipe.space.count() == 1 and len(recipe.scales) == 1
    whole = configs.load("net.yaml")
    assert recipe.train.total_steps(24, 1) == whole.train.total_steps(24, 1) + whole.finetune.total_steps(24, 1)
    found = json.loads(good("space", "net.yaml", *(w for o in overrides for w in ("--set", o)), "--json"))
    assert 0.6 * 80e6 < found["macs_max"] <= 80e6


def test_a_space_for_two_budgets_has_archs_for_both(here: Path) -> None:
    told = init("--budget", "200M", "--budget", "60M")["decisions"]["space"]
    shares = [int(share) for share in re.findall(r"enough for (\d+)%", told)]
    assert len(shares) == 2 and 20 <= shares[0] <= 80 and 10 <= shares[1] < shares[0]


def test_the_plain_detector_is_never_above_the_budget() -> None:
    largest, least = np.array([20.0, 40.0, 80.0]), np.array([5.0, 10.0, 15.0])
    priced = budgets.Priced(((64, 64), (96, 96), (128, 128)), np.zeros((1, 3)), largest, least)
    assert budgets.plain_of(priced, 50) == budgets.Plain("MAX", (96, 96), 40)
    assert budgets.plain_of(priced, 12) == budgets.Plain("MIN", (96, 96), 10)


def test_the_same_is_made_again_and_nothing_is_replaced_unasked(here: Path) -> None:
    init("--budget", "80M", "--time", "20m", "--seed", "3")
    first = [Path(name).read_text() for name in FILES]
    assert "already" in bad("init", "toy", "--budget", "80M", "--no-measure", code=4)
    told = call("init", "toy", "--budget", "80M", "--time", "20m", "--seed", "3", "--overwrite", "--no-measure").err
    assert "note: of 24 images" not in told
    assert [Path(name).read_text() for name in FILES] == first
    told = call("init", "toy", "--budget", "20M", "--time", "10h", "--no-measure", "--out", "long").err
    assert re.search(r"note: of 24 images [\d,]+ epochs teach little more than 1,000", told)
    assert str(here) not in "".join(first) and "".join(first).count("DATA: toy") == 1


def test_the_trust_of_a_supernet_is_a_stage_where_the_time_is_enough(here: Path) -> None:
    for hours, room in (("24h", True), ("200s", False)):
        told = init("--budget", "40M", "--time", hours, "--overwrite")["decisions"]["trust"]
        text = Path("cfg.yaml").read_text()
        assert ("- name: trust" in text) == ('--trust "$SEARCHKIT_STAGE_TRUST/trust.json"' in text) == room
        assert ("leaves no room" in told) != room
        assert "train 8 archs alone" in " ".join(text.replace("#", " ").split()) or room


def test_a_detector_from_a_shelf_is_fine_tuned_beside(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "toy")
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    torch.save(theirs.state_dict(), "theirs.pth")
    told = init("--budget", "40M", "--time", "24h", "--pretrained", "theirs.pth")
    assert "ssdlite320_mobilenet_v3_large at 320x320, 4" in told["decisions"]["pretrained"]
    assert "- name: pretrained" in Path("cfg.yaml").read_text()
    recipe = configs.load("pretrained.yaml")
    with torch.random.fork_rng():
        net = nets.build(recipe, ("a",) * recipe.model.num_classes, 0)
    loaded = load_init(net, str(recipe.init))
    assert not loaded.partly and len(loaded.unused) == 12 and 0 < len(loaded.kept) < 30 < len(loaded.whole)
    torch.save({"some.weight": torch.zeros(1)}, "none.pth")
    torch.save({"meta": {"space": {}}, "net": {"some.weight": torch.zeros(1)}}, "ours.pth")
    Path("model").mkdir()
    Path("model/model.py").touch()
    for given, words in (
        ("none.pth", "but it holds other weights\n  A detector of your own is compared by its records"),
        ("ours.pth", "but it is a checkpoint of search-nas\n  A detector of your own is compared by its records"),
        (
            "model",
            "ssdlite320_mobilenet_v3_large, retinanet_resnet50_fpn, fasterrcnn_resnet50_fpn, perhaps with other ",
        ),
        ("model", "but it is an extracted network\n"),
        ("toy", "but it is a folder\n"),
        ("ssdlite", "no such file or detector"),
    ):
        said = bad("init", "toy", "--budget", "40M", "--overwrite", "--no-measure", "--pretrained", given)
        assert words in said


@pytest.mark.parametrize(("bf16_s", "precision"), [(0.88, "fp32"), (0.86, "bf16")])
def test_bf16_is_taken_where_it_is_faster(
    here: Path, monkeypatch: pytest.MonkeyPatch, bf16_s: float, precision: str
) -> None:
    def step_s(recipe: Any, *_: Any) -> tuple[float, int]:
        return (1.0 if recipe.train.precision == "fp32" else bf16_s), 7

    monkeypatch.setattr(measure, "_step_s", step_s)
    monkeypatch.setattr(measure, "_image_s", lambda *_: 0.005)
    monkeypatch.setenv("DATA", "toy")
    good("init", "toy", "--budget", "40M", "--time", "1h", "--measure")
    recipe = configs.load("net.yaml")
    assert recipe.train.precision == recipe.finetune.precision == precision
    words = " ".join(Path("net.yaml").read_text().replace("#", " ").split())
    assert f"precision: {precision}, a step of the supernet takes {bf16_s:.3g} s in bf16, 1 s in fp32" in words


def test_a_time_is_asked_of_the_runtime_that_the_search_counts_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def plain_ms(path: str, plain: Sequence[str], *_: object) -> float:
        macs: int = json.loads(good("space", path, *(w for o in plain for w in ("--set", o)), "--json"))["macs_max"]
        return 1 + macs / 30e6  # a call costs something by itself

    def ms_of(path: str, plain: Sequence[str], device: str, runtime: str, seed: int) -> float:
        asked.append(runtime)
        return plain_ms(path, plain)

    monkeypatch.setattr(measure, "ms_of", ms_of)
    monkeypatch.setattr(measure, "_step_s", lambda *_: (0.1, 7))
    monkeypatch.setattr(measure, "_image_s", lambda *_: 0.005)
    monkeypatch.setenv("DATA", "toy")
    good("init", "toy", "--budget", "3 ms", "--time", "1h", "--measure")
    assert {*asked} == {"onnxruntime"} and 'latency "$CONFIG" --runtime onnxruntime' in Path("cfg.yaml").read_text()
    overrides = re.findall(r"--set (\S+)", re.search(r"PLAIN: >-\n((?:    .*\n)+)", Path("cfg.yaml").read_text())[1])
    assert 2 < plain_ms("net.yaml", overrides) <= 3.1  # by these times it fills the budget


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_the_plain_detector_is_run_in_a_runtime(here: Path, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    init("--budget", "10M", "--time", "20m")
    monkeypatch.setenv("DATA", "toy")
    overrides = re.findall(r"--set (\S+)", re.search(r"PLAIN: >-\n((?:    .*\n)+)", Path("cfg.yaml").read_text())[1])
    assert measure.ms_of("net.yaml", overrides, "cpu", runtime, 0) > 0


@pytest.mark.slow
def test_search_run_takes_it_unchanged(here: Path) -> None:
    init("--budget", "80M", "--budget", "40M", "--time", "20m")
    ok(run(here, "search-init"))
    shown = ok(run(here, "search-run", "--task", "det", "cfg.yaml", "--dry-run"))
    assert "report" in shown
    out = ok(run(here, "search-nas", "space", "net.yaml"))  # needs no data: the classes are counted in the file
    assert "head" not in out and "MACs" in out


def test_data_elsewhere_is_named_by_its_full_path(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good("init", toy, "--budget", "80M", "--no-measure", "--out", "new")
    text = Path("new/cfg.yaml").read_text()
    assert text.count(f"DATA: {toy}") == 1 and str(toy) not in text.replace(f"DATA: {toy}", "", 1).replace(
        f"init {toy}", ""
    )
    (tmp_path / "new" / ".search-run").mkdir()
    inside = Place.of(str(toy), "new/deeper")
    assert inside.file("net.yaml") == "deeper/net.yaml" and inside.initialised


def test_each_of_two_devices_has_its_table_limit_and_finalists(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU: what is measured there is measured where it runs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    devices = (
        "--device",
        "cpu",
        "--device",
        "cuda:0",
        "--budget",
        "cpu:15 ms",
        "--budget",
        "cuda:0:.5 ms",
        "--time",
        "9h",
    )
    done = call("init", "toy", *devices, "--no-measure")
    assert done.code == 0 and "note: --device cuda:0: PyTorch finds no GPU here" in done.err
    text = Path("cfg.yaml").read_text()
    stages = {each["name"]: each for each in yaml.safe_load(text)["stages"]}
    assert [*stages][:4] == ["check", "train", "latency-cpu", "latency-cuda0"]
    on_cpu, on_gpu = stages["latency-cpu"], stages["latency-cuda0"]
    assert on_gpu["resources"] == {"gpus": 1} and on_cpu["resources"]["gpus"] == 0
    assert on_gpu["task"]["template"].count("--runtime eager --") == 2
    assert on_cpu["task"]["template"].count("--runtime onnxruntime --device cpu --threads 1 --") == 2
    search, plain = stages["search"]["task"]["template"], stages["plain"]["task"]["template"]
    for tag, table in (("cpu", "$SEARCHKIT_STAGE_LATENCY_CPU"), ("cuda0", "$SEARCHKIT_STAGE_LATENCY_CUDA0")):
        assert f'--set "meters.ms_{tag}={table}/ms.json"' in search and f"--objective ms_{tag}" in search
        assert plain.count(f'--set "meters.ms_{tag}={table}/plain.json"') == 1
    assert '--constraint "ms_cpu <= 15 or ms_cuda0 <= 0.5"' in search
    options = re.findall(r"--budget '(.*?)'", stages["report"]["task"]["template"])
    limits = [budgets.read_budget(option) for option in options]
    assert options == ["cpu:15 ms", "cuda:0:0.5 ms"] and [b.option for b in limits] == options
    for_both = budgets.on_devices([budgets.read_budget(text) for text in ("9 ms", "2G", "cpu:8 ms")], ("cuda:0", "cpu"))
    assert [b.text for b in for_both] == ["9 ms on cuda:0", "9 ms on cpu", "2 GMACs", "8 ms on cpu"]
    suite.load("cfg.yaml")
    monkeypatch.setenv("DATA", "toy")
    recipe = configs.load("net.yaml")
    given = []
    for tag, rest in (("cpu", 0.1), ("cuda0", 2.0)):
        table_of(recipe, Path(f"{tag}.json"), rest=[[list(s), rest] for s in map(height_width, recipe.scales)])
        given += ["--set", f"meters.ms_{tag}={tag}.json"]
    good("flops", "net.yaml", *given, "--sample", "6", "--out", "priced.jsonl")
    priced = [json.loads(line) for line in Path("priced.jsonl").read_text().splitlines()]
    assert all(r["overhead"]["ms_cuda0"] == pytest.approx(r["overhead"]["ms_cpu"] + 1.9) for r in priced)
    for i, each in enumerate(priced):  # one is within the CPU's budget alone, one within the GPU's, the others in none
        each["overhead"] |= {"ms_cpu": 15.0 if i == 0 else 16.0, "ms_cuda0": 0.5 if i == 1 else 16.0}
        each["metric"] = {"direct": {"toy_bbox_mAP": 0.5}}
    Path("scored.jsonl").write_text("".join(json.dumps(each) + "\n" for each in priced))
    good("select", "scored.jsonl", "--rules", "finalists.yaml", "--out", "picked.jsonl")
    picked = [json.loads(line) for line in Path("picked.jsonl").read_text().splitlines()]
    assert [each["arch"] for each in picked] == [each["arch"] for each in priced[:2]]


def test_a_budget_may_name_the_only_device(here: Path) -> None:
    texts = []
    for text in ("15 ms", "cpu:15 ms"):
        init("--budget", text, "--time", "9h", "--overwrite")
        texts.append([line for name in FILES for line in Path(name).read_text().splitlines() if "nas init" not in line])
    assert texts[0] == texts[1] and any("meters.ms=$SEARCHKIT_STAGE_LATENCY/ms.json" in line for line in texts[0])


@pytest.mark.slow
def test_search_run_takes_a_config_for_a_gpu_that_is_elsewhere(here: Path) -> None:
    devices = ("--device", "cuda:0", "--device", "cpu")
    init(*devices, "--budget", "cuda:0:0.5 ms", "--budget", "cpu:15 ms", "--time", "9h")
    ok(run(here, "search-init"))
    assert "report" in ok(run(here, "search-run", "--task", "det", "cfg.yaml", "--dry-run", "--gpus", "0"))


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_a_time_on_a_gpu_alone_is_named_by_it(here: Path) -> None:
    init("--device", "cuda:0", "--budget", "1 ms", "--time", "9h")  # exported files are timed on the CPU
    text = Path("cfg.yaml").read_text()
    assert '--constraint "ms_cuda0 <= 1"' in text and "--budget 'cuda:0:1 ms'" in text
    assert text.count('"meters.ms_cuda0=$SEARCHKIT_STAGE_LATENCY_CUDA0/plain.json"') > 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--budget", "2 apples"], "is no cost"),
        (["--budget", "2"], "Did you mean GMACs"),
        (["--budget", "1 MMACs"], "below what the least network costs"),
        (["--budget", "0.01 ms"], "--budget 0.01 ms, about 250 KMACs, is below what the least network costs, "),
        (["--budget", "80M", "--budget", "1 MMACs"], "in the space for 80 MMACs; search for 1 MMACs by itself"),
        (["--budget", "80M", "--time", "soon"], "is no time"),
        (["--budget", "80M", "--time", "20s"], "too short"),
        (["--budget", "80M", "--device", "tpu"], "there is none of that name"),
        (["--budget", "80M", "--device", "cpu", "--device", "cuda:7"], "--device cuda:7: no budget is a time on it"),
        (["--budget", "cuda:15 ms"], "--budget cuda:15 ms: there is no such --device"),
        (["--budget", "cpu:80M"], "names a device, but is no time"),
        (["--budget", "9 ms", "--device", "cuda:0", "--device", "cuda:1"], "it may be cpu, one GPU, or both"),
        (["--budget", "80M", "--device", "cuda:7", "--measure"], "finds no GPU here"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_written(
    here: Path, argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert said in bad("init", "toy", "--no-measure", *argv)
    assert not any(os.path.exists(name) for name in FILES)


def test_data_that_no_detector_can_be_made_for_is_refused(here: Path, tmp_path: Path) -> None:
    make_toy_det(str(tmp_path / "few"), images={"train": 8, "val": 14, "test": 1}, size=(64, 64))
    said = bad("init", "few", "--budget", "80M", "--no-measure")
    assert "14 validation images, and 15 is the least" in said and "23 images in all, too few" in said
    for n in (21, 51):  # what is proposed is then accepted
        data = f"some {n}"
        make_toy_det(data, images={"train": n, "val": 14, "test": 1}, size=(64, 64), seed=n)
        words = shlex.split(bad("init", data, "--budget", "80M", "--no-measure").partition("anew: search-nas ")[2])
        good(*words[:-1], f"parted {n}")
        told = json.loads(good("data", "check", f"parted {n}", "--json"))["splits"]
        assert ("test" in told) == (n > 45) and told["val"]["images"] >= 15
    (tmp_path / "few" / "annotations" / "instances_val.json").unlink()
    assert "no validation images" in bad("init", "few", "--budget", "80M", "--no-measure")
    assert "none of the formats" in bad("init", str(tmp_path / "toy" / "images"), "--budget", "80M")
    assert "nowhere" in bad("init", "nowhere", "--budget", "80M")
    for name in ("a", "b"):
        (tmp_path / "figures" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "figures" / "train" / name / "1.png")
    assert "without boxes" in bad("init", "figures", "--budget", "80M")
    assert not any(os.path.exists(name) for name in FILES)


def test_classes_that_differ_between_splits_are_refused(here: Path, tmp_path: Path) -> None:
    good("data", "split", "toy", "--portion", ".5", ".5", "0", "--out", "other")
    path = tmp_path / "other" / "annotations" / "instances_val.json"
    body = json.loads(path.read_text())
    body["categories"][0]["name"] = "disc"
    path.write_text(json.dumps(body))
    assert "classes with boxes in val, but none in train: 1, disc" in bad("init", "other", "--budget", "80M")


def test_yolo_is_written_as_coco_beside_the_config(here: Path, tmp_path: Path) -> None:
    data = tmp_path / "photos"
    for part, n in (("train", 20), ("val", 15)):
        (data / "images" / part).mkdir(parents=True)
        (data / "labels" / part).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (120, 90), (i, 90, 120)).save(data / "images" / part / f"{part}{i}.png")
            (data / "labels" / part / f"{part}{i}.txt").write_text(f"{i % 2} .5 .4 .3 .2{i}\n")
    (data / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    assert "ms' or more, or another --family" in bad("init", "photos", "--budget", "0.01 ms", "--no-measure")
    bad("init", "photos", "--budget", "1M", "--no-measure", "--out", "deeper")
    assert not Path("photos_coco").exists() and not Path("deeper").exists()
    good("init", "photos", "--budget", "80M", "--no-measure")
    assert "DATA: photos_coco" in Path("cfg.yaml").read_text() and "name: photos" in Path("net.yaml").read_text()
    out = good("data", "check", "photos_coco")
    assert "COCO, 35 images, 35 boxes in 2 classes" in out
    good("init", "photos", "--budget", "90M", "--no-measure", "--overwrite")  # what is there serves again
    comments = " ".join(Path("cfg.yaml").read_text().replace("#", "").split())
    assert "scored on val, by which one is chosen; there is no test set, so that is what is reported" in comments
    assert "--split test" not in Path("cfg.yaml").read_text()
    (data / "labels" / "train" / "train0.txt").write_text("")
    for name in FILES:
        Path(name).unlink()
    assert "Replace it (--overwrite" in bad("init", "photos", "--budget", "90M", "--no-measure")
    good("init", "photos", "--budget", "90M", "--no-measure", "--overwrite")
    assert "COCO, 35 images, 34 boxes in 2 classes" in good("data", "check", "photos_coco")


# --- what it decides by ----------------------------------------------------------------------------------------------


def boxes(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    at, size = rng.uniform(0, 200, (n, 2)), rng.uniform(low, high, (n, 2))
    return np.concatenate([at, at + size], 1)


@pytest.mark.parametrize("kind", ["square", "pair"])
def test_anchors_of_k_means_find_no_fewer_boxes_than_the_defaults(kind: Any) -> None:
    strides = tuple((float(s), float(s)) for s in (8, 16, 32))
    sizes = (32.0, 64.0, 128.0) if kind == "square" else (32.0, 64.0, 128.0, 200.0)
    default = Anchors(kind, sizes, (0.5, 1.0, 2.0) if kind == "square" else (2.0,), strides, (1.0, 1.3))
    better = 0
    for seed, edges in enumerate(((6, 18), (10, 40), (150, 300), (30, 60), (8, 200))):
        some = boxes(np.random.default_rng(seed), 60, *edges)
        before, after = recall(default, some), recall(fitted(default, some, seed=seed), some)
        assert after >= before
        better += after > before
    assert better >= 3
    assert fitted(default, np.zeros((0, 4))) == default
    one = boxes(np.random.default_rng(9), 1, 20, 30)
    assert recall(fitted(default, one), one) == 1


def test_the_best_iou_is_that_of_all_anchors_on_their_places() -> None:
    anchors = Anchors("square", (20.0, 44.0), (0.7, 1.5), ((8.0, 8.0), (16.0, 16.0)), offset=0.5)
    some = boxes(np.random.default_rng(0), 30, 8, 60)
    every = []
    for level, (stride, _) in enumerate(anchors.strides):
        places = (np.arange(-4, 300 // stride + 4) + 0.5) * stride
        for width, height in anchors.shapes(level):
            grid = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
            half = np.array([width / 2, height / 2])
            every.append(np.concatenate([grid - half, grid + half], 1))
    all_of_them = np.concatenate(every)
    shared = np.maximum(
        0,
        np.minimum(some[:, None, 2:], all_of_them[None, :, 2:])
        - np.maximum(some[:, None, :2], all_of_them[None, :, :2]),
    ).prod(2)
    area = [(each[:, 2:] - each[:, :2]).prod(1) for each in (some, all_of_them)]
    assert np.allclose(best_iou(anchors, some), (shared / (area[0][:, None] + area[1] - shared)).max(1))


def test_clusters_stand_for_groups_of_boxes() -> None:
    rng = np.random.default_rng(1)
    groups = np.array([[10.0, 20.0], [50.0, 40.0], [120.0, 130.0]])
    found = clusters(np.concatenate([g * rng.uniform(0.95, 1.05, (40, 2)) for g in groups]), 3)
    assert np.allclose(found, groups, rtol=0.05)


def test_a_time_is_shared_out_and_one_that_is_too_short_refused() -> None:
    speeds = Speeds(0.5, 0.2, 0.02, "measured")
    some = {"scored": 40, "tested": 50, "finalists": 3, "workers": 2, "stages": 7}
    long, short = (split(total, speeds, **some) for total in (7200, 1200))
    assert long.steps > 3 * short.steps and short.plain_steps == short.steps + short.tune_steps
    for total, times in ((7200, long), (1200, short)):
        assert 0.7 * total < sum(times.seconds.values()) <= total
    trusted = split(7200, speeds, **some, trusted=8)
    assert 0.7 * 7200 < sum(trusted.seconds.values()) <= 7200 and trusted.steps < long.steps
    assert trusted.seconds["trust"] >= 8 * trusted.tune_steps * speeds.plain_step
    assert [has_room(trusted, 4, images) for images in (40, 10**6)] == [True, False]
    for cost in (0.5, 1.0, 30.0):
        beside = split(7200, speeds, **some, pretrained=cost)
        assert 0.7 * 7200 < sum(beside.seconds.values()) <= 7200
        assert (beside.pretrained_steps == beside.plain_steps) == (cost <= 1)
        assert beside.pretrained_steps * cost * speeds.plain_step <= 7200 / 4
    with pytest.raises(UsageError, match="--pretrained: in 25% of --time it is trained for 8 steps"):
        split(1200, speeds, **some, pretrained=180.0)
    with pytest.raises(UsageError, match=r"too short: 10 steps of the supernet, .* take [\d.]+ min here \(measured\)"):
        split(60, speeds, **some)
    fast, slow = (estimate(3, 1e8, 5e7, 8, cores, cuda=False) for cores in (4, 1))
    assert slow.step == pytest.approx(4 * fast.step)


def test_budgets_and_times_are_read() -> None:
    read = [budgets.read_budget(text) for text in ("2 GMACs", "350M", "1.5e9", "20 ms", "300mmacs")]
    assert [(b.value, b.unit) for b in read] == [
        (2e9, "macs"), (350e6, "macs"), (1.5e9, "macs"), (20, "ms"), (300e6, "macs"),
    ]  # fmt: skip
    assert [seconds_of(text) for text in ("45m", "2h", "90s", "1h30m", "10 min")] == [2700, 7200, 90, 5400, 600]


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
def test_search_run_ends_with_the_report(here: Path) -> None:
    """All stages of what init makes; fewer steps and subnets than it says are all that is changed."""
    init("--budget", "40M", "--time", "20m", "--seed", "1")
    net, config = Path("net.yaml"), Path("cfg.yaml")
    net.write_text(re.sub(r"(?m)^  steps: \d+", "  steps: 4", net.read_text()))
    text = re.sub(r"train\.steps=\d+", "train.steps=4", config.read_text())
    text = re.sub(r"--population \d+ --evaluations \d+", "--population 2 --evaluations 4", text)
    text, trusted = re.subn(r"--n \d+ --bins 1 --steps \d+", "--n 3 --bins 1 --steps 4", text)
    assert trusted == 1
    config.write_text(text)
    ok(run(here, "search-init"))
    ok(run(here, "search-run", "--task", "det", "cfg.yaml", env={"CUDA_VISIBLE_DEVICES": ""}, timeout_s=850))
    page = Path(Place.of("toy", ".").report()).read_text()
    for words in ("subnet 1", "subnet 3", "plain", "40 MMACs", "95 of 100 draws of the 6 images", "How long it took"):
        assert words in page
    assert "python detector/infer.py" in page and "onnxruntime" in page and "Kendall" in page
    assert page.count("data:image/jpeg") == 6 * 4 and len(page) < 5e6
    assert "cp -r .search-run/tasks/det." in page
    shown = json.loads(ok(run(here, "search-ctl", "show-scalar", "--task", "det.tune", "-rt", "+5", "--json")))
    assert len(shown["rows"]) == 3
