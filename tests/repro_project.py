"""A clone of the project with settings so small that its whole DAG takes seconds, and what `dvc` says there."""

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

FAILED = 255  # what DVC exits with where a stage has exited with 1
STAGES = ["compose", "fetch", "load", "synthesize", "preprocess", "train_scratch", "train_keras", "evaluate"]
SMALL = {  # in conf/: the whole DAG in seconds
    "mnist": ("config.yaml", "mnist: full", "mnist: digits"),
    "n_samples": ("synthetic/lesson.yaml", "n_samples: 5000", "n_samples: 300"),
    "n_train": ("synthetic/lesson.yaml", "n_train: 4000", "n_train: 200"),
    "scratch": ("scratch/default.yaml", "epochs: 500", "epochs: 4"),
    "units": ("keras/default.yaml", "units: 512", "units: 16"),
    "keras": ("keras/default.yaml", "\nepochs: 10", "\nepochs: 2"),
    "jit": ("keras/default.yaml", "jit_compile: true", "jit_compile: false"),
}


@dataclass(frozen=True)
class Project:
    """A clone of the project."""

    root: Path
    call: Callable

    def dvc(self, *arguments: str, code: int = 0):
        return self.call(self.root, "dvc", *arguments, code=code)

    def repro(self, code: int = 0):
        return self.dvc("repro", code=code)

    def json(self, *arguments: str):
        return json.loads(self.dvc(*arguments, "--json").stdout)

    def git_status(self) -> str:
        return self.call(self.root, "git", "status", "--porcelain").stdout

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} does not say {old!r} once"
        path.write_text(text.replace(old, new))

    def read(self, file: str) -> bytes:
        return (self.root / file).read_bytes()

    def params(self) -> dict:
        return yaml.safe_load(self.read("params.yaml"))

    def bytes_of(self, folder: str) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((self.root / folder).rglob("*")) if path.is_file()}

    def query(self, sql: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.root / "mlflow.db")) as connection:
            return connection.execute(sql).fetchall()

    def n_runs(self) -> int:
        return self.query("SELECT count(*) FROM runs")[0][0]


def ran(done) -> list[str]:
    """Return the stages whose command `dvc` has run."""
    return re.findall(r"^Running stage '(\w+)'", done.stdout, re.MULTILINE)


def errors(done) -> list[str]:
    """Return all lines that a stage that fails has written after its log, without DVC's closing word on it."""
    lines = done.stderr.splitlines()
    first = next(i for i, line in enumerate(lines) if line.lower().startswith(("error", "traceback")))
    return [line for line in lines[first:] if line and "failed to reproduce" not in line]


def copied(project: Project, folder: Path) -> Project:
    """Return a copy with everything committed."""
    copy = Project(shutil.copytree(project.root, folder, symlinks=True), project.call)
    copy.call(copy.root, "git", "commit", "-qam", "Reproduced")
    return copy
