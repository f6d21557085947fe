"""Initial weights from a file: a detector's, a classifier's or a backbone's, of the same sizes or smaller ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.models.backbones import mobilenet_plan, shufflenet_plan
from searchkit.nas.nn import window

ELASTIC = "backbone."  # below it a tensor may be larger than the file's; each row of a head has its own meaning
TORCHVISION = "torchvision:"  # in front of a model's name, in place of a file
WITH_WEIGHTS = ("resnet*", "mobilenet_v2", "shufflenet_v2*", "*fasterrcnn_resnet*")
BODY = "backbone.body."  # of a detector; a classifier has its backbone's tensors right below ELASTIC
CLASSIFIER = "fc."  # its last layer, in torchvision's files too
# Names of files written by torchvision before 0.14.
OLD_NAMES = (
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)


@dataclass(frozen=True)
class Loaded:
    """The outcome for the tensors of a file and of the network: names, each in one of four groups."""

    whole: tuple[str, ...]  # of the network, taken over as they are
    partly: tuple[str, ...]  # of the network, larger than in the file: the first channels and the centres are filled
    kept: tuple[str, ...]  # of the network, not filled: they keep their initial values
    unused: tuple[str, ...]  # of the file, each with the reason

    def text(self) -> str:
        """One line for a log."""
        counts = f"{len(self.whole)} tensors filled, {len(self.partly)} in part, {len(self.kept)} left as they were"
        first = ", ".join(self.unused[:3]) + (", ..." if len(self.unused) > 3 else "")
        return f"{counts}; of the file {len(self.unused)} unused" + (f": {first}" if self.unused else "")


def load_init(net: nn.Module, path: str) -> Loaded:
    """Fill a network from a file of tensors: `torch.save` of a state dict, or .safetensors. Nothing in it is executed.

    Takes state dicts of this package, of torchvision's fasterrcnn_resnet50_fpn, and of a backbone, alone or with its
    last layer: torchvision's resnet50, mobilenet_v2, shufflenet_v2_x1_0. The backbone of a classifier fits a detector,
    and the other way round. Where the backbone is wider or has larger kernels than the file, the leading slices (and
    the centres) are filled: at the file's own architecture the network then computes what the file's did. Further
    channels, further blocks, and heads of other sizes (another number of classes) keep their values.
    Raises UsageError where the file can't be read or nothing in it fits.
    """
    own = dict(net.state_dict())
    tensors = _placed({_name(name): value for name, value in read_tensors(path).items()}, own)
    whole, partly, unused = [], [], []
    for name, value in tensors.items():
        into = own.get(name)
        if into is None:
            if not name.endswith("num_batches_tracked"):  # frozen norms have none
                unused.append(f"{name} (no such tensor in the network)")
        elif into.shape == value.shape:
            into.copy_(value)
            whole.append(name)
        elif (name.startswith(ELASTIC) or _wider(name, value, into)) and _within(value, into):
            window(into, value.shape).copy_(value)
            partly.append(name)
        else:
            unused.append(f"{name} ({_size(value)} there, {_size(into)} here)")
    if not whole and not partly:
        hint = "It must hold a state dict of a network with this backbone, or of the backbone alone."
        raise UsageError(f"{path}: none of its {len(tensors)} tensors fits into the network", hint)
    filled = {*whole, *partly}
    kept = tuple(name for name in own if name not in filled and not name.endswith("num_batches_tracked"))
    return Loaded(tuple(whole), tuple(partly), kept, tuple(unused))


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; the state dict of a checkpoint that holds one under a usual key.

    `torchvision:resnet50` stands for torchvision's own weights of that model.
    """
    if path.startswith(TORCHVISION):
        return _of_torchvision(path.removeprefix(TORCHVISION))
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror or e}", "Correct the path.") from e
    except Exception as e:  # torch and safetensors raise many kinds for a file that is no such file
        hint = "Save a plain state dict: torch.save(net.state_dict(), path)."
        raise UsageError(f"{path} is no file of tensors: {str(e).splitlines()[0]}", hint) from e
    for key in ("state_dict", "model", "net"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    tensors = {k: v for k, v in data.items() if isinstance(v, Tensor)} if isinstance(data, Mapping) else {}
    if not tensors:
        raise UsageError(f"{path} holds no state dict", "Save one with torch.save(net.state_dict(), path).")
    return tensors


def _of_torchvision(name: str) -> dict[str, Tensor]:
    """The weights that torchvision has by default for a model of that name; downloaded once, then kept by torch.hub."""
    from torchvision import models

    names = models.list_models(include=WITH_WEIGHTS)
    if name not in names:
        hint = f"There are {', '.join(names)}"
        raise UsageError(f"torchvision has no weights for a {name!r} that fit here{did_you_mean(name, names)}", hint)
    try:
        tensors: dict[str, Tensor] = models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
    except OSError as e:
        raise UsageError(
            f"cannot download torchvision's {name}: {e}", "Save its state dict elsewhere, and name the file"
        ) from e
    return tensors


def _name(name: str) -> str:
    """As the network names it today: without the prefix of DataParallel, and not as old versions did."""
    name = name.removeprefix("module.")
    for pattern, new in OLD_NAMES:
        name = pattern.sub(new, name)
    return name


def _placed(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by the names that they would have in the network."""
    body = BODY if any(name.startswith(BODY) for name in own) else ELASTIC
    if not any(name.startswith(ELASTIC) for name in tensors):  # a backbone's, perhaps with a last layer
        if not any(body + name in own for name in tensors if not name.startswith(CLASSIFIER)):
            new = mobilenet_plan.from_torchvision(tensors) or shufflenet_plan.from_torchvision(tensors)
            tensors = {new.get(name, name): value for name, value in tensors.items()}
        return {name if name in own else body + name: value for name, value in tensors.items()}
    prefix = BODY if any(name.startswith(BODY) for name in tensors) else ELASTIC
    return {body + name[len(prefix) :] if name.startswith(prefix) else name: value for name, value in tensors.items()}


def _wider(name: str, value: Tensor, into: Tensor) -> bool:
    """Whether this is a classifier's last layer, with as many classes, on a narrower feature."""
    return name.startswith(CLASSIFIER) and value.dim() == into.dim() == 2 and value.shape[0] == into.shape[0]


def _within(value: Tensor, into: Tensor) -> bool:
    if value.dim() != into.dim() or any(a > b for a, b in zip(value.shape, into.shape, strict=True)):
        return False
    return all((b - a) % 2 == 0 for a, b in zip(value.shape[2:], into.shape[2:], strict=True))


def _size(t: Tensor) -> str:
    return "x".join(map(str, t.shape)) or "one number"
