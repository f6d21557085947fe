"""search-nas extract."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas.cli.chosen import Chosen, choose, said_of, statistics_of
from searchkit.nas.cli.options import Options, count_threads, device_of, recipe_of, say, shared, takes
from searchkit.nas.cli.records import is_shown
from searchkit.nas.export.table import FORMS, SCORED, Wishes
from searchkit.nas.graph.needs import OPSET


@dataclass(frozen=True)
class Cut(Options):
    """What names a subnet that is cut out, and says how."""

    checkpoint: str | None
    arch: str | None
    metric: str | None
    shape: str | None
    out: str
    raw: bool
    calibrate: bool
    again: bool
    opset: int
    threads: int
    record: str | None
    count: int


@dataclass(frozen=True)
class Extract(Cut):
    config: str
    forms: tuple[str, ...]


CUT = (
    click.option(
        "--arch", metavar="ARCH", help="A name (MAX, R50), an arch as JSON, or a file of records (its best, or first)."
    ),
    click.option("--metric", metavar="NAME", help="Which metric.… of the file makes a record the best."),
    click.option(
        "--input", "shape", metavar="S|H,W", help="Input shape.  [default: the record's, else the space's first]"
    ),
    click.option("--out", required=True, metavar="DIR", help="A new folder."),
    click.option("--raw", is_flag=True, help="Keep the batch-norm statistics of the checkpoint: no score is of them."),
    click.option(
        "--calibrate", is_flag=True, help="By the config's test section, whatever the record says; a tuned subnet, too."
    ),
    click.option(
        "--score/--no-score", "again", default=True, help="Measure the record's score again.  [default: score]"
    ),
)
WRITTEN = (
    click.option("--opset", type=int, default=OPSET, show_default=True, metavar="N", help="Of ONNX files."),
    click.option(
        "--threads",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        metavar="N",
        help="That the time of ONNX files is measured with.",
    ),
    click.option(
        "--record",
        metavar="FILE",
        help="Append the arch's record with what its ONNX files score and take (as `files`).",
    ),
    click.option(
        "--images",
        "count",
        type=click.IntRange(0),
        default=4,
        show_default=True,
        help="Real images that the proof compares on.",
    ),
)


def several(*options: Any) -> Any:
    """Decorate a verb with these options, in order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("extract", context_settings=console.CONTEXT)
@click.argument("config")
@several(
    *CUT,
    click.option(
        "--export",
        "forms",
        multiple=True,
        type=click.Choice([*FORMS]),
        help="Also write it as a file for other runtimes; may be given several times. torch: by torch.export (of a "
        "detector all before its anchors or regions). onnx: the whole network, from an image to its boxes. onnx-int8: "
        "that with weights and activations of 8 bits (search-nas quantize has more of it).",
    ),
    *WRITTEN,
)
@shared("checkpoint", "set", "seed", "device", "json")
@takes(Extract)
def extract_command(asked: Extract) -> None:
    """Make one subnet an ordinary model of torch in a folder of its own, which needs no searchkit.

    The checkpoint is a supernet's, or the one of a fine-tuned subnet (then --arch may be left out). Of a supernet the
    batch-norm statistics are calibrated as for the record's score, without a record as the config's test section says.
    The folder's proof says that its outputs equal the source's bit for bit, that its cost in closed form is the
    measured one, and what it scores beside what its record says.

    \b
    Examples:
      search-nas extract cfg.yaml --checkpoint work/latest.pth --arch R50 --out model
      search-nas extract cfg.yaml --checkpoint work/latest.pth --arch t.jsonl --metric metric.direct.my_bbox_mAP --out m
      search-nas extract cfg.yaml --checkpoint finetune/best/latest.pth --out model
    """
    if asked.record is not None and not {*SCORED} & {*asked.forms}:
        raise UsageError("--record keeps what exported files score, but none is asked for", "Add --export onnx")
    recipe, seed = recipe_of(asked.config, asked.overrides), asked.seed_used
    chosen, proof = cut_out(asked, recipe, seed, Wishes(asked.forms, asked.opset, asked.threads))
    told(asked, chosen.arch, chosen.shape, chosen.record, proof)


