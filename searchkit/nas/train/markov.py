"""DMCP: widths as Markov chains that learn by gradients (Guo et al., "DMCP: Differentiable Markov Channel Pruning",
CVPR 2020; the authors' code is https://github.com/Zx55/dmcp).

The channels of a unit come in groups: those of its least choice, then what each further choice adds. Group i is kept,
given that the one before it is, with the probability p_i = sigmoid(alpha_i); so m_i = p_1 ... p_i of it is kept, and
the unit is expected to be c_0 + sum (c_i - c_(i-1)) m_i wide. In a step of the chains the largest network runs with
each group of a layer's input times its m_i, and alpha learns from the loss, and from how far the expected cost is from
the target. The authors' masks stand behind norms and activations; those at what reads a channel are the same wherever
these are a relu, or what lies between is linear.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.nas.cost.expected import Place, Width, macs_of, widths_of
from searchkit.nas.cost.price import price
from searchkit.nas.models.elastic import body_of, channels_at, set_arch, wiring_of
from searchkit.nas.models.part import NECK, NetPlan
from searchkit.nas.space.shapes import InputShape, plain_shape
from searchkit.nas.space.space import Space
from searchkit.nas.space.units import Reduction, reduced, units_of
from searchkit.nas.train import distributed
from searchkit.nas.train.distill import Teaching
from searchkit.nas.train.distributed import Ranks
from searchkit.nas.train.dmcp import Dmcp, FlopsLoss
from searchkit.nas.train.loop import Archs, Run, Where, check_finite, loss_weight
from searchkit.nas.train.sections import Optimisation
from searchkit.nas.train.steps import autocast
from searchkit.nas.train.task import Task
from searchkit.records import modelspace
from searchkit.records.arch import Arch
from searchkit.seeds import rng_of, step_seed

MOMENTUM = 0.9  # of SGD on alpha
EVENLY, EVERY = 0.9999, 10  # a width is drawn evenly with a probability that so shrinks in so many steps
NEAR = 0.01  # of the target, within which a sample must cost
TRIES = 20_000  # archs drawn for the samples
SAMPLES = "model_sample"  # the folder of samples, in that of the training
MILLION = 1e6


def flops_loss(kind: FlopsLoss, expected: Tensor, target: float) -> Tensor:
    """How far the expected cost is from the target, both in millions of MACs.

    log_l1 has no gradient where the cost is just below the target, in [0.95 T, T).
    """
    away, at = (expected - target).abs(), float(expected.detach())
    match kind:
        case "l1":
            return away
        case "l2":
            return away.square()
        case "inverted_log_l1":
            return (away + 1e-5).log()
    ratio = 0.1 if abs(at - target) > 200 else 1.0
    if at < 0.95 * target:
        return (ratio * away).log()
    if at < target:
        return expected * 0
    return (ratio * (expected - 0.95 * target).abs()).log()


class Markov(nn.Module):
    """The policy `dmcp`, and its state: alpha, all units in a row, and the momentum of its optimizer.

    Raises UsageError where the space varies in more than widths that hang on one choice each.
    """

    alpha: Tensor
    speed: Tensor

    def __init__(
        self,
        settings: Dmcp,
        space: Space,
        plans: NetPlan,
        shape: InputShape,
        *,
        seed: int,
        steps: int,
        random_archs: int,
    ) -> None:
        super().__init__()
        if space.scheduled:
            raise UsageError("policy dmcp can't go with schedules of the space", "Leave the schedules out")
        self.settings, self.space, self.plans, self.shape = settings, space, plans, shape
        self.seed, self.steps, self.random_archs = seed, steps, random_archs
        self.start = steps // 2 if settings.arch_start_train is None else settings.arch_start_train
        self.largest = space.maximum()
        self.units = {unit: values[::-1] for unit, values in units_of(space).items()}  # the least choice first
        if not self.units:
            raise UsageError("the space has one arch: there are no widths to learn", "Give its widths several choices")
        archs = [[self._arch({unit: v}) for v in values] for unit, values in self.units.items()]
        self.widths = widths_of(plans, self.largest, archs, [unit.name for unit in self.units], shape)
        least, most = (price(plans, arch, shape).flops / MILLION for arch in (space.minimum(), self.largest))
        if not least <= settings.target_flops <= most:
            raise UsageError(
                f"train.dmcp.target_flops {settings.target_flops:g} (millions of MACs) can't be met: archs of this "
                f"space cost {least:,.4g} to {most:,.4g}",
                "Ask for a cost within, or widen the space",
            )
        n = sum(len(values) - 1 for values in self.units.values())
        self.register_buffer("alpha", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("speed", torch.zeros(n, dtype=torch.float64))

    def _arch(self, values: Mapping[Any, int]) -> Arch:
        return reduced(self.space, self.largest, (Reduction(unit, value) for unit, value in values.items()))

    # --- which archs a step visits ------------------------------------------------------------------------------------

    def forward(self, step: int) -> list[Arch]:
        """The archs of a step, the largest first."""
        rng = rng_of(self.seed, "arch", step)
        evenly = EVENLY ** ((step - self.start) // EVERY) if step >= self.start else 1.0
        drawn = [
            self.space.sample(rng) if rng.random() < evenly else self.sample(rng) for _ in range(self.random_archs)
        ]
        return [self.largest, self.space.minimum(), *drawn]

    def sample(self, rng: random.Random) -> Arch:
        """An arch from the chains: each is walked from its least choice on, up to the first group that isn't kept."""
        kept = [torch.sigmoid(part).tolist() for part in self._parts(self.alpha)]
        values = {}
        for (unit, choices), chain in zip(self.units.items(), kept, strict=True):
            at = next((i for i, p in enumerate(chain) if rng.random() >= p), len(chain))
            values[unit] = choices[at]
        return self._arch(values)

    # --- what is expected ---------------------------------------------------------------------------------------------

    def _parts(self, alpha: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = alpha.split([len(values) - 1 for values in self.units.values()])
        return parts

    def marginals(self, alpha: Tensor) -> list[Tensor]:
        """How much of each group is kept, unit by unit: of the first, which always is, 1."""
        kept = (torch.sigmoid(part).cumprod(0) for part in self._parts(alpha))
        return [torch.cat((part.new_ones(1), part)) for part in kept]

    def expected_macs(self, marginals: Sequence[Tensor]) -> Tensor:
        """The multiply-adds of the network whose layers are as wide as is expected."""

        def channels(width: Width) -> Any:
            return width.channels[0] if width.unit is None else expected(width.channels, marginals[width.unit])

        return torch.as_tensor(macs_of(self.widths, channels))

    def expected_arch(self) -> Arch:
        """The arch whose widths are the expected ones, to the channel; it may lie off the grid, but where a norm or a
        group can't be so wide, it is on it."""
        common = {dim.key for dim in self.space.dims if dim.common}  # one choice for all positions
        wide = {}
        for (unit, values), kept in zip(self.units.items(), self.marginals(self.alpha), strict=True):
            e = float(expected(values, kept))
            wide[unit] = min((abs(v - e), v) for v in values)[1] if unit.key in common else round(e - 1e-4)
        arch = self._arch(wide)
        try:
            self.plans(arch)
        except UsageError:
            return self.space.nearest(arch)
        return arch

    # --- learning -----------------------------------------------------------------------------------------------------

    def strategy(self, settings: Optimisation, task: Task, teaching: Teaching | None, ranks: Ranks) -> Moves:
        """What a step learns."""
        return Moves(self, Archs(self, settings, task), Archs(self, settings, task, teaching), ranks)

    def learns_at(self, step: int) -> bool:
        """Whether the chains move in a step."""
        return step >= self.start and (step - self.start) % self.settings.arch_train_freq == 0

    def rate(self, step: int) -> float:
        """The learning rate of alpha."""
        done = (step - self.start) / max(1, self.steps - self.start)
        low, high = self.settings.arch_lr_end, self.settings.arch_lr
        return low + (high - low) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    @torch.no_grad()
    def move(self, gradient: Tensor, step: int) -> None:
        """One step of SGD with momentum."""
        self.speed.mul_(MOMENTUM).add_(gradient)
        self.alpha.sub_(self.rate(step) * self.speed)

    # --- what is left -------------------------------------------------------------------------------------------------

    def ended(self, folder: str) -> list[str]:
        """Write the samples below a folder: `model_sample/sample_0.json` ..., within 1 % of the target, and
        `expected_ch.json`. Returns what is to be said of them."""
        wanted, target = self.settings.arch_sample_num, self.settings.target_flops * MILLION
        rng, found, drawn = rng_of(self.seed, "dmcp"), dict[Arch, int](), 0
        nearest = math.inf
        while len(found) < wanted and drawn < TRIES:
            arch, drawn = self.sample(rng), drawn + 1
            cost = int(price(self.plans, arch, self.shape).flops)
            nearest = min(nearest, abs(cost - target))
            if abs(cost - target) <= NEAR * target:
                found[arch] = cost
        place = os.path.join(folder, SAMPLES)
        named = {f"sample_{i}": arch for i, arch in enumerate(found)} | {"expected_ch": self.expected_arch()}
        with fsio.storage():
            os.makedirs(place, exist_ok=True)
            for name in os.listdir(place):
                if name.startswith("sample_") and name.removesuffix(".json") not in named:
                    os.remove(os.path.join(place, name))  # of an earlier end
            for name, arch in named.items():
                fsio.atomic_write(os.path.join(place, f"{name}.json"), self._record(name, arch))
        expected_m = float(self.expected_macs(self.marginals(self.alpha))) / MILLION
        lines = [
            f"{place}: {len(found)} samples within {NEAR:.0%} of {self.settings.target_flops:g} M MACs, of {drawn:,} "
            f"drawn; expected_ch, the expected widths ({expected_m:,.4g} M)"
        ]
        if len(found) < wanted:
            lines.append(
                f"note: {wanted} samples were wanted, but the nearest of the others is {nearest / target:.1%} off: the "
                "chains have not come to the target (train longer, or raise dmcp.flop_loss_weight or arch_lr), or they "
                "leave few archs"
            )
        return lines

    def _record(self, name: str, arch: Arch) -> str:
        cost = price(self.plans, arch, self.shape)
        overhead = {"flops": cost.flops, "params": cost.params, "convention": "macs"}
        data = {"input_shape": plain_shape(self.shape)}
        record = {"name": name, "arch": arch.nested(), "overhead": overhead, "data": data}
        return modelspace.dumps(json.loads(json.dumps(record))) + "\n"


def expected(channels: Sequence[int], marginals: Tensor) -> Tensor:
    """The expected number of channels: those of the least choice, and what each further one adds as far as it is
    kept."""
    first, *_ = channels
    added = marginals.new_tensor([b - a for a, b in pairwise(channels)])
    return first + (added * marginals[1:]).sum()


@dataclass(frozen=True)
class Moves:
    """The strategy of `dmcp`: the chains move first, where they learn, by the loss of the largest network with its
    channels weighed; then the weights learn from the archs of the step."""

    policy: Markov
    labelled: Archs  # all archs learn from the labels
    taught: Archs
    ranks: Ranks

    def __call__(self, run: Run, images: Any, targets: Any, at: Where) -> dict[str, float]:
        """See Strategy."""
        told = self._move(run, images, targets, at) if self.policy.learns_at(at.step) else {}
        archs = self.taught if at.step >= self.policy.settings.distill_iter else self.labelled
        return {**told, **archs(run, images, targets, at)}

    def _move(self, run: Run, images: Any, targets: Any, at: Where) -> dict[str, float]:
        policy, settings, task = self.policy, self.labelled.settings, self.labelled.task
        alpha = nn.Parameter(policy.alpha.detach().clone())
        marginals = policy.marginals(alpha)
        set_arch(run.net, policy.largest)
        torch.manual_seed(step_seed(at.seed, "sampling", at.step, "alpha", at.rank))
        inputs = task.network.inputs_of(images, at.device)
        with autocast(at.device, settings.precision), weighed(run.net, policy.widths.reads, marginals):
            parts = task.objective.losses(run.net, inputs, targets, settings, at.epoch, None)
        macs = policy.expected_macs(marginals) / MILLION
        away = flops_loss(policy.settings.floss_type, macs, policy.settings.target_flops)
        loss: Any = sum(loss_weight(settings, name, at.epoch) * value for name, value in parts.items())
        loss = loss + policy.settings.flop_loss_weight * away
        (alpha.grad,) = torch.autograd.grad(loss, [alpha])
        told = {"loss_alpha": loss.item(), "loss_flops": away.item(), "expected_mmacs": macs.item()}
        where = f"images {task.sets.ids_of(targets)}, widths as expected"
        check_finite({"loss": told["loss_alpha"], **told}, f"step {at.step}", where)
        distributed.average_gradients([alpha], self.ranks)
        assert alpha.grad is not None
        policy.move(alpha.grad, at.step)
        return told


@contextmanager
def weighed(net: nn.Module, reads: Mapping[Place, Width], marginals: Sequence[Tensor]) -> Iterator[None]:
    """Within it each layer reads its input channels times how much of them is kept."""
    with ExitStack() as hooks:
        for module, width in _readers(net, reads):
            assert width.unit is not None
            steps = torch.tensor([b - a for a, b in pairwise((0, *width.channels))])
            kept = marginals[width.unit].repeat_interleave(steps.to(marginals[width.unit].device))
            handle = module.register_forward_pre_hook(partial(_times, kept))
            hooks.callback(handle.remove)
        yield


def _times(kept: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *others = args
    factor = kept.to(x.dtype)
    return (x * (factor if isinstance(module, nn.Linear) else factor[:, None, None]), *others)


def _readers(net: nn.Module, reads: Mapping[Place, Width]) -> Iterator[tuple[nn.Module, Width]]:
    """The modules of layers."""
    wiring, body = wiring_of(net), body_of(net)
    features, _ = channels_at(wiring, body, wiring.maximum)
    necks = len(wiring.neck.plan(wiring.maximum.part(NECK), features))
    trunk: Any = net.get_submodule("backbone")
    for (piece, row, layer), width in reads.items():
        root: nn.Module = body if piece == 0 else trunk.neck if piece <= necks else net
        yield root.get_submodule(f"{row}.{layer}".strip(".")), width
