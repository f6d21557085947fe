"""The recipe `cls`: SPOS at full size is the reference's, and each small form runs to its end by its own commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from searchkit.nas.train.recipe import Recipe
from searchkit.suite.cli.templates import copy_template, template_root
from searchkit.suite.config import read as config
from tests.support.suite import environment, ok, run

pytest.importorskip("torchvision", reason="the recipe needs search-nas: pip install 'searchkit[nas]'")

from searchkit.nas.cli.priced import pricing
from searchkit.nas.cost.price import price
from searchkit.nas.models import network
from searchkit.nas.subnet.extract import load_folder
from searchkit.nas.tasks import read as nas_config
from searchkit.nas.train import checkpoint
from searchkit.nas.train.bench import open_bench
from searchkit.nas.train.groups import make_optimizer
from searchkit.nas.train.policies import policy
from searchkit.nas.train.schedules import factor, factor_at
from searchkit.records.arch import Arch
from tests.support import nas

CLS = Path(template_root(), "cls")
SMALL = {
    "bignas_mobilenet_small": 384,
    "kd_factor_transfer_small": 1,
    "kd_teacher_small": 1,
    "ofa_mobilenet_small": 128,
    "ofa_teacher_small": 1,
    "qat_mobilenet_small": 1,
    "spos_small_supernet": 4**7,
}
ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
CHANCE = 0.1  # ten digits
LAYER = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))


def head(path: Path) -> list[str]:
    """The commands in the comment that a config opens with."""
    text = path.read_text().partition("\n\n")[0].replace("\\\n#", "")
    return re.findall(r"^#   (\S.*)$", text, re.MULTILINE)


def published() -> Arch:
    (record,) = nas.lines(CLS / "spos_published.jsonl")
    return Arch.of(record["arch"])


def conventions(recipe: Recipe) -> int:
    """MACs, and 2 for each number that a norm gives, 1 for each that an activation or the last pooling sees."""
    net = network.build(recipe.model, recipe.space.maximum()).eval()
    seen: dict[str, int] = {}

    class Count(TorchFunctionMode):
        def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = call(*args, **(kwargs or {}))
            what = args[0] if call.__name__ == "mean" else out
            if isinstance(what, torch.Tensor):
                seen[call.__name__] = seen.get(call.__name__, 0) + what.numel()
            return out

    with torch.no_grad(), FlopCounterMode(display=False) as flops, Count():
        net(torch.rand(1, 3, 224, 224))
    return flops.get_total_flops() // 2 + 2 * seen["batch_norm"] + seen["relu"] + seen["mean"]


# ---- at full size ----


def test_spos_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    monkeypatch.setenv("SUBNET", str(CLS / "spos_published.jsonl"))
    supernet = nas_config.load(str(CLS / "spos_supernet.yaml"))
    subnet = nas_config.load(str(CLS / "spos_subnet.yaml"))
    assert supernet.space.count() == 4**20 == supernet.space.points()
    assert subnet.space.count() == 1 and subnet.space.maximum() == published()
    assert supernet.space.contains(published()) and supernet.model == subnet.model
    plans = pricing(supernet)
    cost = price(plans, published(), 224)
    assert (cost.flops, cost.params) == (316_019_520, 3_353_592)
    assert price(pricing(subnet), subnet.space.named("MAX"), 224) == cost
    assert conventions(subnet) == pytest.approx(330e6, rel=0.01), "what mmrazor's counter counts, too"
    for recipe, steps in ((supernet, 150_000), (subnet, 300_000)):
        o = recipe.train
        assert (o.total_steps(1, 8), 8 * o.batch_size, o.label_smoothing) == (steps, 1024, 0.1)
        decayed, others = make_optimizer(LAYER, o, 1024).param_groups
        assert decayed["lr"] == others["lr"] == 0.5 and decayed["momentum"] == 0.9
        assert (decayed["weight_decay"], others["weight_decay"]) == (4e-5, 0)
        rates = [factor(o.schedule, step, steps, floor=o.floor) for step in (0, steps // 2, steps - 1)]
        assert rates == pytest.approx([1, 0.5, 0], abs=1e-5)
        augment = recipe.data.augment
        assert (augment.crop, augment.color_jitter, augment.flip) == ("random_resized", 0.4, 0.5)
    visits = policy(supernet.train.policy, supernet.space, 0)
    assert len({visits(step)[0] for step in range(20)}) == 20 and all(len(visits(step)) == 1 for step in range(20))
    assert supernet.data.train.portion[1] == supernet.data.val.portion[0], "the search sees no image of the training"
    assert subnet.data.train.portion == (0, 1)


def test_factor_transfer_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """mmrazor's pair for images of 32 px: its networks, modules, widths and phases."""
    monkeypatch.setenv("DATA", "/nowhere")
    student, teacher = (
        nas_config.load(str(CLS / f"{name}.yaml")) for name in ("kd_factor_transfer", "kd_teacher_resnet50")
    )
    costs = [price(pricing(recipe), recipe.space.maximum(), 32) for recipe in (student, teacher)]
    assert (costs[0].flops, costs[0].params) == (555_422_720, 11_173_962)
    assert costs[1].params == 23_520_842
    distill, phase = student.train.distill, student.train.pretrain
    assert distill is not None and phase is not None and distill.own_teacher == "" and not distill.score_jobs
    (mimic,) = distill.mimic
    of_both = [row for recipe in (student, teacher) for row in rows(recipe)]
    widths = {f"backbone.{row.name}.{layer.name}": layer.cout for row in of_both for layer in row.layers}
    assert (mimic.student, mimic.teacher) == ("backbone.layer4.1.conv2", "backbone.layer4.2.conv3")
    assert (widths[mimic.student], widths[mimic.teacher]) == (512, 2048)
    assert mimic.paraphraser is not None and mimic.paraphraser.channels == 1024
    assert (phase.epochs, student.train.epochs, distill.pretrained) == (20, 200, (0,))


