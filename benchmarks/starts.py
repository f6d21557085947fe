"""Processor time of verbs of search-nas: `.venv/bin/python benchmarks/starts.py [--beside PATH] [--rounds 5]`.

Whole commands; most of it is imports. PATH: another search-nas, such as that of an older version; both run in turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

DET = Path(__file__).resolve().parents[1] / "templates" / "det"
SMALL, LARGE = DET / "faster_rcnn_small.yaml", DET / "faster_rcnn_ar50to101.yaml"
SHAPES = "data toy-det --out shapes --images 32 8 8"
VERBS = {  # name -> words; flops makes what select reads
    "data toy-det": "data toy-det --out {round} --images 32 8 8 --size 64 64",
    "flops --sample 100": f"flops {LARGE} --sample 100 --out {{round}}.jsonl",
    "--help": "--help",
    "space": f"space {LARGE}",
    "space, which asks the data for its classes": f"space {SMALL}",
    "select": "select {round}.jsonl --rules rules.yaml --dry-run",
    "schema": "schema",
    "train, a wrong config": f"train {SMALL} --work-dir work --set train.epoch=1",
    "train, one step": f"train {SMALL} --work-dir {{round}}-work --device cpu --set train.steps=1 --set data.workers=0 "
    "--set train.eval_archs=[MIN] --set test.calibration_images=8",
}


def cpu_s(words: Sequence[str], folder: Path) -> float:
    """Processor seconds of a command and of what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "DATA": str(folder / "shapes")}, capture_output=True, text=True
    )
    if done.returncode not in (0, 2) or (done.returncode == 2 and "unknown key 'epoch'" not in done.stderr):
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", metavar="PATH")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    own = str(Path(sys.executable).with_name("search-nas"))
    programs = {"here": own, **({"beside": asked.beside} if asked.beside else {})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rules.yaml").write_text("[{type: sample, operation: top, key: overhead.flops, value: 3}]")
        cpu_s([own, *SHAPES.split()], folder)
        print(f"| processor seconds, median of {asked.rounds} | {' | '.join(programs)} |")
        print("| --- |" + " ---: |" * len(programs))
        for verb, text in VERBS.items():
            seconds: dict[str, list[float]] = {program: [] for program in programs}
            for number in range(asked.rounds):
                for program, path in programs.items():
                    words = text.replace("{round}", f"{program}{number}").split()
                    seconds[program].append(cpu_s([path, *words], folder))
            print(
                f"| {verb} | {' | '.join(f'{statistics.median(each):.2f}' for each in seconds.values())} |", flush=True
            )


if __name__ == "__main__":
    main()
