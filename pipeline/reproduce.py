"""`python -m pipeline.reproduce RUN_ID`: a tracked run made again from its own bytes, code and settings.

Exit code 0: identical to the last bit; 1: it differs; 2: it cannot be told, as something is missing.
"""

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import cache, lineage, tracking, trained
from pipeline.address import redact
from pipeline.command import USERS_ERRORS, one_line, parsing_command
from pipeline.config import Settings, read_yaml
from pipeline.lineage import named, said
from pipeline.recipe import Recipe, own_recipe, recipe_here
from pipeline.retrain import DATA, ERROR_FILE
from pipeline.tracking import PastRun
from pipeline.tracking.table import own_settings
from pipeline.trained import Trained

IDENTICAL, DIFFERENT, MISSING = 0, 1, 2
PREFIX = "reproduce-"  # of the temporary folders, by which a worktree is known as one of this command

log = logging.getLogger(__name__)


class MissingError(Exception):
    """Something that the run was made with is not here: names it, and how to get it."""


def run(past: PastRun, recipe: Recipe, root: Path, *, here: bool, force: bool) -> Trained:
    """Return what the training of `past` gives when it is made again.

    Args:
        past: the run.
        recipe: with what.
        root: the project.
        here: train with the code of this checkout instead of the run's own.
        force: go on although processor or libraries are others, or changes of the code are missing.

    Raises:
        MissingError: data, code, processor or a library of the run is not here.
    """
    differing = _differing_machine(past)
    if differing and not force:
        raise MissingError(
            f"the run was made with {'; '.join(differing)}: use such a machine, or --force to see whether it matters"
        )
    if past.code.left_out and not here and not force:
        raise MissingError(
            f"the run's {lineage.DIFF_FILE} lacks what was changed in {named(past.code.left_out)}: --here trains "
            "with this checkout's code, --force without it"
        )
    if past.code.unread and not here:
        log.warning("not kept of the run, and no training reads it: %s", named(past.code.unread))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        inputs = Path(folder)
        (inputs / "settings.yaml").write_text(recipe.settings, encoding="utf-8")
        _bring_inputs(past, inputs, root)
        with _checkout(past, root, inputs) if not here else contextlib.nullcontext(root) as code:
            log.info("training with the code in %s", "this checkout" if here else f"commit {past.code.commit[:10]}")
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.retrain", folder], cwd=code, env=_environment(code), check=False
            )
        if done.returncode:
            error = inputs / ERROR_FILE
            raise MissingError(error.read_text("utf-8") if error.is_file() else "the training failed: see above")
        return trained.load(inputs / "net")


def differences(first: Trained, again: Trained) -> list[str]:
    """Return a line for each array and each curve that differs, with where and by how much; empty if identical.

    >>> from dataclasses import replace
    >>> net = Trained("scratch", "synthetic", ("tanh",), {"W1": np.zeros(2)}, {"loss": [0.5, 0.25]}, "")
    >>> differences(net, replace(net, weights={"W1": np.array([0.0, 0.5])}, history={"loss": [0.5, 0.375]}))
    ['W1: 1 of 2 weights differ, by up to 0.5', 'loss: differs from epoch 2 on, by up to 0.125']
    """
    lines = [_differing_array(name, first.weights[name], again.weights.get(name)) for name in first.weights]
    lines += [_differing_curve(key, first.history[key], again.history.get(key, [])) for key in first.history]
    extra = (again.weights.keys() - first.weights.keys()) | (again.history.keys() - first.history.keys())
    return [line for line in lines if line] + [f"{name}: only in the new run" for name in sorted(extra)]


def _differing_array(name: str, first: np.ndarray, again: np.ndarray | None) -> str:
    if again is None or again.shape != first.shape or again.dtype != first.dtype:
        found = "is missing" if again is None else f"is {again.dtype} {again.shape}"
        return f"{name}: {found} in the new run, {first.dtype} {first.shape} in the first"
    differs = first != again
    if not differs.any():
        return ""
    largest = np.abs(first.astype(np.float64) - again.astype(np.float64)).max()
    return f"{name}: {differs.sum()} of {first.size} weights differ, by up to {largest:g}"


def _differing_curve(key: str, first: list[float], again: list[float]) -> str:
    if len(first) != len(again):
        return f"{key}: {len(again)} epochs in the new run, {len(first)} in the first"
    gaps = [abs(one - other) for one, other in zip(first, again, strict=True)]
    if not any(gaps):
        return ""
    epoch = next(epoch for epoch, gap in enumerate(gaps, start=1) if gap)
    return f"{key}: differs from epoch {epoch} on, by up to {max(gaps):g}"


def _differing_machine(past: PastRun) -> list[str]:
    """Return what of the run's machine is otherwise here; threads change no bit."""
    now = lineage.machine()
    return [
        f"{name} {past.tags[name]} (here: {now[name]})"
        for name in ("cpu", "python", *lineage.LIBRARIES)
        if name in past.tags and past.tags[name] != now[name]
    ]


