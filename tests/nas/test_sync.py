"""Batch norm over ranks: real processes, whose statistics and gradients are those of one that has all images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.mobilenet import MobileNetV2
from searchkit.nas.models.backbones.resnet import ResNet
from searchkit.nas.nn import BatchNorm2d, SyncBatchNorm2d, norm_of
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise, same_as
from tests.support import nas
from tests.support.backbones import written_down

pytestmark = pytest.mark.usefixtures("one_thread")

# One process that forks its ranks, so that torch is imported once. Each writes how far it is from the whole batch's.
RANKS = """
import json, os, sys
import torch
import torch.distributed as dist
from searchkit.nas.models.backbones.resnet import ResNet
from searchkit.nas.models.heads.retinanet import RetinaNetHead, Towers
from searchkit.nas.models.heads.retinanet_plan import RetinaNetOptions
from searchkit.nas.models.heads.ssd import Predictors, SSDHead
from searchkit.nas.models.heads.ssd_plan import SSDOptions
from searchkit.nas.models.necks.elastic_fpn import ElasticFPN
from searchkit.nas.models.necks.elastic_fpn_plan import ElasticFPNOptions
from searchkit.nas.models.necks.ssd_extras import SSDExtras
from searchkit.nas.models.necks.ssd_extras_plan import SSDExtrasOptions
from searchkit.nas.models.part import levels_of
from searchkit.nas.nn import BatchNorm2d, SyncBatchNorm2d
from searchkit.records.arch import Arch

world, out = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
rank = next((r for r in range(1, world) if os.fork() == 0), 0)
dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world)
generator = torch.Generator().manual_seed(0)
largest = Arch.of({"stem.width": 8, "body.width": (8, 12), "body.depth": (2, 2)})
archs = [largest, Arch.of({"stem.width": 6, "body.width": (4, 8), "body.depth": (1, 2)})]
shares = [3, 1, 2, 2][:world]  # images of each rank
images = torch.rand(sum(shares), 3, 48, 40, generator=generator)
first = [sum(shares[:r]) for r in range(world + 1)]

def net_of(norm, ranks=0):
    torch.manual_seed(1)
    return ResNet(largest, block="basic", norm=norm, norm_ranks=ranks).train()

def run(net, archs, batch):
    for arch in archs:
        net.arch = arch
        sum(f.square().sum() for f in net(batch).values()).backward()
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

def gap(net, grads, whole, whole_grads, least=1e-3):
    pairs = [(grads[n], g) for n, g in whole_grads.items()]
    pairs += [(b.float(), dict(whole.named_buffers())[n].float()) for n, b in net.named_buffers()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=least)) for a, b in pairs)

