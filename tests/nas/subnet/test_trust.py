"""search-nas trust: Kendall's tau, which archs are drawn, their scores, and that nothing is done twice."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest

from searchkit.nas.subnet import sweep, trust
from searchkit.nas.subnet.trust import Row
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.records import kendall
from searchkit.records.kendall import p_value, tau_b
from tests.support import nas, suite
from tests.support.nas import Trained, bad, good, lines, write

pytestmark = pytest.mark.usefixtures("one_thread")

CLS: dict[str, Any] = {
    "task": "cls",
    "model": {"backbone": "resnet", "backbone_options": {"block": "basic"}},
    "space": {
        "backbone.stem.width": 4,
        "backbone.body.width": {"start": [4, 4, 8, 8], "end": [8, 8, 16, 16], "step": [4, 4, 8, 8]},
        "backbone.body.depth": {"choices": [[1, 2], [1], [1, 2], [1]]},
        "data.input_shape": {"choices": [32]},
    },
    "train": {"policy": "single_path", "steps": 12, "batch_size": 8, "lr": 0.05, "lr_scaling": "none"},
    "test": {"calibration_images": 16, "batch_size": 40},
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(config, checkpoint) of a supernet that tells figures apart, a little."""
    from searchkit.nas.data.toy_cls import make_toy_cls

    folder = tmp_path_factory.mktemp("figures")
    data = make_toy_cls(str(folder / "data"), images={"train": 64, "val": 40}, size=(32, 32))
    splits = {split: {"path": f"{data}/{split}"} for split in ("train", "val")}
    path = write(folder / "cfg.yaml", {**CLS, "data": splits})
    return path, nas.train(path, folder / "work")


# ---- tau ----


def cases(seed: int, values: int, sizes: Sequence[int]) -> Iterator[tuple[list[float], list[float]]]:
    rng = random.Random(seed)
    for n in sizes:
        yield [float(rng.randrange(values)) for _ in range(n)], [float(rng.randrange(values)) for _ in range(n)]


@pytest.mark.parametrize("values", [2, 4, 1000])
def test_tau_is_that_of_its_definition(values: int) -> None:
    for x, y in cases(values, values, [*range(12), 30, 30]):
        pairs = [(i, j) for i, j in product(range(len(x)), repeat=2) if i < j]
        agree = sum((x[i] < x[j] and y[i] < y[j]) or (x[i] > x[j] and y[i] > y[j]) for i, j in pairs)
        differ = sum((x[i] < x[j] and y[i] > y[j]) or (x[i] > x[j] and y[i] < y[j]) for i, j in pairs)
        room = sum(x[i] != x[j] for i, j in pairs) * sum(y[i] != y[j] for i, j in pairs)
        assert tau_b(x, y) == ((agree - differ) / room**0.5 if room else None)


def test_p_is_the_share_of_orders() -> None:
    for x, y in [([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]), ([1, 2, 2, 4, 5], [3, 1, 2, 2, 5]), ([1, 2], [1, 2])]:
        s = kendall.concordance(x, y)
        orders = [kendall.concordance(x, order) for order in permutations(y)]
        assert p_value([(x, y)]) == sum(abs(o) >= abs(s) for o in orders) / len(orders)
    x, y, z, w = [1, 2, 3], [1, 3, 2], [1, 2, 3, 4], [2, 2, 3, 4]
    s = kendall.concordance(x, y) + kendall.concordance(z, w)
    both = [kendall.concordance(x, a) + kendall.concordance(z, b) for a in permutations(y) for b in permutations(w)]
    assert p_value([(x, y), (z, w)]) == sum(abs(o) >= s for o in both) / len(both)
    assert p_value([([1, 1], [1, 2])]) is None is p_value([])
    assert p_value([([*range(12)], [*range(12)])]) == kendall.least_p([12])
    # where neither is possible, nearly as drawn: 20 values with ties
    (x, y) = next(cases(3, 6, [20]))
    rng, s = random.Random(0), abs(kendall.concordance(x, y))
    drawn = sum(abs(kendall.concordance(x, rng.sample(y, len(y)))) >= s for _ in range(2000)) / 2000
    assert p_value([(x, y)]) == pytest.approx(drawn, abs=0.03)