def _bring_inputs(past: PastRun, inputs: Path, root: Path) -> None:
    """Put the run's data and initial weights into `inputs`, or the md5 by which the data can be made again."""
    md5 = past.tags["data.md5"]
    data = cache.find(md5, root)
    if data:
        (inputs / DATA).symlink_to(data)
    (inputs / "data.md5").write_text(md5, encoding="utf-8")
    initial_md5 = past.tags.get("initial.md5")
    if initial_md5:
        initial = cache.find(initial_md5, root)
        if initial is None:
            raise MissingError(
                f"the weights that the run started from (md5 {initial_md5}) are not in DVC's cache: "
                "`dvc pull --all-commits` may bring them"
            )
        (inputs / "initial.npz").symlink_to(initial)


@contextlib.contextmanager
def _checkout(past: PastRun, root: Path, folder: Path) -> Iterator[Path]:
    """Yield a temporary worktree of the run's commit with the run's own changes applied."""
    code = folder / "code"
    try:
        _git(root, "cat-file", "-e", f"{past.code.commit}^{{commit}}")
    except subprocess.CalledProcessError as error:
        raise MissingError(f"commit {past.code.commit} is not in this repository: `git fetch --all`") from error
    _drop_abandoned(root)
    try:
        try:
            _git(root, "worktree", "add", "--detach", "--quiet", str(code), past.code.commit)
        except subprocess.CalledProcessError as error:
            raise MissingError(f"{code}: git can make no worktree there: {said(error)}") from error
        if past.code.diff:
            _apply(past.folder / lineage.DIFF_FILE, code)
        if not (folder / DATA).is_file():
            _bring_raw(code, root)
        yield code
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # there is none, or the next call drops it
            _git(root, "worktree", "remove", "--force", str(code))


def _drop_abandoned(root: Path) -> None:
    """Have git forget the worktrees of reproductions that were killed, as soon as their folders are gone."""
    for line in _git(root, "worktree", "list", "--porcelain").splitlines():
        code = Path(line.removeprefix("worktree "))
        if code.parent.name.startswith(PREFIX) and not code.exists():
            with contextlib.suppress(subprocess.CalledProcessError):  # another reproduction was quicker
                _git(root, "worktree", "remove", "--force", str(code))


def _apply(diff: Path, code: Path) -> None:
    try:
        _git(code, "apply", "--binary", "--whitespace=nowarn", str(diff))
    except subprocess.CalledProcessError as error:
        changes = f"the run's changes ({lineage.DIFF_FILE})"
        raise MissingError(f"{changes} do not apply to its commit: {said(error)}") from error


def _bring_raw(code: Path, root: Path) -> None:
    """Link the raw files of the commit's dvc.lock from DVC's cache: so data that are made again need no download."""
    lock = code / "dvc.lock"
    stages = read_yaml(lock).get("stages", {}) if lock.is_file() else {}
    for out in stages.get("fetch", {}).get("outs", []):
        found = cache.find(out["md5"], root)
        if found and not (code / out["path"]).exists():
            (code / out["path"]).parent.mkdir(parents=True, exist_ok=True)
            (code / out["path"]).symlink_to(found)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)
    return os.fsdecode(done.stdout)


def _environment(code: Path) -> dict[str, str]:
    """Return the environment in which `code` is the only project: neither DVC's nor MLflow's variables lead back."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    return clean | {"PYTHONPATH": str(code)}


def _track(past: PastRun, settings: Settings, recipe: Recipe, again: Trained, lines: list[str]) -> None:
    """Leave a run in MLflow that is tagged as the reproduction of the first."""
    how = {
        "stage": "pipeline.reproduce",
        "reproduces": past.run_id,
        "reproduction": "different" if lines else "identical",
    }
    with (
        tracking.start_again(settings, past.opening, recipe.params, recipe.code, recipe.tags | how) as tracked,
        tempfile.TemporaryDirectory() as folder,
    ):
        for epoch in range(again.n_epochs):
            tracked.on_epoch_end(epoch, {key: values[epoch] for key, values in again.history.items()})
        trained.save(again, Path(folder, "net"))
        tracked.log_files(again, Path(folder, "net"), recipe.settings)


def reproduce(run_id: str, *, here: bool, force: bool) -> int:
    """Make a run again, say how it compares, and return the exit code."""
    settings = own_settings()
    with tempfile.TemporaryDirectory() as folder:
        past = tracking.read_past(settings, run_id, Path(folder))
        recipe = recipe_here(past, settings) if here else own_recipe(past)
        again = run(past, recipe, tracking.store_root(), here=here, force=force)
        lines = differences(past.trained, again)
        _track(past, settings, recipe, again, lines)
    for line in lines:
        log.info("%s", line)
    log.info("%s", f"different from run {past.run_id}" if lines else "identical")
    return DIFFERENT if lines else IDENTICAL


@parsing_command
def main() -> None:
    """Parse the command line, and exit with the code of the answer."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.reproduce", description=__doc__)
    parser.add_argument("run_id", help="id of a run in MLflow")
    parser.add_argument("--here", action="store_true", help="train with the code as it now is: did a change matter?")
    parser.add_argument("--force", action="store_true", help="go on although processor, libraries or code differ")
    given = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, signal.default_int_handler)
    try:
        code = reproduce(given.run_id, here=given.here, force=given.force)
    except (MissingError, *USERS_ERRORS) as error:
        log.error("error: %s", redact(one_line(error)))
        code = MISSING
    except Exception:
        log.exception("the run could not be made again")  # not Python's own exit code, 1: that means "it differs"
        code = MISSING
    sys.exit(code)


if __name__ == "__main__":
    main()
