"""Ranks of torchrun: the same archs, bit-identical weights, the gradients of the whole batch."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from searchkit.nas.train import checkpoint
from tests.support import nas
from tests.support.nas import tiny, write

pytestmark = pytest.mark.usefixtures("one_thread")


# What each rank does, as a script: its gradients against those of the whole batch, then a training of which it notes
# the archs and the digest of all tensors after every step.
RANK = """
import hashlib, json, sys
import torch
from searchkit.nas.models.network import build
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.tasks import read as config
from searchkit.nas.teach.opening import open_teaching
from searchkit.nas.train import distributed, loop, supernet
from tests.support import nas

nas.one_thread()
path, work = sys.argv[1:]
recipe = config.load(path)
ranks = distributed.join(nas.CPU)
gaps = []
for options in ({"norm": "gn", "norm_group": 2}, {"norm": "frozen"}):
    torch.manual_seed(0)
    model = config.load(path, ["model.backbone_options=" + json.dumps({"block": "basic", **options})]).model
    net = build(model, recipe.space.maximum())
    set_arch(net, recipe.space.named("MIDDLE"))
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def gradients(images):
        net.zero_grad()
        sum((level.square()).mean() for level in net.backbone(images).values()).backward()
        return [p for p in net.backbone.parameters() if p.grad is not None]

    whole = [p.grad.clone() for p in gradients(batch)]
    ours = gradients(batch[2 * ranks.rank : 2 * ranks.rank + 2])
    distributed.average_gradients(ours, ranks)
    gaps += [float((p.grad - w).abs().max() / w.abs().max().clamp(min=1e-3)) for p, w in zip(ours, whole, strict=True)]

archs, digests = [], []
fit, set_arch_ = supernet.fit, loop.set_arch

def noted(net, arch):
    archs.append(arch.id)
    set_arch_(net, arch)

def watched(run, *args, **more):
    for report in fit(run, *args, **more):
        state = b"".join(v.detach().numpy().tobytes() for v in run.net.state_dict().values())
        digests.append(hashlib.sha256(state).hexdigest())
        yield report

loop.set_arch, supernet.fit = noted, watched
supernet.train_supernet(recipe, work, seed=0, device=nas.CPU, watch=nas.quiet(), teach=open_teaching)
with open(f"{work}/{ranks.rank}.json", "w") as f:
    json.dump({"gap": max(gaps), "archs": archs, "digests": digests}, f)
"""


def torchrun(cwd: Path, *argv: str) -> str:
    """The output of `torchrun --nproc-per-node 2 argv`."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *argv],
        cwd=cwd,
        env=nas.environment(PYTHONPATH=str(Path(__file__).parents[3])),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_ranks_stay_together(toy: Path, tmp_path: Path) -> None:
    body = tiny(toy, train={"policy": "single_path", "steps": 4, "sort_channels": True})
    widths = body["space"]["backbone.body.width"]
    widths["schedule"] = {"boundary": [1, 2], "value": [[[8], [8], [16], [16]], [[4, 8], [4, 8], [8, 16], [8, 16]]]}
    path = write(tmp_path / "cfg.yaml", body)
    (tmp_path / "rank.py").write_text(RANK)
    torchrun(tmp_path, str(tmp_path / "rank.py"), path, str(tmp_path / "work"))
    first, second = (json.loads((tmp_path / "work" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["archs"] == second["archs"] and len(set(first["archs"])) > 1
    assert first["digests"] == second["digests"] and len(set(first["digests"])) == 4
    assert max(first["gap"], second["gap"]) < 1e-5
    # the same by the command, which speaks once
    out = torchrun(
        tmp_path, "-m", "searchkit.nas.cli", "train", path, "--work-dir", "by_command", "--json", "--device", "cpu"
    )
    shown = json.loads(out)
    assert shown["step"] == 4 and set(shown["metrics"]) == {"MAX", "MIN"} and math.isfinite(shown["losses"]["loss"])
    final = checkpoint.load(str(tmp_path / "by_command" / "latest.pth"))
    state = b"".join(value.numpy().tobytes() for value in final.net.values())
    assert hashlib.sha256(state).hexdigest() == first["digests"][-1]