def rows(score: Any, n: int = 12, bins: int = 3) -> list[Row]:
    """Archs whose own score is a mixture of size and quality, with scores that a function of both gives."""
    quality = [(7 * i + 3) % n for i in range(n)]
    return [Row(100 + i, i * bins // n, 0.1, score(i, q), 4 * (i * bins // n) + q / n) for i, q in enumerate(quality)]


def test_verdicts() -> None:
    perfect = trust.report(rows(lambda i, q: 50 * (4 * (i // 4) + q / 12)))
    assert perfect["tau"]["calibrated"]["all"] == perfect["tau"]["calibrated"]["within_mean"] == 1
    assert perfect["tau"]["calibrated"]["within"] == [1, 1, 1] and perfect["verdict"] == "trust"
    assert perfect["tau"]["raw"] == {
        "all": None,
        "p": None,
        "within": [None] * 3,
        "within_mean": None,
        "within_p": None,
    }
    assert perfect["tau"]["macs"]["all"] < 1 and [b["archs"] for b in perfect["bins"]] == [4, 4, 4]
    size = trust.report(rows(lambda i, q: i))
    assert size["verdict"] == "between sizes" and size["tau"]["calibrated"] == size["tau"]["macs"]
    assert "Plain MACs rank as well" in size["why"]
    assert (
        trust.report(rows(lambda i, q: 1))["verdict"]
        == trust.report(rows(lambda i, q: (5 * i) % 12))["verdict"]
        == "no"
    )
    assert trust.report(rows(lambda i, q: q / 12 - 4 * (i // 4)))["verdict"] == "within sizes"
    assert trust.report(rows(lambda i, q: -i))["verdict"] == "no"
    assert "raise --n" in trust.report([r for r in rows(lambda i, q: i) if r.macs % 2])["why"]


# ---- which archs ----


def test_archs_are_drawn_over_all_macs(figures: tuple[str, str]) -> None:
    recipe = config.load(figures[0])
    net_config = nets.sized(recipe, ["a"] * 8)
    drawn = {n: trust.draw(recipe, net_config, n, 3, 0) for n in (6, 7, 30, 10**6)}
    whole = drawn[10**6]
    assert len(whole) == len({d.arch for d in whole}) == recipe.space.count()  # fewer than are drawn from
    assert [d.macs for d in whole] == sorted(d.macs for d in whole)
    sizes = [sum(d.bin == b for d in whole) for b in range(3)]
    assert max(sizes) - min(sizes) <= 1
    assert [sum(d.bin == b for d in drawn[7]) for b in range(3)] == [3, 2, 2]
    assert set(drawn[6]) < set(drawn[7]) < set(drawn[30]) < set(whole)
    assert drawn[30] == trust.draw(recipe, net_config, 30, 3, 0) != trust.draw(recipe, net_config, 30, 3, 1)
    for d in drawn[6]:
        assert d.params == sum(p.numel() for p in nets.build_at(recipe, net_config, d.arch, 0).parameters())


# ---- the verb ----


def command(figures: tuple[str, str], *more: str | Path) -> tuple[str | Path, ...]:
    return ("trust", figures[0], "--checkpoint", figures[1], "--device", "cpu", "--bins", "2", *more)


@pytest.mark.slow
def test_once_is_enough(figures: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    steps = counted(monkeypatch)
    out = good(*command(figures, "--n", "4", "--png", "t.png"))
    assert len(steps) == 4 * 3  # a quarter of 12 each
    assert "Kendall's tau-b with the own top1 (of 3 steps)" in out and "results: trust.jsonl  picture: t.png" in out
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    once = Path("trust.jsonl").read_bytes()
    shown = json.loads(good(*command(figures, "--n", "4", "--json")))
    assert len(steps) == 12 and Path("trust.jsonl").read_bytes() == once
    assert shown["records"] == lines("trust.jsonl") and shown["metric"] == "top1" and shown["steps"] == 3
    # the scores with the supernet's weights are those of `test`
    good("test", *figures_args(figures), "--archs", "trust.jsonl", "--raw", "--out", "t.jsonl")
    for mine, theirs in zip(shown["records"], lines("t.jsonl"), strict=True):
        for tag in ("direct", "direct_raw"):
            assert mine["metric"][tag] == theirs["metric"][tag] and mine["protocol"][tag] == theirs["protocol"][tag]
    # the own score is that of a network that `train` makes
    record = shown["records"][2]
    nas.archs_file(Path("arch.jsonl"), [record])
    sets = [f"--set={text}" for text in ("subnet=arch.jsonl", "train.policy=fixed", "train.steps=3")]
    trained = json.loads(good("train", figures[0], "--work-dir", "alone", "--json", *sets))
    assert round(trained["metrics"]["MAX"]["top1"], 6) == record["metric"]["own"]["top1"]
    # more archs: those so far are kept; another supernet: the own scores are
    good(*command(figures, "--n", "5"))
    assert len(lines("trust.jsonl")) == 5 and lines("trust.jsonl")[:4] == shown["records"]
    del steps[:]
    good("train", figures[0], "--work-dir", "other", "--set", "train.policy=sandwich", "--set", "train.steps=4")
    other = "--checkpoint", "other/latest.pth", "--set", "train.policy=sandwich"
    again = json.loads(good(*command(figures, "--n", "4", "--json"), *other))
    assert len(steps) == 0
    for before, after in zip(shown["records"], again["records"], strict=True):
        assert before["metric"]["own"] == after["metric"]["own"] and before["overhead"] == after["overhead"]
        assert before["protocol"]["direct"] != after["protocol"]["direct"]
    kept = Path("trust.jsonl").read_bytes()
    assert json.loads(good(*command(figures, "--n", "4", "--json")))["records"] == shown["records"]
    assert Path("trust.jsonl").read_bytes() == kept


def figures_args(figures: tuple[str, str]) -> tuple[str, ...]:
    return (figures[0], "--checkpoint", figures[1])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of own trainings from now on."""
    steps: list[int] = []
    real = sweep.fit

    def fit(*args: Any, **more: Any) -> Iterator[Any]:
        for report in real(*args, **more):
            steps.append(report.step)
            yield report

    monkeypatch.setattr(sweep, "fit", fit)
    return steps


@pytest.mark.slow
def test_a_killed_comparison_goes_on(figures: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str) -> tuple[str | Path, ...]:
        more = ("--n", "4", "--steps", "12", "--out", tmp_path / f"{name}.jsonl", "--work-dir", tmp_path / name)
        return command(figures, *more)

    process = nas.spawn(*run("broken"), "--set", "train.checkpoint_steps=1", cwd=tmp_path)

    def second_begun() -> bool:
        return process.poll() is not None or len(list((tmp_path / "broken").glob("*/latest.pth"))) == 2

    with nas.killed_after(process):
        suite.wait_for(second_begun, why="the second arch")
        assert process.poll() is None
    done = [checkpoint.load(str(path)).step for path in (tmp_path / "broken").glob("*/latest.pth")]
    assert len(lines(tmp_path / "broken.jsonl")) <= 2 and min(done) < 12
    steps = counted(monkeypatch)
    good(*run("broken"))
    assert len(steps) == 4 * 12 - sum(done)
    good(*run("unbroken"))
    assert lines(tmp_path / "broken.jsonl") == lines(tmp_path / "unbroken.jsonl")
    for path in (tmp_path / "broken").glob("*/latest.pth"):
        assert nas.equal(nas.tensors(path), nas.tensors(tmp_path / "unbroken" / path.parent.name / "latest.pth"))


@pytest.mark.slow
def test_processes_share_the_archs(figures: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    both = command(figures, "--n", "5", "--work-dir", "both", "--out", "both.jsonl")
    ranks = [nas.spawn(*both, cwd=tmp_path, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    said = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    steps = counted(monkeypatch)
    shown = json.loads(good(*both, "--json"))["records"]
    assert not steps and len(shown) == 5
    alone = json.loads(good(*command(figures, "--n", "5", "--work-dir", "alone", "--out", "alone.jsonl"), "--json"))
    assert len(steps) == 5 * 3 and shown == alone["records"]


def test_a_detector_in_a_job(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (1, 2):
        here = nas.attempt(monkeypatch, tmp_path / "job", n)
        argv = ("trust", trained.config, "--checkpoint", trained.checkpoint, "--n", "2", "--bins", "1", "--steps", "1")
        shown = json.loads(good(*argv, "--json"))
        assert shown["metric"] == "toy_bbox_mAP" and len(shown["records"]) == 2
        assert (here / "trust").resolve() == tmp_path / "job" / "checkpoint" / "trust"
        assert lines("../callback/records.jsonl") == lines("trust.jsonl") == shown["records"]
    assert len([*(tmp_path / "job" / "checkpoint" / "trust").glob("*/latest.pth")]) == 2


def test_what_can_not_be(figures: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--n must be at least two archs for each of the 2 bins, not 3" in bad(*command(figures, "--n", "3"))
    assert "exclude each other" in bad(*command(figures, "--epochs", "1", "--steps", "2"))
    said = bad(*command(figures), "--set", "space.backbone.stem.width=8")
    assert "is the checkpoint of another space: backbone.stem.width: 4 there, 8 here" in said
    assert not Path("trust.jsonl").exists() and not Path("trust").exists()