def cut_out(asked: Cut, recipe: Any, seed: int, wishes: Wishes) -> tuple[Chosen, dict[str, Any]]:
    """Write the folder of a subnet; (which one it is, the proof)."""
    if asked.raw and asked.calibrate:
        raise UsageError("--raw and --calibrate exclude each other")
    from searchkit.nas.subnet import extract as extraction
    from searchkit.nas.train.memory import memory_advice, require_memory
    from searchkit.nas.train.splits import section_of

    count_threads()
    assert asked.checkpoint is not None
    source, where = extraction.open_source(recipe, asked.checkpoint, seed), device_of(asked.device)
    chosen = choose(asked.arch, asked.metric, recipe, source, asked.shape)
    require_memory(recipe, [(chosen.arch, chosen.shape)], recipe.test.batch_size, where)
    with memory_advice("extract"):
        statistics, score = statistics_of(recipe, source, chosen, raw=asked.raw, calibrate=asked.calibrate, seed=seed)
        recipe, bench = statistics.recipe, None
        of_files = {*SCORED} & {*wishes.forms} and section_of(recipe, recipe.test.split) is not None
        if asked.again and (score is not None or of_files):
            bench = extraction.open_again(recipe, where, seed)
        if bench is not None and score is not None:
            source = extraction.for_classes(source, recipe, bench.categories, seed)
        elif bench is not None and bench.categories != source.categories:
            say(f"note: the files are not scored: {bench.evaluated.source} has other classes than {asked.checkpoint}")
            bench = None
        trained = source.reading
        source = extraction.read_as_scored(source, recipe, statistics, bench)
        if None not in (trained.range, source.reading.range) and trained.range != source.reading.range:
            say(f"note: deep greys are scaled from {source.reading.text()}; the network learnt from {trained.text()}")
        images, ids = extraction.sample_images(recipe, asked.count, chosen.shape)
        proof = extraction.extract(
            source,
            recipe,
            chosen.arch,
            chosen.shape,
            asked.out,
            images=images,
            image_ids=ids,
            statistics=statistics,
            score=score,
            bench=bench,
            wishes=wishes,
            seed=seed,
            device=where,
        )
    return chosen, proof


def told(asked: Cut, arch: Any, shape: Any, record: Mapping[str, Any] | None, proof: dict[str, Any]) -> None:
    """Keep the record of a folder that was written, and say what is in it."""
    from searchkit.nas.facts import extract_facts
    from searchkit.nas.subnet.exported import keep_record, record_of

    if asked.record is not None:
        keep_record(asked.record, record_of(record, arch, shape, proof, asked.out))
    if asked.as_json:
        console.print_json(extract_facts(asked.out, arch, proof))
        return
    click.echo(f"arch: {arch.text()}  input {shape}")
    _print_proof(proof)
    click.echo(f"{asked.out}: " + ", ".join(sorted(os.listdir(asked.out))))


def _print_proof(proof: dict[str, Any]) -> None:
    equal, cost = proof["equal"], proof["cost"]
    boxes = f" ({equal['boxes_compared']} boxes)" if "boxes_compared" in equal else ""
    images = console.counted(len(equal["images"]), "image")
    outputs = "levels and boxes" if boxes else "features and scores"
    click.echo(f"equal bit for bit to the source: {outputs} on random input and on {images}{boxes}")
    click.echo(
        f"MACs: {cost['macs']:,} in closed form, {cost['macs_measured']:,} measured; parameters {cost['params']:,}"
    )
    if not equal["images"]:
        say("note: no real image was compared")
    click.echo(said_of(proof["statistics"], proof.get("calibrated", {}).get("images", 0)))
    if "score" in proof:
        _print_score(proof["score"])
    for form, file in proof.get("files", {}).items():
        _print_file(form, file)


def _print_file(form: str, file: Mapping[str, Any]) -> None:
    """What one of the other files computes."""
    if form == "torch":
        click.echo(f"{file['file']}: differs by up to {file['largest_difference']:g}")
        return
    click.echo(f"{file['file']}: {_agreement(file['agrees'])}")
    for note in file.get("notes", ()):
        say(f"note: {file['file']} was {note}")
    speed = f"{file['ms']:.2f} ms an image on {console.counted(file['threads'], 'thread')} of {file['device']}"
    click.echo(f"  {file['bytes'] / 1e6:.2f} MB, {speed}")
    if "calibrated" in file:
        click.echo(f"  {_rounded(file)}")
        for line in (*trained_lines(file), *sensitivity_lines(file)):
            click.echo(f"  {line}")
    apart = file.get("score_difference", {})
    shown = [f"{name} {file['score'][name]:.4f} ({apart[name]:+.4f})" for name in apart if is_shown(name)]
    if shown:
        numbers = "  ".join(shown)
        click.echo(f"  score on {file['split']} in fp32, and how it differs from that of torch: {numbers}")


