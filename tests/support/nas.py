"""What the tests of search-nas share: a toy set, a tiny config, commands run here or as processes, tensors compared."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit import console
from searchkit.nas.data.toy import make_toy_det
from searchkit.nas.space.space import Space, read_space
from searchkit.nas.subnet import sweep
from searchkit.nas.tasks import read as config
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import checkpoint
from searchkit.nas.train.loop import StepReport
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.supernet import Watch, train_supernet
from searchkit.records.arch import Arch
from searchkit.records.modelspace import dumps
from tests.support import suite

CPU = torch.device("cpu")
IMAGES = {"train": 12, "val": 6, "test": 4}
TINY: dict[str, Any] = {
    "model": {
        "backbone": "resnet",
        "backbone_options": {"block": "basic"},
        "fpn_channels": 16,
        "box_head_width": 32,
        "anchor_sizes": [16, 32, 48, 64],
        "rpn_pre_nms_train": 100,
        "rpn_pre_nms_test": 60,
        "rpn_post_nms_train": 60,
        "rpn_post_nms_test": 40,
        "rpn_batch_per_image": 32,
        "box_batch_per_image": 32,
        "score_thresh": 0.01,
    },
    "space": {
        "backbone.stem.width": {"start": 4, "end": 8, "step": 4},
        "backbone.body.width": {"start": [4, 4, 8, 8], "end": [8, 8, 16, 16], "step": [4, 4, 8, 8], "ascending": True},
        "backbone.body.depth": {"choices": [[1, 2], [1], [1, 2], [1]]},
        "data.input_shape": {"choices": [48, 64]},
        "anchors": {
            "MIDDLE": {
                "backbone.stem.width": 6,
                "backbone.body.width": [6, 8, 8, 12],
                "backbone.body.depth": [2, 1, 1, 1],
            }
        },
    },
    "train": {"steps": 6, "batch_size": 2, "random_archs": 1, "lr": 0.02, "lr_scaling": "none", "checkpoint_steps": 1},
    "test": {"calibration_images": 6, "batch_size": 4},
    "finetune": {"steps": 4, "batch_size": 2, "lr": 0.01, "lr_scaling": "none"},
}


def one_thread() -> None:
    """Sums of several threads may end in other bits, and the machine is not ours alone."""
    torch.set_num_threads(1)


def section(folder: Path, split: str) -> dict[str, str]:
    """A split of a set of make_toy_det."""
    return {"annotations": f"{folder}/annotations/instances_{split}.json", "images": f"{folder}/images"}


def tiny(folder: Path, **changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tiny config as data; `changes` go into its sections: train={"steps": 3}. None takes a key out."""
    body = copy.deepcopy(TINY)
    body["data"] = {"name": "toy", "workers": 0, "train": section(folder, "train"), "val": section(folder, "val")}
    for name, values in changes.items():
        part = body.setdefault(name, {})
        part.update(values)
        body[name] = {k: v for k, v in part.items() if v is not None}
    return body


