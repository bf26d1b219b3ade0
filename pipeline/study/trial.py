"""One training of a sweep, from its settings to its outcome; nothing that goes wrong in it ends the sweep."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.address import redact
from pipeline.command import USERS_ERRORS, one_line
from pipeline.config import Settings, parse
from pipeline.errors import Pruned, SettingsError
from pipeline.files import replacing

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pipeline.train import Part
    from pipeline.trained import Trained

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
FILE = "outcome.json"  # in the trial's folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: complete, pruned or failed.
        overrides: all of the trial.
        value: the objective; None where it failed.
        seconds: that it took.
        record_id: of its run, if it got so far.
        weights_sha256: of what it has learned, if complete.
        error: of a failed one, in a line.
        reused: whether an earlier training was taken instead.
        net: that was trained; None where the settings were not read.
        dataset: that it was trained on; likewise.
        warm_start: whether its settings have a Keras net start from earlier weights, as no stage can.
    """

    state: str
    overrides: tuple[str, ...]
    value: float | None = None
    seconds: float = 0.0
    record_id: str | None = None
    weights_sha256: str | None = None
    error: str | None = None
    reused: bool = False
    net: str | None = None
    dataset: str | None = None
    warm_start: bool = False


@dataclass(frozen=True)
class Row:
    """A trial of a sweep.

    Attributes:
        number: from 0.
        params: what differs between the trials, as texts.
        outcome: how it ended.
        folder: where its files are.
    """

    number: int
    params: Mapping[str, str]
    outcome: Outcome
    folder: Path = field(default=Path())


def settings_of(composed: "DictConfig") -> Settings:
    """Return the settings that Hydra has composed for one training, checked.

    Raises:
        SettingsError: they are not allowed, or have no such objective.
    """
    from omegaconf import OmegaConf, open_dict

    from pipeline.train import check_objective

    own = composed.copy()
    with open_dict(own):
        own.pop("hydra", None)
    settings = parse(OmegaConf.to_container(own, resolve=True))  # type: ignore[arg-type]
    check_objective(settings)
    return settings


def train(
    composed: "DictConfig",
    folder: Path,
    overrides: Sequence[str],
    part: "Part",
    keep: Callable[[Outcome], object] = lambda outcome: None,
) -> Outcome:
    """Train, and return how it ended.

    Args:
        composed: by Hydra.
        folder: where the trained net is written, in a folder `net`.
        overrides: all of the trial.
        part: what the sweep adds to the run.
        keep: called with the outcome of a complete one before its run ends. So a process that is killed between the
            two leaves nothing that would be trained again.
    """
    started = time.monotonic()
    outcome = Outcome(FAILED, tuple(overrides))
    try:
        settings = settings_of(composed)
        dataset = settings.section(settings.net).dataset
        outcome = replace(outcome, net=settings.net, dataset=dataset, warm_start=settings.keras.warm_start)
        return _trained(settings, folder, outcome, part, keep, started)
    except Pruned:
        outcome = replace(outcome, state=PRUNED)
    except USERS_ERRORS as error:
        outcome = replace(outcome, error=told(error))
    except Exception as error:  # a fault, of the code or of TensorFlow: that one trial's
        log.exception("trial in %s", folder)
        outcome = replace(outcome, error=told(error))
    return replace(outcome, seconds=round(time.monotonic() - started, 3), record_id=part.record_id)


def _trained(
    settings: Settings,
    folder: Path,
    outcome: Outcome,
    part: "Part",
    keep: Callable[[Outcome], object],
    started: float,
) -> Outcome:
    from pipeline import train

    made: list[Outcome] = []

    def on_result(result: "Trained") -> None:
        value = train.objective_of(settings, result)
        if not math.isfinite(value):
            raise SettingsError(f"objective: a finite {settings.objective} is needed, but got {value}")
        seconds = round(time.monotonic() - started, 3)
        known: dict[str, Any] = {
            "record_id": part.record_id,
            "weights_sha256": result.weights_sha256,
            "seconds": seconds,
        }
        made.append(replace(outcome, state=COMPLETE, value=value, **known))
        keep(made[0])

    part.on_result = on_result
    train.run(settings, folder, list(outcome.overrides), part)
    return made[0]


def told(error: BaseException) -> str:
    """Return an error as an outcome has it: in one line, without a password."""
    return redact(" ".join(f"{type(error).__name__}: {one_line(error)}".split()))


def save(outcome: Outcome, folder: Path, **more: Any) -> None:
    """Write an outcome into the trial's folder, whole or not at all."""
    with replacing(folder / FILE) as new:
        new.write_text(json.dumps(asdict(outcome) | more, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, Any] | None:
    """Return what `save` wrote, or None where there is nothing."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def outcome_from(plain: Mapping[str, Any]) -> Outcome:
    """Return the outcome that was kept as plain values, among others."""
    known = {key: plain[key] for key in Outcome.__dataclass_fields__ if key in plain}
    return Outcome(**known | {"overrides": tuple(known["overrides"])})
