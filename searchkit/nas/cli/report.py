"""search-nas report."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.cli.options import save_picture, say, seed_of, shared


@click.command("report", context_settings=console.CONTEXT)
@click.argument("records", nargs=-1)
@click.option("--out", required=True, metavar="FILE", help="The page, .html.")
@click.option("--png", metavar="FILE", help="The figure of AP against cost, as a picture.")
@click.option("--config", metavar="FILE", help="The config: its images are shown, and APs get a spread.")
@click.option(
    "--split", type=click.Choice(["test", "val"]), help="That the shown APs are of.  [default: test, where it is given]"
)
@click.option("--scored", multiple=True, metavar="FILE", help="Records of a search, shown behind the candidates.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="COST",
    help="'2 GMACs', '20 ms', 'cpu:20 ms' (of overhead.ms_cpu); several times for several.",
)
@click.option("--trust", metavar="FILE", help="What search-nas trust --json has printed.")
@click.option("--task", metavar="NAME", help="Whose stages took how long.  [default: of a stage its own task]")
@click.option("--title", metavar="TEXT", help="[default: the data's name]")
@shared("set", "seed", "json")
def report_command(
    records: tuple[str, ...],
    out: str,
    png: str | None,
    config: str | None,
    split: str | None,
    scored: tuple[str, ...],
    budgets: tuple[str, ...],
    trust: str | None,
    task: str | None,
    title: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    as_json: bool,
) -> None:
    """Make one page of HTML, which fetches nothing, of candidates: which is best for a budget, and whether it paid.

    RECORDS are files, or folders in which all candidate.jsonl are taken; `plain=FILE` and `pretrained=FILE` name the
    role of records that name none (else: subnet). Beside a file, found.json (search-nas test --detections) gives boxes
    on images and spreads. What is missing is said.

    \b
    Examples:
      search-nas report tuned.jsonl plain=plain.jsonl --config net.yaml --out report.html --png report.png
      search-nas report jobs/all plain=plain --budget '2 GMACs' --task det --out report.html
    """
    from searchkit.nas.report import candidates, figures, make
    from searchkit.nas.setup.budget import read_budget

    if not out.endswith((".html", ".htm")):
        raise UsageError(f"--out must be an .html file, not {out}")
    asked = [read_budget(text) for text in dict.fromkeys(budgets)]
    read = candidates.read_candidates(records)
    data, name = (None, "") if config is None else _data(config, overrides, split)
    device = next((machine for each in read.candidates if (machine := each.machine)), "")
    of_task = _task(task, read.missing)
    inputs = make.Inputs(
        title=title or f"Detectors{f' for {name}' if name else ''}",
        candidates=read.candidates,
        budgets=[make.Budget(each.value, each.unit, each.text, each.device) for each in asked],
        scored=_scored(scored, read.missing),
        data=data,
        stages=_stages(of_task),
        trust=_trust(trust, read.missing),
        files=_files(config, of_task),
        task=of_task.name if of_task else "",
        project=_project(),
        versions=_versions(),
        device=", ".join(device.split(", ")[:2]),  # its name, and how many threads
        seed=seed_of(seed),
        missing=read.missing,
    )
    made = make.report(inputs)
    with fsio.storage():
        fsio.atomic_write(out, made.html)
    if png:
        save_picture(figures.picture(made.plots, "AP"), png)
    if as_json:
        console.print_json({"out": out, "png": png, "sentences": made.sentences, "missing": inputs.missing})
        return
    for sentence in made.sentences:
        click.echo(sentence)
    for item in dict.fromkeys(inputs.missing):
        say(f"missing: {item}")
    click.echo(f"report: {out}, {console.size(len(made.html.encode()))}" + (f"; picture: {png}" if png else ""))


def _data(config: str, overrides: tuple[str, ...], split: str | None) -> tuple[Any, str]:
    """(the set that the candidates were scored on, its name)."""
    from searchkit.nas.tasks import read as configs
    from searchkit.nas.train.splits import open_split

    recipe = configs.load(config, overrides)
    if recipe.task.name != "det":
        raise UsageError(
            f"{config} is of task {recipe.task.name}: a report is of detectors", "Give a detector's config"
        )
    which = split or ("test" if recipe.data.test is not None else "val")
    return open_split(recipe, which), recipe.data.name


def _scored(paths: tuple[str, ...], missing: list[str]) -> list[dict[str, Any]]:
    from searchkit.nas.cli.records import read

    records = []
    for path in paths:
        if os.path.exists(path):
            records += read(path)
        else:
            missing.append(f"scored subnets: there is no {path}")
    return records


def _trust(path: str | None, missing: list[str]) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except (OSError, ValueError) as e:
        missing.append(f"trust: {path} can't be read: {e}")
        return None


def _task(name: str | None, missing: list[str]) -> Any:
    """The task of that name, else the one that this is a stage of; None where there is none."""
    name = name or os.environ.get("SEARCHKIT_TASK", "").partition(".")[0]
    if not name:
        return None
    import searchkit

    try:
        return searchkit.open(".").task(name)
    except SearchkitError as e:
        missing.append(f"how long what took: {e.message}")
        return None


def _stages(task: Any) -> list[Any]:
    """How long the stages of a task took, those that have ended."""
    from searchkit.nas.report.make import Stage

    stages = []
    for each in (task.stages or (task,)) if task else ():
        spans = [(job.start_s, job.end_s) for job in each.jobs if job.start_s is not None and job.end_s is not None]
        if spans:
            taken = max(end for _, end in spans) - min(begin for begin, _ in spans)
            stages.append(Stage(each.name.partition(".")[2] or each.name, len(spans), taken, each.jobs[0].command))
    return stages


def _files(config: str | None, task: Any) -> dict[str, str]:
    """The configs that made all of it, by name: the task's, that of its networks, and those beside it that the task's
    names."""
    folder = os.path.dirname(config or "") or "."
    beside = [name for name in sorted(os.listdir(folder)) if name.endswith((".yaml", ".yml"))] if config else []
    there = {
        os.path.normpath(os.path.join(folder, name)): fsio.read_bytes(os.path.join(folder, name)) for name in beside
    }
    whole = (fsio.read_bytes(os.path.join(task.path, "run_config.yaml")) if task else None) or b""
    own = next((path for path, text in there.items() if text == whole), "cfg.yaml")  # as it was run by
    texts = {own: whole} if whole else {}
    for path, text in there.items():
        name = os.path.basename(path)
        if name == os.path.basename(config or "") or (name.encode() in whole and path not in texts):
            texts[path] = text or b""
    return {name: text.decode(errors="replace") for name, text in texts.items() if text}


def _project() -> str:
    """The folder that paths are shown from: the project's, if this is in one."""
    from searchkit.suite.workspace import find

    try:
        return os.path.dirname(find(os.getcwd()).root)
    except SearchkitError:
        return os.getcwd()


def _versions() -> dict[str, str]:
    """What the versions of packages are, without loading them."""
    from importlib import metadata

    out = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("searchkit", "torch", "torchvision", "onnxruntime"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out
