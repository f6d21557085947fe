"""What a report says: from candidates, scored subnets, data and times to the sections of its page."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchkit import console
from searchkit.nas.report import bootstrap, figures, page, pictures, verdict
from searchkit.nas.report.bootstrap import Matches, Spread, spread_of
from searchkit.nas.report.candidates import CHOSEN_BY, INT8, MODEL, SHOWN_BY, Candidate, recommended
from searchkit.nas.report.figures import Plot, Point

SHOWN = 3  # candidates whose boxes are shown
MOST_SCORED = 2000  # points of a figure


@dataclass(frozen=True)
class Budget:
    """What a network may cost."""

    value: float
    meter: str  # macs, ms, or that of one of several devices
    text: str
    device: str = ""  # that of its meter


@dataclass(frozen=True)
class Stage:
    """How long a stage of the task took."""

    name: str
    jobs: int
    seconds: float
    command: str


@dataclass
class Inputs:
    """All that a report is made of; what is not there is said in it."""

    title: str
    candidates: Sequence[Candidate]
    budgets: Sequence[Budget] = ()
    scored: Sequence[Mapping[str, Any]] = ()  # records of the search
    data: Any = None  # the CocoSet that candidates were scored on
    stages: Sequence[Stage] = ()
    trust: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # the configs that made all of it: text by name
    task: str = ""  # of search-run, whose stages these are
    project: str = "."  # the folder that paths are shown from
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    seed: int = 0
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A whole page, its plots for a picture, and its sentences."""

    html: str
    plots: Sequence[Plot]
    sentences: Sequence[str]


def report(inputs: Inputs) -> Report:
    """Make it. What can't be said is among what is missing."""
    choices = [(budget, recommended(inputs.candidates, budget.value, budget.meter)) for budget in _budgets(inputs)]
    sentences = [_choice_text(inputs, budget, chosen) for budget, chosen in choices]
    matches = _matches(inputs)
    sentences += _paid(inputs, choices, matches)
    plots = _plots(inputs)
    best = [inputs.candidates.index(chosen) for _, chosen in choices if chosen is not None]
    sections = [page.lead(sentence) for sentence in sentences]
    sections += [
        _commands(inputs, choices),
        _front(plots),
        _table(inputs, best),
        _spreads(inputs, matches),
        _classes(inputs),
    ]
    sections += [_images(inputs, choices), _trust(inputs), _times(inputs), _repeat(inputs), _missing(inputs)]
    return Report(page.page(inputs.title, [s for s in sections if s]), plots, sentences)


def _budgets(inputs: Inputs) -> list[Budget]:
    return [*inputs.budgets] or [Budget(float("inf"), "macs", "any budget")]


def _choice_text(inputs: Inputs, budget: Budget, chosen: Candidate | None) -> str:
    on = f" on {inputs.device}" if inputs.device and not budget.device else ""
    if chosen is None:
        costs = [(cost, c) for c in inputs.candidates if (cost := c.cost(budget.meter)) is not None]
        cost, nearest = min(costs, key=lambda pair: pair[0], default=(0.0, None))
        shown = f"{page.amount(cost)}MACs" if budget.meter == "macs" else f"{cost:.1f} ms"
        also = f" The nearest is {nearest.name}, {shown}." if nearest is not None and cost > budget.value else ""
        return f"For {budget.text}{on}: no candidate is within it and has a score to be chosen by.{also}"
    tag = chosen.tag(CHOSEN_BY)
    chosen_on = chosen.split_of(tag) or tag
    ms = chosen.cost(budget.meter if budget.device else "ms")
    costing = f"{page.amount(chosen.macs)}MACs" + (f", {ms:.1f} ms" if ms is not None else "")
    shown = f"AP {page.number(chosen.ap)}" + (f" on {chosen.split}" if chosen.split else "")
    why = f"chosen by its AP on {chosen_on}, {page.number(chosen.worth)}"
    role = "" if chosen.name == chosen.role else f" ({chosen.role})"
    doubt = verdict.hardly_learnt([chosen])
    doubt = f" It is the best there is, but no recommendation: {doubt}." if doubt else ""
    small = _int8_text(inputs, budget, chosen)
    return f"For {budget.text}{on}: {chosen.name}{role}, {costing}; {shown}, {why}.{doubt}{small}"


def _int8_of(inputs: Inputs, budget: Budget, chosen: Candidate) -> Candidate | None:
    """Whose file of 8 bits is the one to take: of a budget in MACs the chosen one's; of a time the best, by the same
    AP, of those whose file is within it, for that may be a larger network. None where none has such a file."""
    if budget.meter not in ("ms", "ms_cpu"):
        return chosen if chosen.form(INT8) else None
    return recommended(inputs.candidates, budget.value, "ms_int8")


