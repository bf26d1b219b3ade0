"""Where a run comes from: the code with its changes, the bytes of its inputs, the settings, the machine."""

import contextlib
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

from pipeline.address import holds_secret, redact
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
DIFF_OPTIONS = (
    *("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--submodule=short"),
    *("--ignore-submodules=dirty", "--src-prefix=a/", "--dst-prefix=b/", "-U3", "--inter-hunk-context=0"),
    "-O/dev/null",  # no order of the user's
)
FROM_STDIN = ("--pathspec-from-file=-", "--pathspec-file-nul")  # there may be more names than a command line holds
LARGEST_UNTRACKED = 2**20  # bytes; a larger file that git does not know is data, not code
MOST_UNTRACKED = 2**23  # bytes of all such files together
MAY_TRAIN = re.compile(r"(pipeline|conf|hydra_plugins)/|(dvc\.yaml|pyproject\.toml|requirements[^/]*\.txt)$")
SECRET = "a password or token stands in it"  # why a file is left out
LARGE = f"over {LARGEST_UNTRACKED >> 20} MiB"
MANY = f"with those that git does not know, over {MOST_UNTRACKED >> 20} MiB"
NESTED = "a git repository of its own"
N_NAMED = 10  # files, where more of them would fill a screen


@dataclass(frozen=True)
class Code:
    """The code of a checkout.

    Attributes:
        commit: the commit that is checked out; "none" outside a git repository.
        diff: what `git apply --binary` makes of that commit's tree the tree as it is; empty where nothing differs.
        left_out: the changed files that `diff` lacks and a training may read, each with why.
        lock: the text of dvc.lock; empty where there is none.
        unread: likewise the files that no training reads.
    """

    commit: str
    diff: str
    left_out: tuple[str, ...] = ()
    lock: str = ""
    unread: tuple[str, ...] = ()


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


def named(files: Sequence[str]) -> str:
    """Return names in one line, of many the first ones.

    >>> named(("a.py (over 1 MiB)", "b.py"))
    'a.py (over 1 MiB), b.py'
    """
    n_more = len(files) - N_NAMED
    return ", ".join(files[:N_NAMED]) + (f" and {n_more} more" if n_more > 0 else "")


def inputs_of(dataset: str, data: Arrays, data_md5: str, initial_md5: str | None = None) -> Inputs:
    """Return the inputs of a training on `data`, as preprocess makes it."""
    parts = {"training": "X_train", "validation": "X_val", "testing": "X_test"}
    n_rows = {context: len(data[part]) for context, part in parts.items() if len(data[part])}
    return Inputs(dataset, data_md5, n_rows, initial_md5)


def read_code(root: Path = ROOT) -> Code:
    """Return the commit and the changes of a checkout, without touching its index or its objects.

    Untracked files that git does not ignore are part of the changes, unless larger than LARGEST_UNTRACKED: such are
    data, if they do not stand where a training's code does. What is left out: files whose diff holds a secret, as a
    run is for others to read; the largest untracked ones, if all of them are more than MOST_UNTRACKED; repositories
    within this one; and everything, if git can make no diff.
    """
    lock_file = root / LOCK_FILE
    lock = lock_file.read_bytes().decode("utf-8", "surrogateescape") if lock_file.is_file() else ""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return Code("none", "", lock=lock)
    try:
        diff, left_out = _changes(root)
    except (OSError, subprocess.CalledProcessError) as error:
        return Code(commit, "", (f"every change ({said(error)})",), lock)
    told = {name: f"{name} ({why})" for name, why in left_out.items()}
    return Code(
        commit,
        diff,
        tuple(text for name, text in told.items() if MAY_TRAIN.match(name)),
        lock,
        tuple(text for name, text in told.items() if not MAY_TRAIN.match(name)),
    )


def _changes(root: Path) -> tuple[str, dict[str, str]]:
    """Return the diff, and why it lacks which changed files."""
    small, left_out = _untracked(root)
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": f"{folder}/index", "GIT_DIFF_OPTS": ""}
        # without the times and sizes in the user's: DVC's copies have them wrong, and an edit would be overlooked
        known = _git(root, "ls-files", "--stage", "--full-name", "-z")
        _git(root, "update-index", "-z", "--index-info", env=own, given=known.split("\0"))
        if small:
            _git(root, "add", "--intent-to-add", *FROM_STDIN, env=own, given=small)
        whole = _git(root, "diff", *DIFF_OPTIONS, "HEAD", "--", *SCOPE, env=own)
    parts = [(_name(part), part) for part in re.split(r"^(?=diff --git )", whole, flags=re.MULTILINE)]
    left_out |= {name: SECRET for name, part in parts if holds_secret(part)}
    return "".join(part for name, part in parts if name not in left_out), left_out


def _name(part: str) -> str:
    """Return the name of the file that a part of a diff is of.

    >>> _name("diff --git a/my b/x.py b/my b/x.py")
    'my b/x.py'
    """
    both = part.partition("\n")[0].removeprefix("diff --git ")  # the same twice; in quotes where git has to escape
    return both[len(both) // 2 + 1 :].strip('"').removeprefix("b/")


def _untracked(root: Path) -> tuple[list[str], dict[str, str]]:
    """Return the files that git does not know: the code among them, smallest first; and what of it is left out."""
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SCOPE).split("\0")
    left_out = {name: NESTED for name in untracked if name.endswith("/")}
    sizes = []
    for name in untracked:
        if name and name not in left_out:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                sizes.append(((root / name).lstat().st_size, name))
    sizes.sort()
    left_out |= {name: LARGE for size, name in sizes if size > LARGEST_UNTRACKED and MAY_TRAIN.match(name)}
    small = [(size, name) for size, name in sizes if size <= LARGEST_UNTRACKED]
    totals = itertools.accumulate(size for size, _ in small)
    n_taken = sum(total <= MOST_UNTRACKED for total in totals)
    names = [name for _, name in small]
    return names[:n_taken], left_out | dict.fromkeys(names[n_taken:], MANY)


def said(error: OSError | subprocess.CalledProcessError) -> str:
    """Return the first line of what git has said of a failure, without a password; or why it was not asked."""
    if isinstance(error, subprocess.CalledProcessError):
        text = os.fsdecode(error.stderr).strip() or f"git ended with {error.returncode}"
    else:
        text = str(error)
    return redact(text.partition("\n")[0])


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
    unread = (f"{LOCK_FILE} ({SECRET})", *code.unread) if holds_secret(code.lock) else code.unread
    found = {
        "git.commit": code.commit,
        "git.dirty": "true" if code.diff or code.left_out or code.unread else "false",
        "git.left_out": named(code.left_out),
        "git.left_out_unread": named(unread),
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
