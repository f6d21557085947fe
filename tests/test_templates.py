"""The recipes: each runs by the very commands in its header and ranks its jobs, and all of them ship in the wheel."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from searchkit.errors import ConflictError, NotFoundError
from searchkit.suite.cli.templates import copy_template, list_templates, template_root
from searchkit.suite.config import read as config
from searchkit.suite.space.expand import expand
from tests.support.marks import some_of
from tests.support.suite import ok, run

PROJECT = Path(__file__).resolve().parents[1]
# What the scripts of a recipe import, and the scalars that its jobs must end up with.
RECIPES = {
    "hpo/digits": (["torch", "sklearn"], {"Test Acc", "Test Loss", "Loss"}),
    "hpo/log-regex": (["sklearn"], {"accuracy", "loss"}),
    "hpo/shell": ([], {"rmse"}),
    "hpo/tensorboard": (["torch", "sklearn", "tensorboard"], {"loss/train", "accuracy/test"}),
    "hpo/torchrun": (["torch", "sklearn"], {"accuracy", "loss"}),
}


SEARCHES = {"hpo/search": "config.yaml"}  # those whose jobs come one after the other

# Those of search-nas, with their main config; tests/nas/tasks runs them.
STAGED = {"cls": "spos.yaml", "det": "tsas.yaml"}


def read(name: str, file: str = "") -> str:
    return Path(template_root(), name, file or STAGED.get(name, "config.yaml")).read_text()


def commands(name: str) -> list[list[str]]:
    """The commands in the comment that a recipe's config opens with, word by word."""
    head = read(name).partition("\n\n")[0]
    return [shlex.split(line) for line in re.findall(r"^#   (search-.*)$", head, re.MULTILINE)]


def one_job(text: str) -> str:
    """The config with the first value alone of each argument: all of a recipe's parts, for the price of one job."""
    body = yaml.safe_load(text)
    for arg in body["task"]["search_args"]:
        arg["value"] = arg["value"][:1]
    return yaml.safe_dump(body, sort_keys=False)


def test_the_list_says_what_each_recipe_is(tmp_path: Path) -> None:
    listed = dict(list_templates())
    assert set(listed) == {*RECIPES, *SEARCHES, *STAGED}
    for name, line in listed.items():
        assert read(name).startswith(f"# {line}\n")
        assert line.endswith(".")
    assert {line.split()[0] for line in ok(run(tmp_path, "search-init", "--list-templates")).splitlines()} == set(
        listed
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_config_is_whole(name: str) -> None:
    """Eight jobs, no fault, and a header that leads from the copy to the ranking in the order that `mode` asks for."""
    loaded, _ = config.load(str(Path(template_root(), name, "config.yaml")))
    assert len(list(expand(loaded.task.search_args))) == 8
    assert loaded.reward_attribute in RECIPES[name][1]
    words = commands(name)
    task = words[1][words[1].index("--task") + 1]
    assert words[0] == ["search-init", "--template", name]
    assert words[1] == ["search-run", "--task", task, "config.yaml"]
    assert words[-1][:5] == ["search-ctl", "show-scalar", "--task", task, "-rt"]
    assert words[-1][5].startswith("+" if loaded.monitor.mode == "max" else "-")


@pytest.mark.slow
@pytest.mark.parametrize("name", some_of(RECIPES, *(RECIPES.keys() - {"hpo/digits"})))  # make demo runs that
def test_a_recipe_runs_by_the_commands_in_its_header(name: str, tmp_path: Path) -> None:
    needed, scalars = RECIPES[name]
    for module in needed:
        pytest.importorskip(module, reason=f"{name} needs {module}: pip install 'searchkit[demo,dev]'")
    first, *others = commands(name)
    ok(run(tmp_path, *first))
    text = one_job((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(text)
    for words in others:
        # jobs 0,1 of the header are jobs 0 here
        ok(run(tmp_path, *[word.replace("0,1", "0") for word in words], timeout_s=110))
    shown = ok(run(tmp_path, *others[-1], "--json"))
    (job,) = json.loads(shown)["jobs"]
    assert job["status"] == "finished"
    reward = config.load(str(tmp_path / "config.yaml"))[0].reward_attribute
    assert reward in job["scalars"]
    assert set(job["scalars"]) <= scalars
    assert len(job["scalars"][reward]) > 1, "a curve, not a single number"


@pytest.mark.slow
def test_a_search_runs_by_the_commands_in_its_header(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("optuna")
    for words in commands("hpo/search"):
        said = ok(run(tmp_path, *words, timeout_s=110))
        if "--dry-run" in words:
            assert "search by tpe, until 30 trials" in said and "#0 python train.py  lr=0.001 width=32" in said
    jobs = json.loads(ok(run(tmp_path, "search-ctl", "show-scalar", "--task", "search", "-rt", "+30", "--json")))[
        "jobs"
    ]
    states = [job["status"] for job in jobs]
    assert len(jobs) == 30 and set(states) == {"finished", "pruned"} and states.count("pruned") >= 10
    assert (tmp_path / "history.png").stat().st_size > 5_000
    by_hand = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert by_hand.stdout.count("accuracy=") == 27


def test_copying_refuses_to_overwrite_and_copies_nothing_then(tmp_path: Path) -> None:
    (tmp_path / "mnist.py").write_text("mine")
    with pytest.raises(ConflictError, match=r"mnist\.py"):
        copy_template("hpo/digits", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mnist.py"]
    assert (tmp_path / "mnist.py").read_text() == "mine"


def test_copying_tells_what_it_copied(tmp_path: Path) -> None:
    copied = copy_template("hpo/shell", str(tmp_path / "new"))
    assert sorted(copied) == copied == [str(path) for path in sorted((tmp_path / "new").iterdir())]
    assert (tmp_path / "new" / "config.yaml").read_text() == read("hpo/shell")


@pytest.mark.parametrize("name", ["hpo/digit", "hpo", "", "..", "../templates/hpo/digits", "/usr/lib"])
def test_an_unknown_name_is_told_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no recipe named") as caught:
        copy_template(name, str(tmp_path))
    assert "--list-templates" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_digits_script_reads_mnist(data_dir: Path, tmp_path: Path) -> None:
    """--data takes MNIST's own files. An epoch of it takes half a minute, so this only reads them."""
    pytest.importorskip("torch")
    code = (
        "import sys; sys.argv = ['mnist.py']; import mnist; from pathlib import Path\n"
        f"print(*[array.shape for array in mnist.load_mnist(Path({str(data_dir / 'mnist')!r}))])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(template_root(), "hpo", "digits")), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "(60000, 28, 28) (60000,) (10000, 28, 28) (10000,)", done.stderr


def test_the_wheel_holds_recipes_and_wrapper(tmp_path: Path) -> None:
    """What `pip install` puts on a machine without the checkout can copy every recipe, and start jobs."""
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    for name in ("searchkit", "templates"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    assert (unpacked / "searchkit" / "suite" / "backends" / "local" / "wrapper.sh").is_file()
    shipped = sorted(
        str(path.relative_to(unpacked / "searchkit" / "_templates"))
        for path in (unpacked / "searchkit" / "_templates").rglob("*")
        if path.is_file()
    )
    root = Path(template_root())
    assert shipped == sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