def _int8_text(inputs: Inputs, budget: Budget, chosen: Candidate) -> str:
    best = _int8_of(inputs, budget, chosen)
    if best is None:
        return ""
    form = best.form(INT8)
    ap = (
        f", AP {page.number(form['bbox_mAP'])}" + (f" on {best.split}" if best.split else "")
        if "bbox_mAP" in form
        else ""
    )
    ms = f" {best.ms_int8:.1f} ms" if best.ms_int8 is not None else ""
    whose = "it has" if best is chosen else f"{best.name} has"
    return f" With layers of 8 bits {whose}{ms}{ap}."


def _matches(inputs: Inputs) -> dict[str, list[Matches]]:
    """By candidate, what it found, for those whose detections were kept."""
    if inputs.data is None:
        inputs.missing.append("the images: without --config there are no boxes on images, and no spreads")
        return {}
    from searchkit.nas.data.coco_eval import Evaluator

    evaluator = Evaluator(inputs.data, "pycocotools")
    numbers = {image.file_id: image.id for image in inputs.data.images}
    labels = {number: label for label, (number, _) in enumerate(inputs.data.categories, 1)}
    out = {}
    for each in inputs.candidates:
        rows = each.detections()
        if rows is None:
            inputs.missing.append(f"detections of {each.name}: no found.json beside {each.path}")
            continue
        predictions: dict[int, dict[str, list[Any]]] = {}
        for row in rows:
            if row["image_id"] not in numbers or row["category_id"] not in labels:
                continue
            at = predictions.setdefault(numbers[row["image_id"]], {"boxes": [], "scores": [], "labels": []})
            x, y, w, h = row["bbox"]
            at["boxes"].append([x, y, x + w, y + h])
            at["scores"].append(row["score"])
            at["labels"].append(labels[row["category_id"]])
        out[each.name] = bootstrap.matches_of(evaluator.matches(predictions))
    return out


def _paid(
    inputs: Inputs, choices: Sequence[tuple[Budget, Candidate | None]], matches: Mapping[str, list[Matches]]
) -> list[str]:
    """Whether the search paid: its best beside each detector that it had to beat, at each budget."""
    out = []
    others = [c for c in inputs.candidates if c.role != "subnet"]
    if not others:
        inputs.missing.append("a baseline: nothing says whether the search paid")
    subnets = [c for c in inputs.candidates if c.role == "subnet"]
    for budget, _ in choices:
        own = recommended(subnets, budget.value, budget.meter)
        for other in others:
            if own is None or own.ap is None or other.ap is None:
                continue
            known = own.name in matches and other.name in matches
            both = (matches[own.name], matches[other.name]) if known else None
            images = len(inputs.data.images) if inputs.data is not None else 0
            within = (budget.value, budget.meter, budget.text)
            out.append(verdict.verdict(own, other, both, images, within, inputs.seed))
    return list(dict.fromkeys(out))


def _commands(inputs: Inputs, choices: Sequence[tuple[Budget, Candidate | None]]) -> str:
    lines = []
    for budget, chosen in choices:
        folder = None if chosen is None else chosen.beside(MODEL)
        if chosen is None or folder is None:
            continue
        shown = os.path.relpath(os.path.realpath(folder), os.path.realpath(inputs.project))
        lines += [
            f"# {budget.text}: {chosen.name}, from the folder of the project",
            f"cp -r {shlex.quote(shown)} detector",
            "search-nas predict detector IMAGES --out boxes",
            *(["python detector/infer.py IMAGE  # needs onnxruntime and numpy alone"] if chosen.form("onnx") else []),
        ]
        small = _int8_of(inputs, budget, chosen)
        file = None if small is None else small.beside(os.path.join(MODEL, str(small.form(INT8).get("file"))))
        if small is not None and file is not None:
            shown = os.path.relpath(os.path.realpath(file), os.path.realpath(inputs.project))
            lines += [
                f"# {budget.text}: {small.name} with layers of 8 bits",
                f"search-nas predict {shlex.quote(shown)} IMAGES --out boxes",
            ]
    return page.section("How to get it", page.code(lines)) if lines else ""


