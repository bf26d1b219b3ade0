"""Where a run comes from: the code with its changes, the bytes of its inputs, the settings, the machine."""

import functools
import hashlib
import itertools
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from pipeline.address import redact
from pipeline.config import PARAMS_FILE, Settings, flatten, to_dict
from pipeline.files import Arrays

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("dvc", "hydra-core", "keras", "mlflow", "numpy", "scikit-learn", "tensorflow")
DIFF_FILE = "code.diff"  # a run's artifact
LOCK_FILE = "dvc.lock"  # likewise
# dvc.lock is what comes out, and an artifact of its own. The others change no training, and may hold a password.
NO_CODE = (LOCK_FILE, "params.yaml", "conf/tracking", ".dvc", "**/.env*")
SCOPE = (".", *(f":(exclude,top,glob){path}" for path in NO_CODE))
# whatever the user's own settings of git say
DIFF_OPTIONS = ("--binary", "--no-ext-diff", "--no-color", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
FROM_STDIN = ("--pathspec-from-file=-", "--pathspec-file-nul")  # there may be more names than a command line holds
LARGEST_UNTRACKED = 2**20  # bytes; a larger file that git does not know is data, not code
MOST_UNTRACKED = 2**23  # bytes of all such files together
N_NAMED = 10  # files, where more of them would fill a screen


@dataclass(frozen=True)
class Code:
    """The code of a checkout.

    Attributes:
        commit: the commit that is checked out; "none" outside a git repository.
        diff: what `git apply --binary` makes of that commit's tree the tree as it is; empty where nothing differs.
        left_out: the changed files that `diff` lacks.
        lock: the text of dvc.lock; empty where there is none.
    """

    commit: str
    diff: str
    left_out: tuple[str, ...] = ()
    lock: str = ""

    @property
    def left_out_names(self) -> str:
        """Return the names of the files that the diff lacks, of many the first ones; empty where it has all.

        >>> Code("c0ffee", "", ("a.py", "b.py")).left_out_names
        'a.py, b.py'
        """
        n_more = len(self.left_out) - N_NAMED
        return ", ".join(self.left_out[:N_NAMED]) + (f" and {n_more} more" if n_more > 0 else "")


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

    Untracked files that git does not ignore are part of the changes, unless larger than LARGEST_UNTRACKED. What is
    left out, but for these: files whose diff holds an address with a password, as a run is for others to read, and
    the largest untracked ones, if all of them are more than MOST_UNTRACKED.
    """
    lock_file = root / LOCK_FILE
    lock = lock_file.read_bytes().decode("utf-8", "surrogateescape") if lock_file.is_file() else ""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return Code("none", "", lock=lock)
    small, left_out = _untracked(root)
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": f"{folder}/index"}
        # without the times and sizes in the user's: DVC's copies have them wrong, and an edit would be overlooked
        known = _git(root, "ls-files", "--stage", "--full-name", "-z")
        _git(root, "update-index", "-z", "--index-info", env=own, given=known.split("\0"))
        if small:
            _git(root, "add", "--intent-to-add", *FROM_STDIN, env=own, given=small)
        whole = _git(root, "diff", *DIFF_OPTIONS, "HEAD", "--", *SCOPE, env=own)
    parts = re.split(r"^(?=diff --git )", whole, flags=re.MULTILINE)
    secret = [part for part in parts if _has_secret(part)]
    left_out += [part.partition("\n")[0].rpartition(" b/")[2] for part in secret]
    return Code(commit, "".join(part for part in parts if part not in secret), tuple(left_out), lock)


def _untracked(root: Path) -> tuple[list[str], list[str]]:
    """Return the files that git does not know: the code among them, smallest first, and what is too much of it."""
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SCOPE).split("\0")
    sizes = sorted(((root / name).lstat().st_size, name) for name in untracked if name)
    small = [(size, name) for size, name in sizes if size <= LARGEST_UNTRACKED]
    totals = itertools.accumulate(size for size, _ in small)
    n_taken = sum(total <= MOST_UNTRACKED for total in totals)
    names = [name for _, name in small]
    return names[:n_taken], names[n_taken:]


def _has_secret(diff: str) -> bool:
    return any("://" in line and redact(line) != line for line in diff.splitlines())


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
    lock = code.lock.encode("utf-8", "surrogateescape")
    found = {
        "git.commit": code.commit,
        "git.dirty": "true" if code.diff or code.left_out else "false",
        "git.left_out": code.left_out_names,
        "dvc.lock_md5": hashlib.md5(lock, usedforsecurity=False).hexdigest() if lock else "",
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


def _git(root: Path, *arguments: str, env: dict[str, str] | None = None, given: Sequence[str] = ()) -> str:
    """Return what git prints; a file's bytes that are no UTF-8 pass through unharmed. It may read names."""
    done = subprocess.run(
        ["git", "-c", "core.quotepath=off", "-C", str(root), *arguments],
        env=os.environ | (env or {}),
        input=os.fsencode("\0".join(given)),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode("utf-8", "surrogateescape")