def rows(recipe: Recipe) -> Any:
    """Those of a recipe's network at its largest."""
    return pricing(recipe).rows(recipe.space.maximum())


def test_dmcp_is_the_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MobileNetV2s of 0.1 to 1.5 times the width, 15 choices for each of 25 widths; the authors' training."""
    monkeypatch.setenv("DATA", "/nowhere")
    monkeypatch.setenv("SUBNET", str(tmp_path / "sample.json"))
    widths = nas_config.load(str(CLS / "dmcp_mobilenetv2.yaml"))
    nas.write(tmp_path / "sample.json", [{"arch": widths.space.middle().nested()}])  # type: ignore[arg-type]
    alone = nas_config.load(str(CLS / "dmcp_mobilenetv2_retrain.yaml"))
    assert widths.space.count() == 15**25 and alone.space.count() == 1 and widths.model == alone.model
    assert price(pricing(widths), widths.space.maximum(), 224).flops == 672_832_704  # of MobileNetV2 1.5
    dmcp = widths.train.dmcp
    assert dmcp is not None and alone.train.dmcp is not None and alone.train.dmcp.retraining
    assert (dmcp.target_flops, dmcp.floss_type, dmcp.flop_loss_weight) == (150, "log_l1", 0.1)
    assert (dmcp.arch_start_train, dmcp.arch_train_freq, dmcp.arch_sample_num, dmcp.distill_iter) == (None, 1, 5, 2000)
    assert (dmcp.arch_lr, dmcp.arch_lr_end, widths.train.random_archs) == (0.5, 0.1, 2)
    for recipe, epochs, first, top, last in ((widths, 40, 0.2, 0.5, 0.08), (alone, 250, 0.2, 0.8, 0.0)):
        o = recipe.train
        assert (o.epochs, 8 * o.batch_size, o.label_smoothing, o.nesterov) == (epochs, 512, 0.1, True)
        decayed, others = make_optimizer(LAYER, o, 512).param_groups
        assert (decayed["lr"], decayed["weight_decay"], others["weight_decay"]) == (top, 4e-5, 0)
        steps = 10**6
        rates = [factor_at(o, step, steps, 2500) for step in (0, o.warmup_steps, steps - 1)]
        assert [top * rate for rate in rates] == pytest.approx([first, top, last], abs=1e-4)


def test_the_small_ones_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    for name in ("spos", "kd"):
        assert config.load(str(CLS / f"{name}.yaml"))[0] is not None
    for name, count in SMALL.items():
        recipe = nas_config.load(str(CLS / f"{name}.yaml"))
        assert (recipe.task.name, recipe.space.count()) == ("cls", count)
    dmcp = nas_config.load(str(CLS / "dmcp_mobilenetv2_small.yaml"))
    assert dmcp.space.count() == 5**4 * 9**5 and dmcp.train.policy == "dmcp"
    for path in CLS.glob("*.yaml"):
        named = re.findall(r"\b\w+\.yaml", path.read_text())
        assert named and all((CLS / name).is_file() for name in named)
        assert any(path.name in line for line in head(path)), f"{path.name} opens with the command that runs it"