def _plots(inputs: Inputs) -> list[Plot]:
    plots: list[Plot] = []
    most = max((each.macs or 0 for each in inputs.candidates), default=0)
    in_macs = ("MACs (M)", 1e6) if most < 1e9 else ("MACs (G)", 1e9)
    on_devices = [(meter, f"ms of one image on {device}", 1.0) for meter, device in _devices(inputs).items()]
    for meter, title, unit in (("macs", *in_macs), *(on_devices or [("ms", "ms of one image", 1.0)])):
        points = []
        for record in inputs.scored[:MOST_SCORED]:
            each = Candidate("", "scored", record, "")
            cost = each.cost(meter)
            if cost is not None and each.ap is not None:
                points.append(Point(cost / unit, each.ap, "scored"))
        for each in inputs.candidates:
            cost = each.cost(meter)
            if cost is not None and each.ap is not None:
                points.append(
                    Point(cost / unit, each.ap, each.role if each.role in figures.COLOURS else "subnet", each.name)
                )
        if any(p.name for p in points):
            lines = [(b.value / unit, b.text) for b in inputs.budgets if b.meter == meter]
            plots.append((points, title, lines))
        else:
            inputs.missing.append(f"{title}: no candidate has both an AP and this cost")
    return plots


def _devices(inputs: Inputs) -> dict[str, str]:
    """The devices that budgets name, by their meters."""
    return {each.meter: each.device for each in inputs.budgets if each.device}