def write(path: Path, body: Mapping[str, Any]) -> str:
    """A config as a file (JSON is YAML); returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1))
    return str(path)


def make_toy(folder: Path) -> Path:
    """A set of images of 64 x 64 px."""
    return Path(make_toy_det(str(folder / "toy"), images=IMAGES, size=(64, 64)))


@dataclass(frozen=True)
class Trained:
    """A supernet that has learnt a little."""

    data: Path
    config: str
    recipe: Recipe
    checkpoint: str


LEARNT = {"steps": 60, "optimizer": "adamw", "lr": 0.01, "schedule": "one_cycle", "checkpoint_steps": 1000}


def make_trained(data: Path, folder: Path) -> Trained:
    """Trained in `folder`."""
    body = tiny(data, train=LEARNT)
    body["data"]["test"] = section(data, "test")
    path = write(folder / "trained.yaml", body)
    return Trained(data, path, config.load(path), train(path, folder / "work"))


class Stopped(Exception):
    """The run was broken off on purpose."""


def quiet(on_step: Any = None) -> Watch:
    return Watch(lambda _: None, on_step or (lambda _: None), lambda *_: None)


def train(
    path: str,
    work: Path,
    *sets: str,
    seed: int = 0,
    stop: int | None = None,
    watch: Watch | None = None,
    accept: bool = False,
) -> str:
    """Train in this process; the path of the last checkpoint. `stop`: break off after so many steps of the run."""
    one_thread()

    def on_step(report: StepReport) -> None:
        if stop is not None and report.step + 1 >= stop:
            raise Stopped

    recipe = config.load(path, sets)
    with contextlib.suppress(Stopped):
        train_supernet(
            recipe, str(work), seed=seed, device=CPU, watch=watch or quiet(on_step), teach=open_teaching, accept=accept
        )
    return str(work / "latest.pth")


def tensors(path: str | Path, optimizer: bool = True) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by name: of the net, and of the optimizer."""
    kept = checkpoint.load(str(path))
    state = kept.optimizer.get("state", {}) if optimizer else {}
    moments = {
        f"optimizer {index} {name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }
    return {**kept.net, **moments, "step": torch.tensor(kept.step)}


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@dataclass(frozen=True)
class Done:
    """How a command ended. both: what it wrote to stdout and stderr, in the order in which it did."""

    code: int
    out: str
    err: str
    both: str = ""


class _Tee(io.StringIO):
    """A text that grows together with another one."""

    def __init__(self, other: io.StringIO) -> None:
        super().__init__()
        self.other = other

    def write(self, text: str) -> int:
        self.other.write(text)
        return super().write(text)


def call(*argv: str | Path) -> Done:
    """`search-nas argv` in this process."""
    from searchkit.nas.cli.main import main_command

    one_thread()
    both, was = io.StringIO(), sys.argv
    out, err = _Tee(both), _Tee(both)
    code = 0
    sys.argv = ["search-nas", *map(str, argv)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            console.run(main_command, "search-nas")
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0
    finally:
        sys.argv = was
    return Done(code, out.getvalue(), err.getvalue(), both.getvalue())


def call_in(folder: Path, env: Mapping[str, str], *argv: str) -> Done:
    """`search-nas argv` in this process, as it were in a folder, with an environment: it spares the seconds that
    loading torch takes, which is loaded here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        return call(*argv)


def good(*argv: str | Path) -> str:
    """The output of a command that ended well."""
    done = call(*argv)
    assert done.code == 0, f"exit {done.code}\n{done.out}\n{done.err}"
    return done.out


def bad(*argv: str | Path, code: int = 2) -> str:
    """What a command says that ends with `code`."""
    done = call(*argv)
    assert done.code == code, f"exit {done.code}, not {code}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err
    return done.err


def environment(**extra: str) -> dict[str, str]:
    """Of processes: one thread, so that they compute the bits that this one does."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def spawn(*argv: str | Path, cwd: Path, **extra: str) -> subprocess.Popen[bytes]:
    """`search-nas argv` as a process of its own."""
    return subprocess.Popen(
        suite.command("search-nas", *map(str, argv)),
        cwd=cwd,
        env=environment(**extra),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@contextlib.contextmanager
def killed_after(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kill the process by SIGKILL at the end of the block, if it is still there."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def space_of(body: dict[str, Any]) -> Space:
    return read_space(body["space"])


def open_session(trained: Trained, recipe: Recipe | None = None, tune: bool = False) -> sweep.Session:
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
    metrics: dict[str, float] = record["metric"]["t"]
    return metrics


def attempt(patch: pytest.MonkeyPatch, job: Path, number: int) -> Path:
    """The working folder of an attempt of a job, in which this process then is, with the environment that it has."""
    root = job if number == 1 else job / f"attempt-{number}"
    folder = root / "demo"
    for path in (folder, root / "callback"):
        path.mkdir(parents=True)
    patch.chdir(folder)
    patch.setenv("SEARCHKIT_CHECKPOINT", str(job / "checkpoint"))
    patch.setenv("SEARCHKIT_CALLBACK", str(root / "callback"))
    return folder


def lines(path: str | Path) -> list[dict[str, Any]]:
    """The records of a results file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
