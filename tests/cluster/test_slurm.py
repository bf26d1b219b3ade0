"""Grids through submitit, by the executor that needs no Slurm; and what the preset gives to Slurm's."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from services import need

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("net=scratch", "synthetic.n_samples=300", "synthetic.n_train=200", "scratch.epochs=5")


@pytest.fixture
def run(environment, new_store, tmp_path):
    """Return a function that runs a grid in a folder with a store of its own."""
    need("submitit", "slurm")
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": new_store(tmp_path)}
    own["PIPELINE_RECORDS"] = str(tmp_path / "records")

    def grid(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.train", "-m", *arguments],
            cwd=tmp_path,
            env=environment | own | env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return grid


def test_a_grid_as_submitted_jobs(run, tmp_path):
    grid = ("hydra/launcher=submitit_local", *SMALL, "scratch.n_hidden=4,8,12")
    done = run(*grid, "hydra.sweep.dir=multirun/a/b")
    assert len(re.findall(r"^trial \d \(\d/3\)  val_loss \d\.\d{4}", done.stderr, re.MULTILINE)) == 3, done.stderr
    outcomes = [json.loads(file.read_text()) for file in tmp_path.glob("multirun/a/b/*/outcome.json")]
    assert [one["state"] for one in outcomes] == ["complete"] * 3
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        statuses = store.execute("SELECT status, COUNT(*) FROM runs GROUP BY status").fetchall()
    assert statuses == [("FINISHED", 4)]  # with the parent

    again = run(*grid, "hydra.sweep.dir=multirun/a/c")
    assert len(re.findall(r"^trial \d \(\d/3\)  reused", again.stderr, re.MULTILINE)) == 3, again.stderr


def test_the_preset_is_what_sbatch_gets(run, tmp_path):
    """A stand-in for sbatch takes the script and refuses it, as a cluster does for a partition that is not there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script = tmp_path / "submitted.sh"
    for name, text in {
        "sbatch": f'cp "$1" {script}; echo "no partition night" >&2; exit 1',
        "srun": "exit 1",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    grid = ("hydra/launcher=slurm", "hydra.launcher.partition=night", "hydra.launcher.timeout_min=7", *SMALL)
    told = run(*grid, "scratch.n_hidden=4,8,12", "hydra.sweep.dir=multirun/a/b", code=1, PATH=path)
    assert told.stderr.splitlines()[-1].startswith("error: the launcher: ")
    assert "no partition night" in told.stderr.splitlines()[-1]
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script.read_text(), re.MULTILINE))
    assert (asked["partition"], asked["time"], asked["cpus-per-task"], asked["mem"]) == ("night", "7", "1", "4GB")
    assert asked["array"] == "0-2%3"
