"""Tracked runs for tests: trained in milliseconds, by the from-scratch net, through what the stages call."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline import tracking, train_scratch, trained
from pipeline.config import Settings
from pipeline.lineage import Code, inputs_of

CODE = Code("c" * 40, "")
DATA_MD5 = "d" * 32
T = TypeVar("T")
SUPPOSED = {"test_accuracy": 0.75, "test_loss": 0.5}


def wait_until(holds: Callable[[], T], seconds: float = 30) -> T:
    """Return what `holds()` returns as soon as it is true; fail if that takes longer than so many seconds."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def rows(n: int = 40, k: int = 3) -> dict[str, np.ndarray]:
    """Return a prepared dataset of n rows a part, whose classes are told by the largest of the first k features."""
    rng = np.random.default_rng(n)
    X = rng.random((n, 6))
    Y = np.eye(k)[X[:, :k].argmax(axis=1)]
    return {f"{kind}_{part}": array for part in ("train", "val", "test") for kind, array in (("X", X), ("Y", Y))}


def track(
    settings: Settings,
    folder: Path,
    net: str = "scratch",
    figures: dict[str, float] | None = SUPPOSED,
    overrides: tuple[str, ...] = (),
) -> str:
    """Train as a tracked run, and return its MLflow id.

    Args:
        settings: all settings; section scratch trains, whatever the net.
        folder: where the trained net is written.
        net: whose params and name the run has.
        figures: of an evaluation; None: there was none.
        overrides: for the run's name.
    """
    data = rows()
    inputs = inputs_of(settings.section(net).dataset, data, DATA_MD5)
    with tracking.start_run(settings, net, inputs, overrides, code=CODE) as run:
        result = train_scratch.run(settings.scratch, data, settings.seed, run.on_epoch_end)
        trained.save(result, folder / run.record_id)
        run.log_files(result, folder / run.record_id, tracking.settings_text(settings, "scratch"))
        if figures:
            run.log_report(figures, {})
    return run.run_id


def fail(settings: Settings) -> None:
    """Start a run that ends with an error.

    Raises:
        ValueError: always.
    """
    with tracking.start_run(settings, "scratch", inputs_of("mnist", rows(), DATA_MD5), code=CODE):
        raise ValueError("on purpose")
