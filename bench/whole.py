"""How long the pipeline takes as its user calls it: `dvc repro` beside the plain script, its stages, its start-up."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import process
from pipeline import paths

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("compose", "fetch", "load", "synthesize", "preprocess", "train_scratch", "train_keras", "evaluate")
DVC = [sys.executable, "-m", "dvc"]


@contextmanager
def project() -> Iterator[Path]:
    """Yield a clone of the last commit in which `dvc repro` has run once, on the raw CSVs of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / "data/raw").mkdir(parents=True)
        for csv in (paths.TRAIN_CSV, paths.TEST_CSV):
            shutil.copy(ROOT / csv, clone / csv)
        process([*DVC, "repro"], clone)
        yield clone


def repro(n: int) -> dict[str, float]:
    """Return seconds of `dvc repro -f` and of the plain script, in turns, and their ratio; and those of no-ops."""
    with project() as clone:
        script = [sys.executable, str(ROOT / "bench/plain.py"), *map(str, (paths.TRAIN_CSV, paths.TEST_CSV))]
        commands = {
            "dvc repro -f": [*DVC, "repro", "-f"],
            "plain script": script,
            "dvc repro, nothing to do": [*DVC, "repro"],
            "dvc version": [*DVC, "version"],
        }
        used = _in_turns(commands, clone, n)
    found = {f"{name}, s": statistics.median(used[name]) for name in commands}
    pairs = zip(used["dvc repro -f"], used["plain script"], strict=True)
    idle = zip(used["dvc repro, nothing to do"], used["dvc version"], strict=True)
    return found | {
        "dvc repro -f / plain script": statistics.median(a / b for a, b in pairs),
        "dvc repro, nothing to do − dvc version, s": statistics.median(a - b for a, b in idle),
    }


def stages(n: int) -> dict[str, dict[str, float]]:
    """Return for each stage its wall time, how much of it are imports and tracking, and its peak."""
    found = {}
    with project() as clone:
        for stage in STAGES:
            runs = []
            for _ in range(n):
                split = clone / "split.json"
                used = process([sys.executable, "-m", "bench.stage", stage, str(split)], clone)
                runs.append({"wall, s": used, **json.loads(split.read_text())})
            found[stage] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return found


def start_up(n: int) -> dict[str, float]:
    """Return the seconds of commands that train nothing, and of Python's own start."""
    train = [sys.executable, "-m", "pipeline.train"]
    commands = {
        "python": [sys.executable, "-c", ""],
        "pipeline.train --help": [*train, "--help"],
        "pipeline.train --cfg job": [*train, "--cfg", "job"],
    }
    used = _in_turns(commands, ROOT, n)
    return {f"{name}, s": statistics.median(used[name]) for name in commands}


def _in_turns(commands: dict[str, list[str]], folder: Path, n: int) -> dict[str, list[float]]:
    used: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(n):
        for name, command in commands.items():
            used[name].append(process(command, folder))
    return used
