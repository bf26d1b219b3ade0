"""Where a run comes from: the code with its changes, the bytes of its inputs, the settings, the machine."""

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from pipeline.config import PARAMS_FILE, Settings, flatten, to_dict
from pipeline.files import Arrays, file_md5

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("dvc", "hydra-core", "keras", "mlflow", "numpy", "scikit-learn", "tensorflow")
DIFF_FILE = "code.diff"  # a run's artifact
# dvc.lock is what comes out, and has a digest of its own. The others change no training, and may hold a password.
NO_CODE = ("dvc.lock", "params.yaml", "conf/tracking", ".dvc")
SCOPE = (".", *(f":(exclude,top){path}" for path in NO_CODE))
LARGEST_UNTRACKED = 2**20  # bytes; a larger file that git does not know is data, not code


@dataclass(frozen=True)
class Code:
    """The code of a checkout.

    Attributes:
        commit: the commit that is checked out; "none" outside a git repository.
        diff: what `git apply --binary` makes of that commit's tree the tree as it is; empty where nothing differs.
    """

    commit: str
    diff: str


@dataclass(frozen=True)
class Inputs:
    """What a training reads.

    Attributes:
        dataset: mnist or synthetic.
        data_md5: DVC's md5 of the prepared dataset.
        n_rows: by context: training, validation, testing.
        initial_md5: DVC's md5 of the weights.npz that it starts from; None where the weights are drawn.
    """

    dataset: str
    data_md5: str
    n_rows: dict[str, int]
    initial_md5: str | None = None


def inputs_of(dataset: str, data: Arrays, data_md5: str, initial_md5: str | None = None) -> Inputs:
    """Return the inputs of a training on `data`, as preprocess makes it."""
    parts = {"training": "X_train", "validation": "X_val", "testing": "X_test"}
    n_rows = {context: len(data[part]) for context, part in parts.items() if len(data[part])}
    return Inputs(dataset, data_md5, n_rows, initial_md5)


def read_code(root: Path = ROOT) -> Code:
    """Return the commit and the changes of a checkout, without touching its index or its objects.

    Untracked files that git does not ignore are part of the changes, unless larger than LARGEST_UNTRACKED.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return Code("none", "")
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SCOPE).split("\0")
    small = [name for name in untracked if name and (root / name).lstat().st_size <= LARGEST_UNTRACKED]
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": f"{folder}/index"}
        index = root / _git(root, "rev-parse", "--git-path", "index").strip()
        if index.exists():
            shutil.copy(index, f"{folder}/index")
        if small:
            _git(root, "add", "--intent-to-add", "--", *small, env=own)
        diff = _git(root, "diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", "--", *SCOPE, env=own)
    return Code(commit, diff)


def overrides(root: Path = ROOT) -> list[str]:
    """Return what params.yaml sets otherwise than the committed one does, as overrides: `keras.units=64`."""
    try:
        committed = flatten(yaml.safe_load(_git(root, "show", f"HEAD:./{PARAMS_FILE}")))
        current = flatten(yaml.safe_load((root / PARAMS_FILE).read_text(encoding="utf-8")))
    except (OSError, subprocess.CalledProcessError):
        return []
    return [
        f"{key}={value if isinstance(value, str) and value.isidentifier() else json.dumps(value)}"
        for key, value in current.items()
        if committed.get(key, ...) != value and not key.startswith("tracking.")
    ]


def settings_sha256(settings: Settings) -> str:
    """Return the SHA-256 of all settings but those of tracking, which change no result."""
    plain = to_dict(settings)
    del plain["tracking"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


@functools.cache  # 5 ms, which a sweep of short trainings would pay for each
def machine() -> dict[str, str]:
    """Return what may change the last bits: the processor, how many of it there are, Python and libraries."""
    return {
        "cpu": _cpu(),
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def threads_of(net: str) -> str:
    """Return with how many threads a training of `net` computes.

    The from-scratch net takes one; TensorFlow takes TF_NUM_INTRAOP_THREADS, or as many as there are processors.
    """
    asked = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    if net == "scratch":
        return "1"
    return asked if asked.isdecimal() and int(asked) else machine()["cpus"]


def tags(settings: Settings, net: str, inputs: Inputs, code: Code, given: Sequence[str]) -> dict[str, str]:
    """Return the lineage of a training as tags of text.

    Args:
        settings: all settings.
        net: that is trained.
        inputs: what the training reads.
        code: the code that trains.
        given: the overrides.
    """
    read = {"data.name": inputs.dataset, "data.md5": inputs.data_md5}
    if inputs.initial_md5:
        read["initial.md5"] = inputs.initial_md5
    return read | {"threads": threads_of(net)} | origin(settings, code, given)


def origin(settings: Settings, code: Code, given: Sequence[str]) -> dict[str, str]:
    """Return what of a run's lineage can be told before any data are read: code, settings, machine.

    Args:
        settings: all settings.
        code: the code that runs.
        given: the overrides.
    """
    lock = ROOT / "dvc.lock"
    found = {
        "git.commit": code.commit,
        "git.dirty": "true" if code.diff else "false",
        "dvc.lock_md5": file_md5(lock) if lock.is_file() else "",
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "stage": os.environ.get("DVC_STAGE", "pipeline.train"),
        "overrides": " ".join(text for text in given if not text.lstrip("+~").startswith("tracking.")),
        "settings_sha256": settings_sha256(settings),
        **machine(),
    }
    return {name: value for name, value in found.items() if value}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Return what git prints; a file's bytes that are no UTF-8 pass through unharmed."""
    done = subprocess.run(
        ["git", "-c", "core.quotepath=off", "-C", str(root), *arguments],
        env=os.environ | (env or {}),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode("utf-8", "surrogateescape")
