"""Which module may import which, and that importing does nothing but import.

The table below is the project's architecture: two wings, the suite and nas, over what they share. A new folder or top
module gets a row of its own.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "searchkit"

GROUND, SHARED, JOB, SUITE, NAS = "ground", "shared", "job", "suite", "nas"

# (module or package under searchkit, wing). A module is of the longest row that begins its name. It imports from rows
# above its own; within one row, from any module, as long as there is no cycle; and of other wings what MEETS says.
TABLE = (
    ("errors", GROUND),
    ("proc", GROUND),
    ("fsio", GROUND),
    ("cpus", GROUND),
    ("fonts", GROUND),
    ("seeds", GROUND),
    ("console", GROUND),
    ("job", JOB),
    ("reading", SHARED),
    ("records", SHARED),
    ("suite.workspace", SUITE),
    ("suite.space", SUITE),
    ("suite.algorithms", SUITE),
    ("suite.config", SUITE),
    ("suite.store", SUITE),
    ("suite.facts", SUITE),
    ("suite.backends", SUITE),
    ("suite.run", SUITE),
    ("suite.control", SUITE),
    ("suite.run.stages", SUITE),
    ("suite.api", SUITE),
    ("suite.cli", SUITE),
    ("nas.styles", NAS),
    ("nas.space", NAS),
    ("nas.nn", NAS),
    ("nas.data", NAS),
    ("nas.graph", NAS),
    ("nas.quant", NAS),
    ("nas.models", NAS),
    ("nas.cost", NAS),
    ("nas.convert", NAS),
    ("nas.train", NAS),
    ("nas.tasks", NAS),
    ("nas.export", NAS),
    ("nas.subnet", NAS),
    ("nas.teach", NAS),
    ("nas.latency", NAS),
    ("nas.setup", NAS),
    ("nas.report", NAS),
    ("nas.facts", NAS),
    ("nas.api", NAS),
    ("nas.cli", NAS),
    ("nas_cli", NAS),
)
MEETS = {
    GROUND: {GROUND},
    JOB: {GROUND, JOB},
    SHARED: {GROUND, SHARED},
    SUITE: {GROUND, SHARED, JOB, SUITE},
    NAS: {GROUND, SHARED, JOB, NAS},
}
OF_THE_SUITE = ("suite.workspace", "suite.facts")  # what nas may use of it: what a user of its public API would
ROW = {name: row for row, (name, _) in enumerate(TABLE)}
WING = dict(TABLE)
STDLIB_ONLY = ("errors", "proc", "fsio", "cpus", "seeds", "job.report", "job.trial", "job.trials")
# What one module does for all: the text by which it is known, and the modules that may hold it.
ALONE = {
    '"/proc': {"proc", "suite.backends.local.callback"},  # this one is a program of its own, and imports nothing
    ".isatty(": {"console"},
    "NO_COLOR": {"console"},
    'random.Random(f"': {"seeds"},
    "blake2b": {"seeds"},
}
HEAVY = {"torch", "torchvision", "optuna", "pycocotools", "safetensors", "scipy", "sklearn", "tensorboard"}


# Reading a config, pricing, and picking records import no torch, which takes seconds: of these modules no import at the
# top of a file leads to it. What runs networks is imported by the functions that do so.
WITHOUT_TORCH = (
    "nas.styles",
    "nas.space",
    "nas.cost",
    "nas.convert",
    "nas.data.formats",
    "nas.data.sets",
    "nas.facts",
    "nas.cli",
    "nas.export.table",
    "nas.models.part",
    "nas.models.layer_kinds",
    "nas.models.plans",
    "nas.models.table",
    "nas.quant.settings",
    "nas.subnet.records",
    "nas.subnet.search",
    "nas.subnet.sensitivity",
    "nas.subnet.standing",
    "nas.tasks.read",
    "nas.tasks.schema",
    "nas.train.criteria",
    "nas.train.splits",
)


def modules() -> dict[str, Path]:
    """Dotted name to file of every module. The recipes are reached by a link, and are no modules."""
    found = {}
    for folder, folders, files in os.walk(PACKAGE):  # does not follow links
        folders[:] = [name for name in folders if name != "_templates"]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, path: Path, known: dict[str, Path]) -> list[tuple[int, str]]:
    """(line, imported module) of every import, in functions too. `from a import b` is a.b where that is a module."""
    return imports_of(ast.parse(path.read_bytes(), str(path)), module, path, known)


def imports_of(tree: ast.AST, module: str, path: Path, known: dict[str, Path]) -> list[tuple[int, str]]:
    """`imports` of a part of a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((node.lineno, full if full in known else base))
    return found