def _rounded(file: Mapping[str, Any]) -> str:
    """What of an int8 file is of 8 bits, in words."""
    images = console.counted(file["calibrated"]["images"], "training image")
    how = "ranges" if file.get("method", "minmax") == "minmax" else f"ranges by {file['method']}"
    ranges = f"activations {file['activations']} ({how} of {images}), weights {file['weights']}"
    faster = f"; {file['times_faster']:.2f} times as fast as model.onnx" if "times_faster" in file else ""
    can = f" (the processor has {', '.join(file['processor'])})" if file["processor"] else ""
    more = f", and {len(kept)} more" if (kept := file.get("kept_float")) else ""
    return f"{ranges}; the last layers ({file['float_layers']}{more}) are float{faster}{can}"


def trained_lines(file: Mapping[str, Any]) -> list[str]:
    """How an int8 file's network was trained with its roundings; empty where it was not."""
    if "trained" not in file:
        return []
    said = file["trained"]
    apart, steps = said["file"], console.counted(said.get("steps", 0), "step")
    left = f"; {console.counted(said['left'], 'operator')} that it can't follow left float" if said["left"] else ""
    score = "  ".join(f"{name} {value:.4f}" for name, value in said.get("score", {}).items() if is_shown(name))
    lines = [
        f"trained with these roundings for {steps}, scales {said['scales']}{left}",
        f"the file is within {apart['steps_apart']:.2g} steps of 8 bits of that network (mean "
        f"{apart['mean_steps_apart']:.2g}), its outputs within {apart['predictions_apart']:.2g} of the largest",
    ]
    return [*lines, f"that network scores {score}"] if score else lines


SHOWN = 12  # rows of the table of layers


def sensitivity_lines(file: Mapping[str, Any]) -> list[str]:
    """The table of layers of an int8 file, most sensitive first; empty where it was not measured."""
    rows, kept = file.get("sensitivity", ()), set(file.get("kept_float", ()))
    if not rows:
        return []
    whole = sum(row["error"] for row in rows) or 1.0
    wide = max(len(row["layer"]) for row in rows[:SHOWN])
    lines = [f"{'layer, rounded alone':{wide}}  noise in the outputs  of all layers'"]
    for row in rows[:SHOWN]:
        noise = f"{-10 * math.log10(row['error']):.1f} dB below" if row["error"] else "none"
        stays = "  stays float" if row["layer"] in kept else ""
        lines.append(f"{row['layer']:{wide}}  {noise:>20}  {row['error'] / whole:>14.1%}{stays}")
    if len(rows) > SHOWN:
        lines.append(f"… and {len(rows) - SHOWN} more (proof.json has all)")
    if not kept:
        lines.append("none stays float: no layer moves the outputs much more than the others")
    return lines


def _agreement(agrees: Mapping[str, Any]) -> str:
    """How a file and the network of torch agree, in words."""
    noise = " and noise" if agrees["noise"] else ""
    where = f"{console.counted(agrees['images'], 'image')}{noise}, at " + ", ".join(map(str, agrees["input_shapes"]))
    if "boxes" not in agrees:
        return f"scores differ from torch's by up to {agrees['largest_difference']:.2g} of the largest ({where})"
    apart = f"up to {agrees['largest_distance_px']:.2g} px and {agrees['largest_score_difference']:.2g} in score"
    alone = agrees["boxes_of_one_alone"] + agrees["at_the_cut"]
    others = f", {alone} found by one of the two alone" if alone else ""
    least = agrees["tolerance"]["least"]
    told = f" that score {least:g} or more" if least else ""
    return f"{agrees['boxes']} boxes{told} are torch's within {apart}{others} ({where})"


def _print_score(score: Mapping[str, Any]) -> None:
    """What the folder scores, and what the record says."""
    record, measured = score["record"], score["measured"]
    if score["equal"]:
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in measured.items() if is_shown(name))
        click.echo(f"score of the folder on {score['split']}: {numbers}, equal to the record's metric.{score['tag']}")
        return
    other = [name for name in measured if name in record and record[name] != measured[name]] or list(measured)
    lines = [f"{name} {measured[name]:.6f}, the record has {record.get(name, 'none')}" for name in other]
    why = "; ".join(score["differs"]) or "nothing that is known explains it"
    say(f"the score of the folder on {score['split']} is not that of the record's metric.{score['tag']}:")
    for line in [*lines, f"({why})"]:
        say(f"  {line}")
