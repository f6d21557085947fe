"""Draws the picture of README.md: `python docs/make_pictures.py` (about ten minutes on two cores; no GPU needed).

Digits on canvases stand for data. The commands are those of the recipe `det`: a supernet is trained, searched for its
Pareto front, and the best subnet is extracted. They run in .demo/pictures/, and go on there if they are started again.
The same versions of the libraries give the same picture.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".demo" / "pictures"
TARGET = ROOT / "docs" / "pictures" / "detector.png"
CONFIG = "faster_rcnn_small.yaml"
SUPERNET = ("--checkpoint", "work/latest.pth")
COMMANDS = (  # what each makes, and the arguments of search-nas
    ("digits", ("data", "digits-det", "--out", "digits")),
    ("work/latest.pth", ("train", CONFIG, "--work-dir", "work")),
    ("search/front.png", ("search", CONFIG, *SUPERNET, "--algorithm", "nsga2", "--evaluations", "200")),
    ("model/proof.json", ("extract", CONFIG, *SUPERNET, "--arch", "search/best.jsonl", "--out", "model")),
)
PREDICT = ("predict", "model", "digits/images", "--out", "boxes", "--limit", "4", "--json")
METRIC = "digits_bbox_mAP"
FRONT, OTHERS, BOX = "#D55E00", "#0072B2", "white"
PALETTE = 96  # colours of the PNG: few keep it small


def nas(*arguments: str) -> bytes:
    """What search-nas prints on stdout, in WORK and without a GPU."""
    environment = os.environ | {"DATA": "digits", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "searchkit.nas.cli", *arguments]
    return subprocess.run(command, cwd=WORK, env=environment, check=True, stdout=subprocess.PIPE).stdout


def run() -> list[dict[str, Any]]:
    """Make what is missing in WORK; the boxes that the best subnet finds on four test images."""
    WORK.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "templates" / "det").glob("*.yaml"):
        shutil.copy(source, WORK)
    for made, arguments in COMMANDS:
        if not (WORK / made).exists():
            nas(*arguments)
    images: list[dict[str, Any]] = json.loads(nas(*PREDICT))
    return images


def points(name: str) -> list[tuple[float, float]]:
    """(million MACs, mean average precision) of the records of a file of the search."""
    lines = (WORK / "search" / name).read_text(encoding="utf-8").splitlines()
    return [(r["overhead"]["flops"] / 1e6, r["metric"]["direct"][METRIC]) for r in map(json.loads, lines)]


def draw_front(axes: Any) -> None:
    front = sorted(points("front.jsonl"))
    others = [point for point in points("results.jsonl") if point not in front]
    axes.scatter(*zip(*others, strict=True), s=18, facecolors="none", edgecolors=OTHERS, label="subnets scored")
    axes.plot(*zip(*front, strict=True), "D--", drawstyle="steps-post", lw=0.8, ms=5, color=FRONT, label="Pareto front")
    axes.set_xlabel("million MACs")
    axes.set_ylabel("mAP on validation images")
    axes.grid(True, color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")


def draw_boxes(axes: Any, image: Mapping[str, Any]) -> None:
    from matplotlib.patches import Rectangle
    from PIL import Image

    axes.imshow(Image.open(WORK / image["image"]), interpolation="nearest")
    for found in image["boxes"]:
        x0, y0, x1, y1 = found["box"]
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=BOX, linewidth=1.3))
        label = {"color": "black", "fontsize": 8, "va": "bottom", "bbox": {"color": BOX, "pad": 1}}
        axes.text(x0, max(y0 - 2, 9), f"{found['name']} {found['score']:.2f}", **label)
    axes.axis("off")


def draw(images: list[dict[str, Any]]) -> None:
    """The front of the search on the left, images with the boxes of its best subnet on the right."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    draw_front(left.subplots())
    for axes, image in zip(right.subplots(2, 2).flat, images, strict=True):
        draw_boxes(axes, image)
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, dpi=100)
    Image.open(TARGET).convert("RGB").quantize(PALETTE).save(TARGET, optimize=True)


if __name__ == "__main__":
    draw(run())
    print(f"wrote {TARGET} ({TARGET.stat().st_size // 1024} KiB)")