def _front(plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    kinds = {p.kind: figures.COLOURS[p.kind] for points, _, _ in plots for p in points}
    names = {"scored": "scored with the supernet's weights (on val)"}
    svgs = [figures.svg(points, title, "AP", lines) for points, title, lines in plots]
    return page.section("AP against cost", page.key({names.get(k, k): v for k, v in kinds.items()}), page.plots(svgs))


def _table(inputs: Inputs, best: Sequence[int]) -> str:
    head = [
        "candidate",
        "role",
        "input",
        "MACs",
        "params",
        "AP",
        "AP50",
        "AP chosen by",
        "ms fp32",
        "ms int8",
        "AP int8",
    ]
    devices = _devices(inputs)
    head += ["MB fp32", "MB int8", *(f"ms {device}" for device in devices.values())]
    rows = []
    for each in inputs.candidates:
        scores, float_file, int8 = each.scores(each.tag(SHOWN_BY)), each.form("onnx"), each.form(INT8)
        rows.append(
            [
                each.name,
                each.role,
                each.input,
                page.amount(each.macs).replace(" ", ""),
                page.amount(each.params).replace(" ", ""),
                page.number(each.ap),
                page.number(scores.get("bbox_mAP_50")),
                page.number(each.worth),
                page.number(each.ms, "{:.1f}"),
                page.number(int8.get("ms"), "{:.1f}"),
                page.number(int8.get("bbox_mAP")),
                page.number(_mb(float_file), "{:.1f}"),
                page.number(_mb(int8), "{:.1f}"),
                *(page.number(each.cost(meter), "{:.1f}") for meter in devices),
            ]
        )
    if not rows:
        inputs.missing.append("candidates: no record of a trained detector was given")
        return ""
    splits = sorted({each.split for each in inputs.candidates if each.split})
    machines = sorted({each.machine for each in inputs.candidates if each.machine})
    notes = [f"AP on {' and '.join(splits)}."] if splits else []
    notes += [f"ms: the median of one image at a time; {'; '.join(machines)}."] if machines else []
    if devices:
        notes.append(f"ms {' and '.join(devices.values())}: by the tables that were measured there.")
    if splits == ["val"]:
        notes.append("There is no test set: the AP is that by which was chosen, and so too good.")
    if not any(each.form(INT8) for each in inputs.candidates):
        inputs.missing.append("int8: no candidate was exported as onnx-int8")
    return page.section("All candidates", page.table(head, rows, best), page.text(" ".join(notes), "faint"))


def _mb(form: Mapping[str, Any]) -> float | None:
    return form["bytes"] / 1e6 if "bytes" in form else None


def _spreads(inputs: Inputs, matches: Mapping[str, list[Matches]]) -> str:
    if not matches:
        return ""
    images = len(inputs.data.images)
    spreads: dict[str, Spread] = {
        name: spread_of(each, None, images, seed=inputs.seed) for name, each in matches.items()
    }
    rows = [[name, page.number(s.value), f"{s.low:.3f} to {s.high:.3f}"] for name, s in spreads.items()]
    note = (
        f"Of {bootstrap.DRAWS} draws of the {images} images, with replacement, 95 of 100 lie in between. Another "
        "training with another seed is not in it."
    )
    return page.section(
        "How sure the APs are", page.table(["candidate", "AP", "spread"], rows), page.text(note, "faint")
    )


def _classes(inputs: Inputs) -> str:
    each = {c.name: _per_class(c) for c in inputs.candidates}
    names = list(dict.fromkeys(name for scores in each.values() for name in scores))
    if not names:
        inputs.missing.append("single classes: no record has bbox_AP/<class> (search-nas test --per-class)")
        return ""
    rows = [[name, *(page.number(_known(scores.get(name))) for scores in each.values())] for name in names]
    return page.section("AP of single classes", page.table(["class", *each], rows))


def _per_class(candidate: Candidate) -> dict[str, float]:
    begin = "bbox_AP/"
    scores = candidate.scores(candidate.tag(SHOWN_BY))
    return {name.removeprefix(begin): value for name, value in scores.items() if name.startswith(begin)}


def _known(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _images(inputs: Inputs, choices: Sequence[tuple[Budget, Candidate | None]]) -> str:
    """The same images with what is there, and with what three candidates find."""
    if inputs.data is None:
        return ""
    firsts = [chosen for _, chosen in choices if chosen is not None]
    firsts += [c for c in inputs.candidates if c.role != "subnet"] + [*inputs.candidates]
    shown = [c for c in dict.fromkeys(firsts) if c.beside("found.json")][:SHOWN]
    places = pictures.chosen(inputs.data)
    if not shown or not places:
        return ""
    objects = inputs.data.n_boxes
    parts = [page.text("What is there:")]
    parts.append(page.images([_picture(inputs, i, pictures.truth(inputs.data, i)) for i in places]))
    for each in shown:
        rows = each.detections() or []
        least = pictures.threshold(rows, objects)
        words = f"{each.name}, from a score of {least:.2f} on, with which it draws as many boxes as there are objects:"
        found = [(i, pictures.found(inputs.data, i, rows, least)) for i in places]
        parts += [page.text(words), page.images([_picture(inputs, i, boxes) for i, boxes in found])]
    colours = {name: pictures.COLOURS[k % len(pictures.COLOURS)] for k, name in enumerate(inputs.data.names)}
    return page.section("On the same images", page.key(colours), *parts)


def _picture(inputs: Inputs, i: int, boxes: Sequence[tuple[Sequence[float], int]]) -> tuple[str, str]:
    return pictures.drawn(inputs.data, i, boxes), os.path.basename(inputs.data.images[i].path)


def _trust(inputs: Inputs) -> str:
    if inputs.trust is None:
        inputs.missing.append(
            "how far to trust the supernet's scores: no report of search-nas trust was given (--trust)"
        )
        return ""
    tau = inputs.trust.get("tau", {})
    rows = [[name, page.number(each.get("all")), page.number(each.get("p"), "{:.3g}")] for name, each in tau.items()]
    said = str(inputs.trust.get("why") or inputs.trust.get("verdict", ""))
    return page.section(
        "How far to trust the supernet's scores",
        page.table(["score", "Kendall's tau with trainings alone", "p"], rows),
        page.text(said) if said else "",
    )


def _times(inputs: Inputs) -> str:
    if not inputs.stages:
        inputs.missing.append("how long what took: no task of search-run was named (--task)")
        return ""
    rows = [[s.name, str(s.jobs), console.span(s.seconds)] for s in inputs.stages]
    rows.append(["all", str(sum(s.jobs for s in inputs.stages)), console.span(sum(s.seconds for s in inputs.stages))])
    return page.section("How long it took", page.table(["stage", "jobs", "time"], rows))


def _repeat(inputs: Inputs) -> str:
    """What made all of it: configs, seeds, digests, versions."""
    rows = [["seed", str(inputs.seed)], *([name, version] for name, version in inputs.versions.items())]
    protocols = {c.name: c.record.get("protocol", {}).get(c.tag(SHOWN_BY), {}) for c in inputs.candidates}
    datas = dict.fromkeys(str(protocol["data"]) for protocol in protocols.values() if "data" in protocol)
    rows += [["data, by its digest", ", ".join(datas)]] if datas else []
    rows += [[f"weights of {name}", str(p["checkpoint"])[:16]] for name, p in protocols.items() if "checkpoint" in p]
    parts = (
        [page.code([f"search-run --task {inputs.task} {shlex.quote(name)}" for name in inputs.files][:1])]
        if inputs.task
        else []
    )
    parts += [page.details(name, words) for name, words in inputs.files.items()]
    if inputs.stages:
        parts.append(page.details("the commands of its stages", "\n\n".join(s.command for s in inputs.stages)))
    return page.section("How to repeat it", *parts, page.table(["what", "value"], rows))


def _missing(inputs: Inputs) -> str:
    items = dict.fromkeys(inputs.missing)
    return page.section("What is missing here", page.bullets(items)) if items else ""
