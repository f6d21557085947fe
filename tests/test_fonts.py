"""Names in any script are written in pictures, where there is a font for them; else it is said."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from searchkit import fonts
from searchkit.nas.cli import search_view, space, trust
from searchkit.nas.data import drawing
from searchkit.nas.subnet.standing import Standing
from searchkit.nas.subnet.trust import Row
from searchkit.nas.tasks import pictures
from searchkit.nas.tasks.pictures import Model
from searchkit.records.objective import Objective
from tests.support.nas import Trained, call

CAT, DOG = "\u732b", "\u72ac"  # of CJK, which matplotlib's font has not


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A font of this machine's that has these two letters: two Latin ones under other numbers."""
    from fontTools.ttLib import TTFont

    font = TTFont(fonts.usual_font())
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap = {ord(CAT): "A", ord(DOG): "B"}
    for record in font["name"].names:
        if record.nameID in (1, 4, 6, 16):
            record.string = "MadeUp"
    path = tmp_path / "share" / "fonts" / "made-regular.ttf"
    path.parent.mkdir(parents=True)
    font.save(path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))  # where fontconfig looks as well
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fonts._with_letter.cache_clear()
    yield path
    fonts._with_letter.cache_clear()


@pytest.fixture
def without_fontconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts._with_letter.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)


def drawn(name: str, folder: Path) -> bytes:
    """A picture with the name of its class."""
    model = Model(nn.Identity(), (name,), (8, 8))
    target = folder / "drawn.png"
    pictures.draw_classes(
        model, torch.zeros(3, 500, 500, dtype=torch.uint8), [{"name": name, "probability": 1}], str(target)
    )
    return target.read_bytes()


def test_letters_that_matplotlibs_font_has(tmp_path: Path) -> None:
    assert fonts.font_for("\u043a\u043e\u0442 Stra\u00dfe \u03c9") == (fonts.usual_font(), "")
    assert drawn("\u043a\u043e\u0442", tmp_path) != drawn("\u043f\u0435\u0441", tmp_path)  # no two are the same boxes
    assert drawing.lacking(["cat", "\u043a\u043e\u0442"]) == ""


def test_letters_that_a_font_of_the_machine_has(made: Path, tmp_path: Path) -> None:
    if shutil.which("fc-list") is None:
        pytest.skip("fontconfig is not here")
    assert fonts.font_for(f"{CAT}{DOG}") == (str(made), "")
    assert drawn(CAT, tmp_path) != drawn(DOG, tmp_path)
    assert drawing.lacking([CAT, DOG]) == ""


def test_fonts_are_found_without_fontconfig(
    made: Path, without_fontconfig: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(made), "/no/such/font.ttf"])
    assert fonts.font_for(CAT) == (str(made), "")
    assert fonts.font_for(f"{CAT}\u72fc") == (str(made), "\u72fc")


def test_figures(made: Path, recwarn: pytest.WarningsRecorder) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.bar(["a", DOG], [1, 2])
    axes.set_title(f"{CAT} and more")
    axes.set_xlabel("plain")
    if shutil.which("fc-list") is None:
        pytest.skip("fontconfig is not here")
    assert fonts.spell(figure) == ""
    assert axes.title.get_fontfamily()[-1] == "MadeUp" and axes.xaxis.label.get_fontfamily() == ["sans-serif"]
    figure.canvas.draw()
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_what_no_font_has_is_said(
    trained: Trained, tmp_path: Path, without_fontconfig: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    model = tmp_path / "model"
    assert (
        call("extract", trained.config, "--checkpoint", trained.checkpoint, "--arch", "MIN", "--out", model).code == 0
    )
    said = json.loads((model / "config.json").read_text())
    said["categories"] = [f"{CAT}{i}" for i in range(len(said["categories"]))]
    (model / "config.json").write_text(json.dumps(said))
    image = trained.data / "images" / "val_00001.png"
    done = call("predict", model, image, "--out", tmp_path / "p", "--threshold", "0.01")
    assert done.code == 0 and f"note: no font of this machine has {CAT}: such letters are boxes" in done.err
    assert fonts.note("") == ""


def test_pictures_of_numbers_say_what_no_font_has(
    tmp_path: Path, without_fontconfig: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import warnings

    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    metric = f"{CAT}_bbox_mAP"
    standing = Standing((Objective(metric, "max"),), "direct")
    arch = {"backbone.stem.width": 8}
    standing.add([{"arch": arch, "metric": {"direct": {metric: 0.5}}, "overhead": {"flops": 1, "params": 1}}])
    tau = {"calibrated": {"all": 1.0, "within_mean": 1.0}}
    report = {"metric": metric, "tau": tau, "steps": 1, "bins": [{"macs_min": 1, "macs_max": 1}]}
    named = {"macs": 1, "name": CAT, "input_shape": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (
            lambda path: search_view.draw(path, standing),
            lambda path: trust._picture(path, [Row(1, 0, 0.5, 0.5, 0.5)], report),
            lambda path: space._picture(path, [1, 2], [named]),
        ):
            draw(str(tmp_path / "p.png"))
            said = capsys.readouterr().err
            assert said.count(f"note: no font of this machine has {CAT}: such letters are boxes in pictures") == 1


def test_a_font_lookup_that_fails_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def failing(command: list[str], **options: Any) -> Any:
        if any(":charset" in word for word in command):  # ours: matplotlib asks fontconfig, too
            raise subprocess.TimeoutExpired("fc-list", 1)
        return run(command, **options)

    fonts._with_letter.cache_clear()
    monkeypatch.setattr(subprocess, "run", failing)
    path, _ = fonts.font_for(CAT)
    assert Path(path).exists()
    fonts._with_letter.cache_clear()
