"""Options that several verbs share, and what they mean."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console, cpus, fonts
from searchkit.errors import UsageError
from searchkit.nas.space.shapes import among

Command = Callable[..., Any]


def shared(*names: str) -> Callable[[Command], Command]:
    """Decorate a verb with these of the shared options, in order."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = OPTIONS[name](command)
        return command

    return add


OPTIONS: dict[str, Callable[[Command], Command]] = {
    "set": click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value of the config: train.lr=0.01."
    ),
    "seed": click.option("--seed", type=int, help="[default: $SEARCHKIT_SEED, else 0]"),
    "device": click.option("--device", help="cpu, cuda, cuda:1 …  [default: a GPU where there is one]"),
    "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead."),
    "split": click.option(
        "--split",
        type=click.Choice(["val", "test", "train", "held_out"]),
        help="That archs are scored on.  [default: test.split of the config]",
    ),
    "checkpoint": click.option("--checkpoint", required=True, metavar="FILE", help="The supernet's weights."),
}


@dataclass(frozen=True)
class Options:
    """What all verbs that run networks are given; each has a class of its own with the rest."""

    overrides: tuple[str, ...]
    seed: int | None
    device: str | None
    as_json: bool

    @property
    def seed_used(self) -> int:
        return seed_of(self.seed)


def takes(options: type[Options]) -> Callable[[Command], Command]:
    """Decorate a verb that takes one value of these options, whose fields are named as click's parameters."""

    def add(verb: Command) -> Command:
        @functools.wraps(verb)
        def command(**given: Any) -> Any:
            return verb(options(**given))

        return command

    return add


def seed_of(seed: int | None) -> int:
    """The given seed, else the job's."""
    if seed is not None:
        return seed
    text = os.environ.get("SEARCHKIT_SEED", "0")
    return int(text) if text.lstrip("-").isdecimal() else 0


def recipe_of(config: str, overrides: tuple[str, ...]) -> Any:
    """The recipe of a config. Verbs that run networks ask for it before they import torch, which takes seconds: a
    config with faults is refused at once."""
    from searchkit.nas.tasks import read

    return read.load(config, overrides)


def input_shape_of(text: str, known: Collection[Any] = ()) -> Any:
    """The input shape that --input says: S or H,W; known: those of the space."""
    words = text.split(",")
    if len(words) > 2 or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--input must be a short edge S, or H,W, in pixels, not {text!r}", "Such as --input 224")
    return int(text) if len(words) == 1 else among([int(word) for word in words], known)


def count_threads() -> None:
    """Give torch no more threads than there are CPUs for us, unless OMP_NUM_THREADS says how many it has: it does not
    see the quota of a container."""
    import torch

    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), cpus.usable()))


def device_of(name: str | None) -> Any:
    """The torch device of that name; without one, or without its number, the GPU of this process (torchrun's local
    rank); else the CPU, on as many threads as `count_threads` says."""
    import torch

    count_threads()

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if name == "cuda":  # set_device must be told which
                device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK') or torch.cuda.current_device()}")
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as e:
        raise _no_device(name, str(e)) from e
    return device


def check_device(name: str) -> None:
    """Raises UsageError for a device that there can't be. CUDA is not begun: that is for other processes to do."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise _no_device(name, str(e)) from e
    if device.type == "cuda" and not torch.cuda.is_available():
        raise _no_device(name, "PyTorch finds no GPU here")


def _no_device(name: str, why: str) -> UsageError:
    return UsageError(f"--device {name}: {why.splitlines()[0]}", "Use cpu, or a GPU that nvidia-smi shows")


def ranks_of() -> Any:
    """Who we are among torchrun's processes, for verbs that share archs out over them, and nothing else."""
    from searchkit.nas.train.distributed import Ranks

    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def show_kept(keep: str, work_dir: str) -> None:
    """Let `work_dir` lead to where checkpoints are kept, if that is elsewhere."""
    from searchkit.nas.train import checkpoint

    if os.path.abspath(keep) == os.path.abspath(work_dir):
        return
    if os.path.isdir(work_dir) and not os.path.islink(work_dir):
        say(f"{work_dir} is a folder of its own: the checkpoints are in {keep}")
    elif os.path.isdir(keep):
        checkpoint.link(keep, work_dir)


def say(text: str) -> None:
    """One line for people: on stderr, so that stdout stays for results."""
    click.echo(console.one_line(text), err=True)


def tell(text: str) -> None:
    """One line of results, on stdout."""
    click.echo(console.one_line(text))


def save_picture(figure: Any, path: str) -> None:
    """Write a figure of matplotlib's; letters that no font has are said, once. Raises UsageError for a file whose
    ending is of no picture, or that can't be written."""
    lacking = fonts.spell(figure)
    try:
        with fonts.quiet():
            figure.savefig(path, dpi=150)
    except (ValueError, OSError) as e:
        why = getattr(e, "strerror", None) or e
        raise UsageError(f"can't write the picture {path}: {why}", "Give a file such as picture.png") from e
    if said := fonts.note(lacking):
        say(f"note: {said}")