gaps = {}
for ranks in {0, 1, world // 2}:
    size = ranks or world
    mine = range(rank // size * size, rank // size * size + size)
    ours, whole = net_of("sync_bn", ranks), net_of("bn")
    grads = run(ours, archs, images[first[rank] : first[rank + 1]])
    for grad in grads.values():
        # the sum over the ranks of one group
        parts = [torch.zeros_like(grad) for _ in range(world)]
        dist.all_gather(parts, grad)
        grad.copy_(sum(parts[r] for r in mine))
    gaps[ranks] = gap(ours, grads, whole, run(whole, archs, images[first[mine[0]] : first[mine[-1] + 1]]))

# A neck and a head: an SSD's, and a RetinaNet's, whose towers are the same for all levels but for their norms.
features = [("0", 4, 12, 10), ("1", 6, 6, 5)]
maps = {n: torch.rand(sum(shares), c, h, w, generator=generator) for n, c, h, w in features}

def parts_of(kind, norm):
    torch.manual_seed(1)
    if kind == "ssd":
        neck = SSDExtras(SSDExtrasOptions(channels=(8, 8), norm=norm))
        head = SSDHead(SSDOptions(ratios=((2,),) * 4, scales=(0.1, 0.2, 0.4, 0.6, 0.8), norm=norm), 3)
    else:
        neck = ElasticFPN(ElasticFPNOptions(out_channel=8, depth=3, first=0, norm=norm))
        of_head = "per_level" if norm == "bn" else norm
        head = RetinaNetHead(RetinaNetOptions(depth=2, width=8, anchor_sizes=(8, 16, 32), norm=of_head), 3)
    trunk = neck.module(Arch(()), (4, 6))
    levels = levels_of(neck.plan(Arch(()), (4, 6)), (4, 6))
    last = Predictors(head, Arch(()), levels) if kind == "ssd" else Towers(head.options, 3, Arch(()), levels)
    return torch.nn.ModuleList((trunk, last)).train()

for kind in ("ssd", "retinanet"):
    ours, whole = parts_of(kind, "sync_bn"), parts_of(kind, "bn")
    for nets, rows in ((ours, slice(first[rank], first[rank + 1])), (whole, slice(None))):
        given = {n: x[rows] for n, x in maps.items()}
        outputs = nets[1]([*nets[0](given).values()])
        sum((3 * x).sigmoid().sum() for pair in outputs for x in pair).backward()
    grads = {n: p.grad for n, p in ours.named_parameters()}
    for grad in grads.values():
        dist.all_reduce(grad)
    # what scales a channel ahead of a norm learns nothing: its gradients are the rounding of those of others, above 1
    gaps[kind] = gap(ours, grads, whole, {n: p.grad for n, p in whole.named_parameters()}, least=1.0)

alone = SyncBatchNorm2d(3).train()
if rank == 0:  # a calibration by one rank alone waits for nobody
    with torch.no_grad():
        gaps["alone"] = float((alone(images) - BatchNorm2d(3)(images)).abs().max())
message = ""
try:
    SyncBatchNorm2d(3, ranks=3)(images)
except Exception as e:
    message = str(e)
if rank == 0:
    with open(f"{out}/gaps.json", "w") as f:
        json.dump({"gaps": gaps, "message": message}, f)
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_are_as_one(tmp_path: Path, world: int) -> None:
    """At the maximal width and at a narrower one in one step, of shares of a batch that differ in size."""
    (tmp_path / "ranks.py").write_text(RANKS)
    argv = [sys.executable, str(tmp_path / "ranks.py"), str(world), str(tmp_path)]
    environment = nas.environment(PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "gaps.json").read_text())
    assert set(found["gaps"]) == {"0", "1", "2", "alone", "ssd", "retinanet"} - ({"2"} if world == 2 else set())
    assert max(found["gaps"].values()) < 1e-5, found["gaps"]
    assert f"over groups of 3 ranks cannot run on {world} ranks" in found["message"]


def test_alone_it_is_a_batch_norm() -> None:
    full = randomise(SyncBatchNorm2d(12))
    for training in (True, False):
        for c in (12, 7):
            same_as(full.train(training), nn.BatchNorm2d(c).train(training), torch.randn(3, c, 5, 4))
    assert type(full.plain()) is nn.BatchNorm2d
    assert [*SyncBatchNorm2d(4).state_dict()] == [*BatchNorm2d(4).state_dict()]


@pytest.mark.parametrize(
    ("make", "arch"),
    [
        (ResNet, {"stem.width": 4, "body.width": (4, 6), "body.depth": (1, 1)}),
        (MobileNetV2, {"stem.width": 4, "body.width": (4,), "body.depth": (2,), "body.expand": (2,)}),
    ],
)
def test_written_down_it_is_torchs(make: Any, arch: dict[str, Any]) -> None:
    options: dict[str, Any] = {"strides": (2,)} if make is MobileNetV2 else {}
    net = make(Arch.of(arch), norm="sync_bn", norm_ranks=8, **options)
    assert any(isinstance(m, SyncBatchNorm2d) and m.ranks == 8 for m in net.modules())
    x: Tensor = torch.randn(2, 3, 40, 40)
    plain = written_down(randomise(net).eval())
    assert not any(isinstance(m, SyncBatchNorm2d) for m in plain.modules())
    assert all(torch.equal(a, b) for a, b in zip(plain(x).values(), net(x).values(), strict=True))


def test_ranks_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="norm_ranks must be at least 0, but is -1"):
        norm_of("sync_bn", 8, 1e-5, ranks=-1)