def test_once_for_all_widens_its_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/nowhere")
    recipe, teacher = (
        nas_config.load(str(CLS / f"ofa_{name}_small.yaml"), ["model.num_classes=10"])
        for name in ("mobilenet", "teacher")
    )
    counts = [recipe.space.at_epoch(epoch).count() for epoch in (1, 2, 3, 5)]
    assert counts == [1, 2**3, 2**5, 2**7] and recipe.space.at_epoch(1).maximum() == recipe.space.maximum()
    cost = [price(pricing(r), r.space.maximum(), 32) for r in (recipe, teacher)]
    assert cost[0] == cost[1], "the teacher is the largest"
    assert recipe.train.epochs > 5 and not recipe.train.distill.in_place


# ---- the small ones, to their end ----


def stage(project: Path, name: str, task: str = "spos") -> Path:
    """The working folder of a stage's one job."""
    return project / ".search-run" / "tasks" / f"{task}.{name}" / "jobs" / "all" / "0" / project.name


def shorten(project: Path) -> None:
    """What of the recipe takes long: fewer epochs and evaluations."""
    for name, old, new in (
        ("spos_small_supernet.yaml", "epochs: 18", "epochs: 2"),
        ("spos_small_subnet.yaml", "epochs: 10", "epochs: 2"),
        ("spos.yaml", "--evaluations 40 --population 10 --top-k 4", "--evaluations 8 --population 4 --top-k 2"),
    ):
        text = (project / name).read_text()
        assert text.count(old) == 1
        (project / name).write_text(text.replace(old, new))


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("evaluations", [8, pytest.param(40, marks=pytest.mark.long)])
def test_spos_from_data_to_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluations: int) -> None:
    """By the commands in the header of spos.yaml: shortened, or as it is, which learns enough to be judged."""
    is_whole = evaluations == 40
    make, start, show = head(CLS / "spos.yaml")
    ok(run(tmp_path, *make.split(), env=ENV))
    if not is_whole:
        shorten(tmp_path)
    ok(run(tmp_path, *start.split(), env=ENV, timeout_s=480))
    (row,) = json.loads(ok(run(tmp_path, *show.split(), "--json")))["rows"]
    top1 = row["scalars"]["metric.retrained.top1"]
    assert top1 > 0.9 or not is_whole
    # The search: as many subnets as asked for, each once, all within the budget.
    results = nas.lines(stage(tmp_path, "search") / "search" / "results.jsonl")
    (best,) = nas.lines(stage(tmp_path, "search") / "search" / "best.jsonl")
    assert len(results) == evaluations == len({json.dumps(r["arch"], sort_keys=True) for r in results})
    assert all(r["overhead"]["flops"] <= 440_000 for r in results)
    scores = [r["metric"]["direct"]["top1"] for r in results]
    assert best["metric"]["direct"]["top1"] == max(scores)
    assert max(scores) > 3 * CHANCE or not is_whole
    # The subnet that was found is the one that was trained anew and extracted; the folder scores what was told.
    subnet = str(stage(tmp_path, "search") / "search" / "best.jsonl")
    monkeypatch.setenv("DATA", str(stage(tmp_path, "data") / "digits"))
    monkeypatch.setenv("SUBNET", subnet)
    recipe = nas_config.load(str(tmp_path / "spos_small_subnet.yaml"))
    assert recipe.space.maximum() == Arch.of(best["arch"])
    model = stage(tmp_path, "extract") / "model"
    proof = json.loads((model / "proof.json").read_text())
    assert proof["equal"]["bit_equal"] and proof["equal"]["images"]
    assert proof["cost"]["macs"] == proof["cost"]["macs_measured"] == best["overhead"]["flops"] <= 440_000
    bench = open_bench(recipe, "test", nas.CPU, 0)
    assert bench.score(load_folder(str(model)), 32, calibrated=False)["top1"] == pytest.approx(top1, abs=1e-6)
    (tested,) = nas.lines(stage(tmp_path, "test") / "tested.jsonl")
    assert tested["arch"] == best["arch"] and tested["protocol"]["retrained"]["split"] == "test"


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("epochs", [1, pytest.param(8, marks=pytest.mark.long)])
def test_factor_transfer_from_data_to_score(tmp_path: Path, epochs: int) -> None:
    """By the commands in the header of kd.yaml: shortened, or as it is, which learns enough to be judged."""
    make, start, show = head(CLS / "kd.yaml")
    ok(run(tmp_path, *make.split(), env=ENV))
    for name in ("kd_teacher_small.yaml", "kd_factor_transfer_small.yaml"):
        text = (tmp_path / name).read_text()
        assert text.count("  epochs: 8") == 1
        (tmp_path / name).write_text(text.replace("  epochs: 8", f"  epochs: {epochs}"))
    ok(run(tmp_path, *start.split(), env=ENV, timeout_s=480))
    (row,) = json.loads(ok(run(tmp_path, *show.split(), "--json")))["rows"]
    assert row["scalars"]["metric.direct.top1"] > (0.9 if epochs == 8 else 0)
    first, last = (
        checkpoint.load(str(stage(tmp_path, name, "kd") / f"{file}.pth")).extras
        for name, file in (("connectors", "connectors"), ("distil", "latest"))
    )
    assert len(first) == 12 and nas.equal(first, {k: v for k, v in last.items() if k.startswith("paraphraser")})
    assert not (stage(tmp_path, "distil", "kd") / "connectors.pth").exists()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cls")
    copy_template("cls", str(folder))
    return folder


