"""The schema that editors read says the same of a config as search-run: it refuses none that is taken, and catches
every fault of a key, type, choice or range."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConfigError, UsageError
from searchkit.reading import nodes
from searchkit.suite.cli.templates import list_templates, template_root
from searchkit.suite.config import read as config
from searchkit.suite.config import schema
from tests.suite.config import test_config as told
from tests.support.suite import REFERENCE, ok, run

PROJECT = Path(__file__).resolve().parents[3]
MUTANTS = 12  # of each good file

# What search-run tells that no schema can: what several values say together, and what a text means that has the right
# form. Every other fault is one of a key, a type, a choice or a range.
BEYOND = re.compile(
    "is not a declared argument|is declared|can't be given here|does not meet the constraints|must have the same keys"
    "|: the template |may have no value|needs true or false|needs a list, of which|has no value where|the command is"
    "|must be above low|must be at most high - low|no end of values|would go on for ever|needs a score|give one"
    "|is an objective already|must have either|names a stage|must name a stage|would both be|neither reward_attribute"
    "|must be a stage that runs before|this config has no stages|has no argument|takes no argument|beside it, on which"
    "|the conditions go round|is no regular expression|: column [0-9]|sounds as if|an expression must|not hold the end"
    r"|task\.template: (?!must be|missing)|stop(\[\d\])?: (asha|median|patience|threshold): |can't be split into words"
    r"|search\.enqueue\[\d+\]: \S+ (must|needs)|enqueue\[\d+\]: \S+=|one value at least|needs? every|is not one of"
)


def good() -> dict[str, str]:
    """Configs that have nothing wrong: of recipes, of the docs, of the tests."""
    texts = {f"recipe {name}": _main(name) for name, _ in list_templates()}
    for page in sorted((PROJECT / "docs").glob("*.md")):
        for block in re.findall(r"```yaml\n(# file: \S+\n.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            texts[f"{page.name} {block.splitlines()[0]}"] = block
    texts["reference"] = REFERENCE
    texts["search"] = told.ARGS + "search: {sampler: {type: tpe, n_startup: 5}, n_trials: 9, enqueue: [{lr: 0.1}]}"
    texts["stages"] = told.STAGES
    texts["numbers"] = (
        "task: {template: [x, 1, ~]}\nrun: {workers: 3, shell: [bash, -e], retries: ~}\nenv: {A: ~, B: 1}"
    )
    texts["shared"] = "task: {reward_attribute: acc}\nrun:\nstages: [{name: a, task: {template: x}, pavi: {mode: max}}]"
    return {name: text for name, text in texts.items() if faults(text) == []}


def _main(name: str) -> str:
    folder = Path(template_root(), name)
    return next(p for p in (folder / n for n in ("config.yaml", "tsas.yaml", "spos.yaml")) if p.is_file()).read_text()


def bad() -> dict[str, str]:
    """What the tests of single faults have."""
    texts = {text: text if text.startswith(("task", "tsk")) else f"{text}\ntask: {{template: x}}" for text in told.KEYS}
    texts |= {text: told.ARGS + text for text in told.SEARCHES}
    return texts | {str(change): told.STAGES.replace(*change, 1) for change in told.BESTS}


def faults(text: str) -> list[str] | None:
    """What search-run says of a config; None where it isn't one of search-run, or not YAML."""
    try:
        config.parse(text.encode(), "c")
    except ConfigError as e:
        return str(e).splitlines()
    except UsageError:
        return None
    return []


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each value, those of collections before those in them."""
    yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*path, key))


OTHERS = (None, True, 0, -1, 1.5, 1_000_000, "x", "", "3", [], ["a"], [1, None], {}, {"a": 1})


def mutant(text: str, rng: random.Random) -> str:
    """A config that differs in one place: another value, a key renamed, lost or added, a near number or text."""
    data = json.loads(json.dumps(nodes.parse(text.encode(), "c").root.data))
    path = rng.choice([p for p in places(data) if p])
    parent = data
    for step in path[:-1]:
        parent = parent[step]
    old = parent[path[-1]]
    match rng.randrange(5):
        case 0 if isinstance(parent, dict):
            parent[f"{path[-1]}s"] = parent.pop(path[-1])
        case 1:
            del parent[path[-1]]
        case 2 if isinstance(old, dict):
            old["extra"] = 1
        case 3 if isinstance(old, int | float | str) and not isinstance(old, bool):
            parent[path[-1]] = -old if isinstance(old, int | float) else f"{old}!"
        case _:
            parent[path[-1]] = rng.choice(OTHERS)
    return json.dumps(data)


def test_the_schema_says_what_search_run_says() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'searchkit[dev]'")
    made = json.loads(schema.text())
    jsonschema.Draft7Validator.check_schema(made)
    check = jsonschema.Draft7Validator(made)
    rng, cases = random.Random(5), list(bad().values())
    for text in good().values():
        cases += [text, *(mutant(text, rng) for _ in range(MUTANTS))]
    taken = caught = 0
    for text in cases:
        told = faults(text)
        if told is None:
            continue
        try:
            data = nodes.parse(text.encode(), "c").root.data
        except ConfigError:
            continue
        refused = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in check.iter_errors(data)]
        of_form = [fault for fault in told if not BEYOND.search(fault)]
        assert told or not refused, f"taken by search-run, refused by the schema: {text}\n{refused}"
        assert refused or not of_form, f"refused by search-run, taken by the schema: {text}\n{of_form}"
        taken, caught = taken + (not told), caught + bool(of_form)
    assert taken >= 100 and caught >= 200, (taken, caught)


def test_the_schema_in_the_workspace(tmp_path: Path) -> None:
    """search-init writes what search-ctl prints, and brings an old one up to date; a recipe names it."""
    ok(run(tmp_path, "search-init", "--template", "hpo/shell"))
    kept = tmp_path / ".search-run" / "config.schema.json"
    assert kept.read_text() == schema.text() == ok(run(tmp_path, "search-ctl", "schema"))
    kept.write_text("{}")
    ok(run(tmp_path, "search-init"))
    assert kept.read_text() == schema.text()
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    (named,) = [line for line in lines if line.startswith("# yaml-language-server: $schema=")]
    assert (tmp_path / named.partition("=")[2]) == kept


def test_every_recipe_of_a_command_names_the_schema() -> None:
    for name in ("digits", "log-regex", "search", "shell", "tensorboard", "torchrun"):
        text = Path(template_root(), "hpo", name, "config.yaml").read_text()
        assert text.splitlines()[1] == "# yaml-language-server: $schema=.search-run/config.schema.json"
