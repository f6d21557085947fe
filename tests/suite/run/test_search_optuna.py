"""Searches through search-run beside Optuna used directly: the same points, in the same order."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searchkit.seeds import ask_seed
from tests.suite.run.test_search import SPACE, begin, story
from tests.support.suite import HARNESS, ok, run, show, wait_for

optuna = pytest.importorskip("optuna")

JOB = """
import json, os, sys
from math import log10
lr, opt = float(sys.argv[1]), sys.argv[2]
momentum = float(sys.argv[4]) if len(sys.argv) > 3 else 0.0
if lr > 0.05:
    sys.exit(3)
acc = 1 - abs(log10(lr) + 2.5) / 5 + 0.05 * (opt == "adam") + 0.1 * momentum
with open(os.environ["SEARCHKIT_CALLBACK"] + "/scalars.jsonl", "a") as f:
    f.write(json.dumps({"acc": acc, "cost": -log10(lr) + momentum}) + "\\n")
"""
SEED = 11


def values_of(trial: Any) -> dict[str, Any]:
    """One ask, by Optuna's own define-by-run."""
    found = {"lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True)}
    found["opt"] = ("sgd", "adam")[trial.suggest_categorical("opt", (0, 1))]
    if found["opt"] == "sgd":
        found["momentum"] = round(trial.suggest_float("momentum", 0.0, 0.9, step=0.1), 12)  # 0.6000000000000001
    return found


def measure(values: dict[str, Any]) -> tuple[float, float] | None:
    lr, momentum = values["lr"], values.get("momentum", 0.0)
    if lr > 0.05:
        return None
    acc = 1 - abs(math.log10(lr) + 2.5) / 5 + 0.05 * (values["opt"] == "adam") + 0.1 * momentum
    return acc, -math.log10(lr) + momentum


def directly(make: Callable[[int], Any] | Any, n: int, directions: list[str]) -> list[dict[str, Any]]:
    """Optuna's own loop. `make`: a sampler for each ask, or one for all."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=directions)
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(n):
            study.sampler = make(i) if callable(make) else make
            trial = study.ask()
            values = values_of(trial)
            out.append(values)
            score = measure(values)
            if score is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, score[: len(directions)])
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tpe", "random"])
def test_one_after_the_other_they_are_those_of_optuna(name: str, tmp_path: Path) -> None:
    n = 24
    folder = begin(tmp_path / "p", f"{{sampler: {name}, n_trials: {n}, seed: {SEED}}}", JOB, SPACE)
    done = run(folder, "search-run", "-j", "1", "config.yaml")
    assert done.returncode in (0, 1)

    def sampler(i: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seed = ask_seed(SEED, i)
            if name == "tpe":
                return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            return optuna.samplers.RandomSampler(seed=seed)

    assert [job["values"] for job in story(folder)] == directly(sampler, n, ["maximize"])


@pytest.mark.slow
def test_nsga2_is_one_seeded_sampler_also_across_a_kill(tmp_path: Path) -> None:
    n, population = 24, 6
    search = (
        f"{{sampler: {{type: nsga2, population: {population}}}, n_trials: {n}, seed: {SEED}, "
        "objectives: [{name: acc, mode: max}, {name: cost, mode: min}]}"
    )
    folder = begin(tmp_path / "p", search, JOB, SPACE)
    for at in ("60", "90"):
        env = {"PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_AT": at}
        assert run(folder, "search-run", "-j", "1", "config.yaml", env=env).returncode == -9
    assert run(folder, "search-run", "-j", "1", "config.yaml").returncode in (0, 1)
    one = optuna.samplers.NSGAIISampler(population_size=population, seed=SEED)
    asked = [job["values"] for job in story(folder)]
    direct = directly(one, 3 * n, ["maximize", "minimize"])
    # A child that is the copy of a parent costs Optuna a trial; ours is told the scores that are known.
    fresh = [values for i, values in enumerate(direct) if values not in direct[:i]]
    assert len(fresh) < len(direct) and asked == fresh[:n]
    scores = [job["scores"] for job in story(folder)]
    assert scores == [measure(values) for values in asked]
    # What it was told once stays told, whatever a restart makes of that job; and more trials go on where it was.
    (folder / "job.py").write_text(JOB.replace("acc = 1", "acc = (7 if os.environ['SEARCHKIT_JOB'] == '2' else 1)"))
    ok(run(folder, "search-ctl", "restart", "--jobs", "2,@failed"))
    wait_for(lambda: show(folder)["status"] in ("finished", "error"))
    assert story(folder)[2]["scores"] != scores[2]
    assert run(folder, "search-run", "-j", "1", "--n-trials", str(n + 6), "config.yaml").returncode in (0, 1)
    assert [job["values"] for job in story(folder)] == fresh[: n + 6]
    front = json.loads(ok(run(folder, "search-ctl", "best", "--task", "default", "--json")))
    assert front
