"""How long the pipeline takes as its user calls it: `dvc repro` beside the plain script, its stages, its start-up."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import Seconds, alternate, own_store, process
from pipeline import paths

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("compose", "fetch", "load", "synthesize", "preprocess", "train_scratch", "train_keras", "evaluate")
DVC = [sys.executable, "-m", "dvc"]


@contextmanager
def project() -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a clone of the last commit in which `dvc repro` has run once, and an environment with a store of its own.

    Its raw CSVs are those of this checkout.
    """
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / "data/raw").mkdir(parents=True)
        for csv in (paths.TRAIN_CSV, paths.TEST_CSV):
            shutil.copy(ROOT / csv, clone / csv)
        env = own_store(clone)
        process([*DVC, "repro"], clone, env)
        yield clone, env


def repro(n: int) -> dict[str, float]:
    """Return seconds of `dvc repro -f` and of the plain script, in turns, and their ratio; and those of no-ops."""
    with project() as (clone, env):
        script = [sys.executable, str(ROOT / "bench/plain.py"), *map(str, (paths.TRAIN_CSV, paths.TEST_CSV))]
        commands = {
            "dvc repro -f": [*DVC, "repro", "-f"],
            "plain script": script,
            "dvc repro, nothing to do": [*DVC, "repro"],
            "dvc version": [*DVC, "version"],
        }
        used = _in_turns(commands, clone, n, env)
    found = {f"{name}, s": statistics.median(used[name]) for name in commands}
    pairs = zip(used["dvc repro -f"], used["plain script"], strict=True)
    idle = zip(used["dvc repro, nothing to do"], used["dvc version"], strict=True)
    return found | {
        "dvc repro -f / plain script": statistics.median(a / b for a, b in pairs),
        "dvc repro, nothing to do − dvc version, s": statistics.median(a - b for a, b in idle),
    }


def stages(n: int) -> dict[str, dict[str, float]]:
    """Return for each stage its wall time, of what it is made up, and its peak."""
    found = {}
    with project() as (clone, env):
        for stage in STAGES:
            runs = []
            for _ in range(n):
                split = clone / "split.json"
                wall = process([sys.executable, "-m", "bench.stage", stage, str(split)], clone, env)
                parts, peak = json.loads(split.read_text())
                rest = wall - sum(parts.values())
                runs.append({"wall, s": wall, **parts, "Python's start and end, s": rest, "peak, MB": peak})
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


def _in_turns(commands: dict[str, list[str]], folder: Path, n: int, env: dict[str, str] | None = None) -> Seconds:
    return alternate({name: partial(process, command, folder, env) for name, command in commands.items()}, n)
