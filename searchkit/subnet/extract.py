"""A subnet as a folder of its own, with the proof that it is what the supernet computes.

model.py              the network, which needs torch and torchvision alone
weights.safetensors   its weights
config.json           categories, input size, arch: plain data
proof.json            bit-equality, costs in closed form and measured, digests of the source
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from searchkit import fsio
from searchkit.cost import price
from searchkit.errors import SearchkitError, UsageError
from searchkit.models.detector import DetectorConfig, set_arch
from searchkit.models.subnet import subnet
from searchkit.space.arch import Arch, InputShape
from searchkit.subnet.emit import model_source
from searchkit.train import checkpoint
from searchkit.train import net as nets
from searchkit.train.bench import Calibration, open_split
from searchkit.train.config import Recipe
from searchkit.train.evaluate import calibrate
from searchkit.train.loop import set_scale

PROOF_BOXES = 1000  # what the RoI head's cost is stated for
NO_CALIBRATION = Calibration()
_NOTHING = "Nothing was written."


@dataclass(frozen=True)
class Source:
    """A detector that holds the arch (a supernet, or a tuned subnet), and where it is from."""

    net: nn.Module
    config: DetectorConfig
    maximum: Arch
    categories: tuple[str, ...]
    path: str
    sha256: str
    input_shape: InputShape | None = None  # that a subnet was tuned at


def open_source(recipe: Recipe, path: str, seed: int) -> Source:
    """Load a supernet's checkpoint, or the one of a tuned subnet (its maximal arch is its own)."""
    found = checkpoint.load(path)
    names = tuple(found.meta["categories"])
    maximum = Arch.of(found.meta["space"])
    if faults := recipe.space.faults(maximum):
        raise UsageError(f"{path} is of another space: {'; '.join(faults)}", "Use the config that it was trained with")
    config = replace(recipe.model, num_classes=found.meta["num_classes"])
    net = nets.build_at(recipe, config, maximum, seed)
    nets.load_exactly(net, found.net, path, recipe.path)
    shape = found.meta.get("input_shape")
    return Source(
        net.eval(),
        config,
        maximum,
        names,
        path,
        checkpoint.digest(path),
        tuple(shape) if isinstance(shape, list) else shape,
    )