def by_hand(project: Path, *names: str) -> None:
    """What a reader of the configs' headers types, in order, each command once."""
    lines = [line.partition("    #")[0] for name in names for line in head(CLS / f"{name}.yaml")]
    for line in dict.fromkeys(lines):
        text, _, export = line.partition(" && export ")
        assert export in ("", "DATA=$PWD/digits")
        command, *argv = shlex.split(text)
        assert command == "search-nas"
        done = nas.call_in(project, environment(**ENV, DATA=f"{project}/digits"), *argv)
        assert done.code == 0, done.both[-2000:]


def top1(records: list[Any]) -> list[float]:
    return [record["metric"]["direct"]["top1"] for record in records]


@pytest.mark.long  # of its parts, tests/nas/train has policy and teaching in place, tests/nas/cli the search
@pytest.mark.timeout(500)
def test_bignas_gives_a_front(project: Path) -> None:
    by_hand(project, "bignas_mobilenet_small")
    results, front = (nas.lines(project / "front" / f"{name}.jsonl") for name in ("results", "front"))
    assert len(results) == 30 and 1 <= len(front) < 30
    # Without any training of their own, subnets of half the cost and less are good.
    assert min(top1(results)) > 5 * CHANCE and max(top1(front)) > 0.9
    for record in front:
        flops, score = record["overhead"]["flops"], record["metric"]["direct"]["top1"]
        assert not any(
            r["overhead"]["flops"] < flops and s >= score for r, s in zip(results, top1(results), strict=True)
        )


@pytest.mark.long  # of its parts, tests/nas/quant has files with and without training
@pytest.mark.timeout(500)
def test_8_bits_lose_little(project: Path) -> None:
    by_hand(project, "qat_mobilenet_small")
    plain, learnt = (record["files"] for record in nas.lines(project / "files.jsonl"))
    assert plain["onnx"]["top1"] > 0.9 and plain["onnx"]["top1"] == learnt["onnx"]["top1"]
    for files in (plain, learnt):
        assert files["onnx-int8"]["top1"] > files["onnx"]["top1"] - 0.02, files["onnx-int8"]["method"]
    assert [files["onnx-int8"]["method"].split(",")[0] for files in (plain, learnt)] == ["minmax", "qat"]


@pytest.mark.long  # tests/nas/train has its parts: schedules of the space, a teacher
@pytest.mark.timeout(500)
def test_once_for_all_learns_from_its_teacher(project: Path) -> None:
    by_hand(project, "ofa_teacher_small", "ofa_mobilenet_small")
    largest, smallest = nas.lines(project / "tested.jsonl")
    assert smallest["overhead"]["flops"] < largest["overhead"]["flops"] / 3
    assert top1([largest])[0] > 0.9 and top1([smallest])[0] > 5 * CHANCE


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_dmcp_learns_widths_and_retrains_them(project: Path) -> None:
    """By the commands in the header, shortened."""
    config_file = project / "dmcp_mobilenetv2_small.yaml"
    text = config_file.read_text()
    assert text.count("epochs: 8") == 1
    config_file.write_text(text.replace("epochs: 8", "steps: 12"))
    by_hand(project, "dmcp_mobilenetv2_small")
    (expected,) = nas.lines(project / "dmcp" / "model_sample" / "expected_ch.json")
    (tested,) = nas.lines(project / "tested.jsonl")
    assert tested["arch"] == expected["arch"] and tested["overhead"]["flops"] == expected["overhead"]["flops"]
