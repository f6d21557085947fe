"""The stages of a config as text: cfg.yaml. No torch."""

from __future__ import annotations

from searchkit.nas.setup.schedule import FINALISTS
from searchkit.nas.setup.write import Made, Target, comment, plain_options, quoted


def config_text(made: Made) -> str:
    """cfg.yaml."""
    training, times, why = made.training, made.times, made.why
    budgets = " and ".join(budget.text for budget, _ in made.budgets)
    split = "test" if "test" in made.facts.files else "val"
    population = max(6, times.evaluations // 5)
    finalists = FINALISTS * len(made.budgets)
    workers = "" if training.gpu else f" --workers {training.cores}"
    speed = "" if training.forms else " --speed"  # of files that are exported it is measured there
    score = f"--split {split} --tag test --per-class{speed} --detections found.json --out candidate.jsonl"
    cost, priced = " and ".join(each.meter for each in made.timed) or "MACs", _priced(made, "ms")
    objectives = "".join(f" --objective {each.meter}" for each in made.timed)
    exports = "".join(f" --export {form}" for form in training.forms)
    metric, extracted = f"--metric metric.test.{made.metric}", f"--out model{exports}"
    then = ", and once on test" if split == "test" else "; there is no test set, so that is what is reported, too"
    shown = " ".join(f"--budget '{budget.option}'" for budget, _ in made.budgets)
    lines = [
        f"# A detector for {made.name} within {budgets}: from the data to a report. Made by:",
        f"#   {made.asked}",
        "# yaml-language-server: $schema=.search-run/config.schema.json",
        "#",
        f"#   search-init && search-run --task det {made.paths.config}",
        "#   search-ctl show-scalar --task det.tune -rt +5",
        "#",
        f"# The report: {made.paths.report}",
        "",
        f"task: {{reward_attribute: metric.test.{made.metric}}}",
        "",
        "env:",
        f"  DATA: {quoted(made.paths.data)}  # the folder of the data, named here alone",
        f"  CONFIG: {quoted(made.paths.net)}",
        *comment(why["plain"], 2),
        "  PLAIN: >-",
        *(f"    {line}" for line in plain_options(made)),
        "",
        f"resources: {_resources(made, training.gpu)}  # {made.why['device']}",
        "",
        *comment(why["time"]),
        "stages:",
        "  - name: check",
        '    task: {template: search-nas data check "$DATA" --picture data.png && search-nas space "$CONFIG"}',
        "",
        f"  - name: train  # {_minutes(times.seconds['train'])}",
        '    task: {template: search-nas train "$CONFIG" --work-dir .}',
        "",
        *(line for each in made.timed for line in _latency_lines(made, each)),
        *(_trust_lines(made) if times.trusted else comment(why["trust"], 2)),
        f"  # AP on val against {cost}, with the supernet's weights; {_minutes(times.seconds['search'])}.",
        "  - name: search",
        "    task:",
        f"      reward_attribute: metric.direct.{made.metric}",
        "      template: >-",
        '        search-nas search "$CONFIG" --checkpoint "$SEARCHKIT_STAGE_TRAIN/latest.pth" --work-dir search',
        *([f"       {priced}", f"        --objective bbox_mAP{objectives}"] if len(made.timed) > 1 else []),
        *([f"       {priced} --objective bbox_mAP{objectives}"] if len(made.timed) == 1 else []),
        f"        --algorithm nsga2 --population {population} --evaluations {times.evaluations} --input all",
        f"        {_within(made)}{workers}",
        "",
        *comment(
            f"The finalists, each a job: tuned from the supernet's weights, scored on val, by which one is chosen"
            f"{then}; {_minutes(times.seconds['tune'])} for all.",
            2,
        ),
        "  - name: tune",
        "    task:",
        f"      reward_attribute: metric.val.{made.metric}",
        "      template: >-",
        '        search-nas finetune "$CONFIG" --checkpoint "$SEARCHKIT_STAGE_TRAIN/latest.pth" --archs {arch}',
        "        --split val --tag val --out tuned.jsonl",
        '        && search-nas test "$CONFIG" --set subnet=tuned.jsonl --set test.calibration_images=0',
        "        --checkpoint finetune/best/latest.pth --archs tuned.jsonl",
        f"        {score}",
        "      search_args:",
        "        - type: Subnet",
        "          name: arch",
        "          space: $SEARCHKIT_STAGE_SEARCH/search/results.jsonl",
        f"          rules: {quoted(made.paths.rules)}",
        "",
        f"  # The detector to beat; {_minutes(times.seconds['plain'])}.",
        *_alone("plain", '"$CONFIG" $PLAIN', score, f"{metric} {extracted}", _priced_alone(made, "plain")),
        *(_pretrained_lines(made, score, f"{metric} {extracted}") if made.pretrained else []),
        *comment(
            f"Each finalist as a model of its own, the best first; {_minutes(times.seconds['export'])}. "
            f"{why['export'][:1].upper()}{why['export'][1:]}.",
            2,
        ),
        "  - name: export",
        "    task:",
        "      template: >-",
        "        cp {from}/candidate.jsonl {from}/found.json .",
        '        && search-nas extract "$CONFIG" --checkpoint {from}/finetune/best/latest.pth --arch candidate.jsonl',
        f"        {metric} {extracted}",
        f"      search_args: [{{type: Best, stage: tune, number: {finalists}, args: [], folder: from}}]",
        "",
        "  - name: report",
        "    task:",
        "      template: >-",
        '        search-nas report "$SEARCHKIT_STAGE_EXPORT" "plain=$SEARCHKIT_STAGE_PLAIN/candidate.jsonl"',
        *(['        "pretrained=$SEARCHKIT_STAGE_PRETRAINED/candidate.jsonl"'] if made.pretrained else []),
        f'        --config "$CONFIG" --scored "$SEARCHKIT_STAGE_SEARCH/search/results.jsonl" {shown}',
        *(['        --trust "$SEARCHKIT_STAGE_TRUST/trust.json"'] if times.trusted else []),
        "        --out report.html --png report.png",
    ]
    return "\n".join(lines) + "\n"


def _within(made: Made) -> str:
    """The constraint of the search: the largest budget of one of the units holds."""
    most: dict[str, float] = {}
    for budget, _ in made.budgets:
        most[budget.unit] = max(most.get(budget.unit, 0.0), budget.value)
    limits = " or ".join(f"{unit} <= {value:.10g}" for unit, value in most.items())
    return f'--constraint "{limits}"'


def _resources(made: Made, gpu: bool) -> str:
    return "{gpus: 1}" if gpu else f"{{gpus: 0, cpus: {made.training.cores}}}"


def _stage(made: Made, target: Target) -> str:
    """The name of the stage that measures on a device."""
    return f"latency-{target.device.replace(':', '')}" if made.names_devices else "latency"


def _priced(made: Made, table: str) -> str:
    """The options by which networks have a time for each device, each with a space in front of it. table: of a stage
    that measures, the file without its ending."""
    stages = {each.meter: variable_of(_stage(made, each)) for each in made.timed}
    return "".join(f' --set "meters.{meter}=${stage}/{table}.json"' for meter, stage in stages.items())


def _priced_alone(made: Made, name: str) -> str:
    """Likewise of a detector that is trained alone. On the CPU alone the exported file says its time."""
    return _priced(made, name) if made.names_devices else ""


def _alone(name: str, config: str, score: str, extract: str, priced: str) -> list[str]:
    """A stage that trains a detector alone, scores it and extracts it. config: the words that name its config; priced:
    options that give it times."""
    return [
        f"  - name: {name}",
        "    task:",
        "      template: >-",
        f"        search-nas train {config} --work-dir .",
        f"        && search-nas test {config} --checkpoint latest.pth --arch MAX",
        *([f"       {priced}"] if priced else []),
        "        --split val --tag val --out val.jsonl",
        f"        && search-nas test {config} --checkpoint latest.pth --archs val.jsonl",
        f"        {score}",
        f"        && search-nas extract {config} --checkpoint latest.pth --arch candidate.jsonl",
        f"        {extract}",
        "",
    ]


def _pretrained_lines(made: Made, score: str, extract: str) -> list[str]:
    """The stage that fine-tunes a detector from a shelf."""
    why = made.why["pretrained"]
    return [
        *comment(f"{why[:1].upper()}{why[1:]}; {_minutes(made.times.seconds['pretrained'])}.", 2),
        *_alone("pretrained", quoted(made.paths.pretrained), score, extract, _priced_alone(made, "pretrained")),
    ]


def _trust_lines(made: Made) -> list[str]:
    """The stage that compares the supernet's scores with trainings of archs alone."""
    times, why = made.times, made.why["trust"]
    return [
        *comment(f"{why[:1].upper()}{why[1:]}; {_minutes(times.seconds['trust'])}.", 2),
        "  - name: trust",
        "    task:",
        "      template: >-",
        '        search-nas trust "$CONFIG" --checkpoint "$SEARCHKIT_STAGE_TRAIN/latest.pth"',
        f"        --n {times.trusted} --bins 1 --steps {times.tune_steps} --json > trust.json",
        "",
    ]


def _latency_lines(made: Made, target: Target) -> list[str]:
    """The stage that measures a table of times on a device; where times are named by it, also of the detectors that
    are trained alone, whose inputs are others."""
    on = f"--runtime {target.runtime}" + ("" if target.gpu else " --device cpu --threads 1")
    on_this = f"on {target.device}" if made.names_devices else "on this device"
    took = _minutes(made.times.seconds["latency"] / len(made.timed))
    lines = [f"  # How long the rows of the space take {on_this}; {took}.", f"  - name: {_stage(made, target)}"]
    if not made.names_devices:
        return [*lines, f'    task: {{template: search-nas latency "$CONFIG" {on} --out ms.json}}', ""]
    alone = {"plain": '"$CONFIG" $PLAIN'} | ({"pretrained": quoted(made.paths.pretrained)} if made.pretrained else {})
    return [
        *lines,
        f"    resources: {_resources(made, target.gpu)}",
        "    task:",
        "      template: >-",
        f'        search-nas latency "$CONFIG" {on} --out ms.json',
        *(f"        && search-nas latency {it} {on} --nets 2 --out {name}.json" for name, it in alone.items()),
        "",
    ]


def variable_of(stage: str) -> str:
    """The variable that is the folder of a stage."""
    return f"SEARCHKIT_STAGE_{stage.upper().replace('-', '_')}"


def _minutes(seconds: float) -> str:
    return f"about {max(1, round(seconds / 60))} min"