def extract(
    source: Source,
    recipe: Recipe,
    arch: Arch,
    shape: InputShape,
    out: str,
    *,
    images: Sequence[Tensor] = (),
    image_ids: Sequence[int] = (),
    calibration: Calibration = NO_CALIBRATION,
    export: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the subnet at `arch` into the new folder `out`, and return the proof.

    It is compared to the source at that arch, bit for bit: its weights, and what it computes on random input and on
    `images` ((3, H, W) uint8). With `calibration`, the statistics of its batch norms are replaced afterwards, which is
    said in the proof. Raises SearchkitError, and writes nothing, where anything differs.
    """
    if os.path.exists(out) and os.listdir(out):
        raise UsageError(f"{out} is there already", "Name a new folder")
    set_scale(source.net, shape, recipe.data.max_edge)
    static = subnet(source.net, arch, source.config)
    half = f"{os.path.normpath(os.path.abspath(out))}.{os.getpid()}.half"
    os.makedirs(half)
    try:
        _write_model(half, source, static, arch, shape)
        plain = load_folder(half)
        same_weights(static, plain)
        set_arch(source.net, arch)
        proof: dict[str, Any] = {
            "source": {
                "checkpoint": os.path.basename(source.path),
                "sha256": source.sha256,
                "maximum": source.maximum.nested(),
            },
            "equal": equality(source.net, plain, images, image_ids, shape, seed),
            "cost": costs(source, recipe, plain, arch, shape),
            "torch": torch.__version__,
        }
        if calibration.ids:
            n = calibrate(plain, calibration.batches, torch.device("cpu"))
            _write_weights(half, plain)
            proof["calibrated"] = {
                "images": n,
                "annotations": calibration.annotations,
                "image_ids": list(calibration.ids),
                "after": "the comparison above; weights are the same, statistics are new",
            }
        proof["weights_sha256"] = checkpoint.digest(os.path.join(half, "weights.safetensors"))
        if export:
            proof["export"] = _export(half, plain, shape)
        _write(half, "proof.json", json.dumps(proof, indent=1) + "\n")
        with fsio.storage():
            if os.path.isdir(out):
                os.rmdir(out)
            os.rename(half, out)
    finally:
        fsio.discard(half)
    return proof


def _write_model(folder: str, source: Source, static: Any, arch: Arch, shape: InputShape) -> None:
    """All of an extracted folder but its proof."""
    size = (static.transform.min_size[0], static.transform.max_size)
    title = f"Faster R-CNN at {arch.text()}, input {shape}, cut out of a supernet."
    _write(folder, "model.py", model_source(static, source.config, title, size))
    _write_weights(folder, static)
    config = {
        "arch": arch.nested(),
        "categories": list(source.categories),
        "input_shape": shape,
        "min_size": size[0],
        "max_size": size[1],
    }
    _write(folder, "config.json", json.dumps(config, indent=1) + "\n")


def load_folder(folder: str) -> Any:
    """The model of an extracted folder, through its own model.py."""
    path = os.path.join(folder, "model.py")
    spec = importlib.util.spec_from_file_location("_extracted_model", path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise UsageError(f"{folder} holds no extracted model: there is no model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder)


def same_weights(static: nn.Module, plain: nn.Module) -> None:
    """SearchkitError where what was written and read again is not what was cut out, to the last bit."""
    ours, theirs = static.state_dict(), plain.state_dict()
    other = [k for k in {**ours, **theirs} if k not in ours or k not in theirs or not torch.equal(ours[k], theirs[k])]
    if other:
        raise SearchkitError(f"the extracted model has other weights than the source: {', '.join(other[:3])}", _NOTHING)


@torch.no_grad()
def equality(
    net: Any, plain: Any, images: Sequence[Tensor], ids: Sequence[int], shape: InputShape, seed: int
) -> dict[str, Any]:
    """Compare two detectors in eval mode: pyramid, heads and boxes on random input, boxes on real images."""
    h, w = (shape, shape) if isinstance(shape, int) else shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, 3, h, w, generator=generator)
    regions = torch.rand(8, net.backbone.out_channels, *net.roi_heads.box_roi_pool.output_size, generator=generator)
    pairs = list(zip(_outputs(net, noise, regions), _outputs(plain, noise, regions), strict=True))
    pictures = [noise[0], *(image.float() / 255 for image in images)]
    checked = len(pairs)
    for picture in pictures:
        ours, theirs = net([picture])[0], plain([picture])[0]
        pairs += [(ours[key], theirs[key]) for key in ("boxes", "scores", "labels")]
    if not all(torch.equal(a, b) for a, b in pairs):
        gaps = [float((a.float() - b.float()).abs().max()) for a, b in pairs if a.shape == b.shape and a.numel()]
        worst = max(gaps, default=float("inf"))
        raise SearchkitError(
            f"the extracted model does not compute what the source does: they differ by up to {worst:g}",
            f"{_NOTHING} Does the backbone use other layers than those of searchkit.nn and torch.nn?",
        )
    boxes = sum(len(a) for i, (a, _) in enumerate(pairs[checked:]) if i % 3 == 0)
    return {
        "bit_equal": True,
        "random_input": [2, 3, h, w],
        "seed": seed,
        "images": list(ids),
        "boxes_compared": boxes,
    }


def _outputs(net: Any, noise: Tensor, regions: Tensor) -> list[Tensor]:
    """The pyramid, what the RPN makes of it, and what the box head makes of regions."""
    levels = list(net.backbone(noise).values())
    objectness, deltas = net.rpn.head(levels)
    return [*levels, *objectness, *deltas, *net.roi_heads.box_predictor(net.roi_heads.box_head(regions))]


def costs(source: Source, recipe: Recipe, plain: Any, arch: Arch, shape: InputShape) -> dict[str, Any]:
    """MACs and parameters in closed form and measured; raises SearchkitError where they differ."""
    closed = price.price(price.detector_plan(source.config, source.maximum), source.config.heads, arch, shape)
    measured = measured_macs(plain, source.config, shape)
    params = sum(p.numel() for p in plain.parameters())
    if (closed.flops, closed.params) != (measured, params):
        raise SearchkitError(
            f"the closed form says {closed.flops} MACs and {closed.params} parameters, "
            f"measured are {measured} and {params}",
            f"{_NOTHING} Does the backbone's plan name every layer that its forward runs?",
        )
    return {
        "macs": closed.flops,
        "macs_measured": measured,
        "params": closed.params,
        "params_counted": params,
        "input_shape": shape,
        "boxes": PROOF_BOXES,
    }


@torch.no_grad()
def measured_macs(net: Any, config: DetectorConfig, shape: InputShape) -> int:
    """Multiply-adds of conv and linear by torch's own counter: backbone, FPN and RPN on an image, RoI head on 1,000
    boxes."""
    h, w = (shape, shape) if isinstance(shape, int) else shape
    with FlopCounterMode(display=False) as counter:
        levels = list(net.backbone(torch.zeros(1, 3, h, w)).values())
        net.rpn.head(levels)
        net.roi_heads.box_predictor(
            net.roi_heads.box_head(torch.zeros(PROOF_BOXES, config.fpn_channels, config.roi_size, config.roi_size))
        )
    return int(counter.get_total_flops()) // 2


def sample_images(recipe: Recipe, count: int) -> tuple[list[Tensor], list[int]]:
    """(images, ids) of the first of data.val, else data.train; none where the config names no data."""
    from searchkit.data import coco, loader

    for name in ("val", "train"):
        if count > 0 and getattr(recipe.data, name) is not None:
            data = open_split(recipe.data, name)
            part = coco.subset(data, range(min(count, len(data.images))))
            images = [image for batch, _ in loader.eval_loader(part, 1, workers=0) for image in batch]
            return images, [info.id for info in part.images]
    return [], []


def _write(folder: str, name: str, text: str) -> None:
    with fsio.storage():
        fsio.write_new(os.path.join(folder, name), text.encode())


def _write_weights(folder: str, net: nn.Module) -> None:
    path = os.path.join(folder, "weights.safetensors")
    with fsio.storage():  # not by save_file, whose files nobody but their owner may read
        fsio.atomic_write(path, save({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}))


def _export(folder: str, net: Any, shape: InputShape) -> dict[str, Any]:
    """backbone.pt2: torch.export of backbone and FPN; says how far its output is from the module's."""
    h, w = (shape, shape) if isinstance(shape, int) else shape
    example = torch.zeros(1, 3, h, w)
    program = torch.export.export(net.backbone, (example,))
    torch.export.save(program, os.path.join(folder, "backbone.pt2"))
    again = torch.export.load(os.path.join(folder, "backbone.pt2")).module()
    x = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(net.backbone(x).values(), again(x).values(), strict=True)
        worst = max(float((a - b).abs().max()) for a, b in pairs)
    return {"file": "backbone.pt2", "input": [1, 3, h, w], "largest_difference": worst}