def at_the_top(path: Path) -> ast.Module:
    """A file without its functions, and without what only a checker of types imports."""

    class Top(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Top().visit(ast.parse(path.read_bytes(), str(path)))


def row_of(module: str) -> str:
    """`searchkit.suite.store.journal` -> `suite.store`; `` where the table has no row."""
    parts = module.split(".")[1:]
    rows = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((row for row in rows if row in ROW), "")


def is_package(module: str, path: Path) -> bool:
    """Whether it is a package above the rows, such as searchkit.suite: it holds nothing, or the names of its api."""
    if path.name != "__init__.py" or row_of(module):
        return False
    return {target for _, target in imports(module, path, MODULES)} <= {"__future__", f"{module}.api"}


def faults(known: dict[str, Path]) -> list[str]:
    """Every import that the table forbids, and every module that the table does not have."""
    wrong = []
    for module, path in sorted(known.items()):
        if module == "searchkit" or is_package(module, path):
            continue  # the package itself: test_the_package_imports_nothing
        here = row_of(module)
        if not here:
            wrong.append(f"{module}: no row in the table of {Path(__file__).name}; add one")
            continue
        for line, target in imports(module, path, known):
            where = f"{path.name}:{line}: {module} ({WING[here]}) imports {target}"
            if not target.startswith("searchkit."):
                if WING[here] != NAS and target.split(".")[0] in HEAVY - {"optuna"}:
                    wrong.append(f"{where}: only nas may")
                continue
            there = row_of(target)
            if not there:
                wrong.append(f"{where}: no row in the table")
            elif WING[there] not in MEETS[WING[here]] and not (WING[here] == NAS and there in OF_THE_SUITE):
                wrong.append(f"{where} ({WING[there]}): these two never meet")
            elif ROW[there] > ROW[here]:
                wrong.append(f"{where} ({there}): its row stands below")
    return wrong


def cycle(known: dict[str, Path]) -> list[str]:
    """The modules of one import cycle, or nothing."""
    graph = {
        module: {target for _, target in imports(module, path, known) if target in known and row_of(target)} - {module}
        for module, path in known.items()
        if row_of(module)
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        return list(reversed(e.args[1]))
    return []


def python(code: str, cwd: Path, **env: str) -> str:
    """What a fresh interpreter prints, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_row_is_there() -> None:
    assert set(ROW) <= {name.partition(".")[2] for name in MODULES}
    assert len(ROW) == len(TABLE)


def test_every_import_follows_the_table() -> None:
    assert not (wrong := faults(MODULES)), "\n".join(wrong)


def test_no_import_cycle() -> None:
    assert not (found := cycle(MODULES)), " imports ".join(found)


def test_reading_a_config_and_pricing_lead_to_no_torch() -> None:
    """By the text of all files, whatever a config names."""
    begin = [
        module
        for module in MODULES
        if module.endswith("_plan") or any(f"{module}.".startswith(f"searchkit.{name}.") for name in WITHOUT_TORCH)
    ]
    assert len(begin) > 80
    reached = {module: (module,) for module in begin}
    queue = list(begin)
    for module in queue:
        for _, target in imports_of(at_the_top(MODULES[module]), module, MODULES[module], MODULES):
            assert target.partition(".")[0] not in HEAVY, " imports ".join((*reached[module], target))
            for name in (target, target.rpartition(".")[0]):  # a package is run before its modules
                if name in MODULES and name not in reached:
                    reached[name] = (*reached[module], name)
                    queue.append(name)


def test_verbs_that_run_no_network_run_without_torch(tmp_path: Path) -> None:
    """In a process that can't import it; those that need it refuse a wrong config before they ask for it."""
    recipes = [path for path in PACKAGE.parent.glob("templates/*/*.yaml") if "\nspace:" in path.read_text()]
    assert len(recipes) > 8
    (tmp_path / "rules.yaml").write_text("[{type: sample, operation: top, key: overhead.flops, value: 1}]")
    det, cls = (
        PACKAGE.parent / "templates" / name for name in ("det/faster_rcnn_small.yaml", "cls/spos_small_supernet.yaml")
    )
    right = [
        *(f"flops {r} --sample 2 --out {r.stem}.jsonl --set model.num_classes=3 --set subnet=" for r in recipes),
        f"select {det.stem}.jsonl --rules rules.yaml --dry-run",
        "schema",
        "data toy-det --out det --images 2 1 1 --size 64 64",
        "data toy-cls --out cls --images 16 8 8",
        f"flops {det} --sample 1 --out det.jsonl --set data.train.annotations=det/annotations/instances_train.json "
        "--set data.train.images=det/images",
        f"flops {cls} --sample 1 --out cls.jsonl --set data.train.path=cls/train",
    ]
    need = "--checkpoint no.pth"
    wrong = [f"{verb} {det} --set train.epoch=1" for verb in ("modules", "space", "train --work-dir work")]
    wrong += [f"{verb} {det} {need} --set train.epoch=1" for verb in ("test", "finetune", "search", "trust")]
    wrong += [f"extract {det} {need} --out no --set train.epoch=1"]
    wrong += [f"predict rules.yaml --config {det} rules.yaml --out no --set train.epoch=1"]
    code = f"""
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
from searchkit.errors import ConfigError
from searchkit.nas.cli.main import main_command
for words in {right!r}:
    main_command(words.split(), standalone_mode=False)
for words in {wrong!r}:
    try:
        main_command(words.split(), standalone_mode=False)
    except ConfigError as e:
        assert "train: unknown key 'epoch'" in str(e), (words, e)
    else:
        raise AssertionError(words)
"""
    python(code, tmp_path)
    assert (tmp_path / "det.jsonl").stat().st_size and (tmp_path / "cls.jsonl").stat().st_size


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_stdlib_only(name: str) -> None:
    module = f"searchkit.{name}"
    outside = {
        target.split(".")[0]
        for _, target in imports(module, MODULES[module], MODULES)
        if target.split(".")[0] not in {*sys.stdlib_module_names, "searchkit"}
    }
    assert not outside, f"{module} is for the standard library alone, but imports {', '.join(sorted(outside))}"


def test_backends_are_named_by_their_table_alone() -> None:
    """Who runs or ends jobs knows where they run by base.py; a folder beside local/ is one row of the table more."""
    engine = "searchkit.suite.backends.local"
    known = {
        module
        for module, path in MODULES.items()
        for _, target in imports(module, path, MODULES)
        if target.startswith(engine) and not module.startswith(engine)
    }
    assert known == {"searchkit.suite.backends.table"}


@pytest.mark.parametrize("text", ALONE)
def test_one_of_each(text: str) -> None:
    holders = {name.partition(".")[2] for name, path in MODULES.items() if text in path.read_text()}
    assert holders == ALONE[text]


def test_a_forbidden_import_is_found(tmp_path: Path) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / f"{name}.py").write_text(text)
        return tmp_path / f"{name}.py"

    known = {
        "searchkit.errors": write("errors", "def f():\n    from searchkit.suite.store import journal\n"),
        "searchkit.suite.store.journal": write("journal", "from searchkit import errors\nimport torch\n"),
        "searchkit.suite.run.loop": write("loop", "from .. import control\nfrom searchkit.nas import nn\n"),
        "searchkit.suite.control": write("control", ""),
        "searchkit.nas.nn": write("nn", "import torch\nfrom searchkit import errors\nfrom ..suite import control\n"),
        "searchkit.extra": write("extra", ""),
    }
    assert [wrong.split(" ")[0] for wrong in faults(known)] == [
        "errors.py:2:",
        "searchkit.extra:",
        "nn.py:3:",
        "loop.py:1:",
        "loop.py:2:",
        "journal.py:2:",
    ]
    assert set(cycle(known)) == {"searchkit.errors", "searchkit.suite.store.journal"}


def test_the_package_imports_nothing(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import searchkit; print(*set(sys.modules) - before)"
    assert set(python(code, tmp_path).split()) <= {"searchkit", "__future__"}
    more = "import sys, searchkit; names = dir(searchkit.nas); print('torch' in sys.modules, 'extract' in names)"
    assert python(more, tmp_path) == "False True\n"


def test_the_command_line_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = python(
        "import sys, searchkit.suite.cli.ctl; print(*{name.split('.')[0] for name in sys.modules})", tmp_path
    )
    assert not HEAVY & set(loaded.split())


def test_importing_has_no_effect(tmp_path: Path) -> None:
    """No file made, no variable set, no thread started, no signal handled, nothing printed."""
    cwd, home, tmp = (tmp_path / name for name in ("cwd", "home", "tmp"))
    for folder in (cwd, home, tmp):
        folder.mkdir()
    cwd.chmod(0o555)
    names = [name for name in sorted(MODULES) if not name.endswith("__main__")]
    code = f"""
import importlib, os, signal, sys, threading
import torch, torchvision  # what these do is not ours
def look():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return dict(os.environ), os.getcwd(), threading.active_count(), handlers
before = look()
for name in {names!r}:
    importlib.import_module(name)
    assert look() == before, name
"""
    assert python(code, cwd, HOME=str(home), TMPDIR=str(tmp)) == ""
    made = [*cwd.iterdir(), *home.iterdir(), *tmp.iterdir()]
    assert not [path for path in made if not path.name.startswith("torchinductor")]
