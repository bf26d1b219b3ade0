"""One training outside the DAG, as a Hydra app: `python -m pipeline.train net=keras keras.units=64`."""

import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.address import NOT_TO_A_FILE, redact
from pipeline.command import INTERRUPTED, USERS_ERRORS, collect_rarely, configure_logging, one_line
from pipeline.config import DATASETS, NETS, Settings, parse
from pipeline.errors import DataError, SettingsError, SweepError
from pipeline.paths import RUNS, TEST_CSV, TRAIN_CSV

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pipeline.files import Arrays
    from pipeline.trained import OnEpochEnd, Trained

CONF = Path(__file__).resolve().parents[1] / "conf"

NO_DATA = (
    "data {md5} ({name}): neither DVC's cache in {root} nor its remote has them, and they cannot be made there "
    "({reason}); `dvc push` where the sweep was started, after a look at the remote"
)

_last_data: dict[str, Any] = {}
_last_weights: dict[str, "Arrays"] = {}  # by md5: those that a node was sent

log = logging.getLogger(__name__)


@dataclass
class Part:
    """What a training that is one of a sweep's has beside its settings.

    Attributes:
        parent: the sweep's own run.
        tags: for this run.
        on_epoch_end: called with the epoch from 0 and its metrics; may raise Pruned.
        on_result: called with what was learned, before the run ends.
        named: the id that this run's record is to have; None: any.
        record_id: of this run's record, as soon as there is one.
    """

    parent: str | None
    tags: Mapping[str, str]
    on_epoch_end: "OnEpochEnd"
    on_result: "Callable[[Trained], object] | None" = None
    named: str | None = None
    record_id: str | None = None


def run(settings: Settings, folder: Path, overrides: list[str], part: Part | None = None) -> "Trained":
    """Train and evaluate `settings.net` on data made for these settings, as one tracked run.

    Args:
        settings: all settings.
        folder: where the trained net is written, in a folder `net`.
        overrides: what was asked for on the command line, for the run's name.
        part: where it is one of a sweep's, which then shows itself; else the training does.
    """
    from pipeline import evaluate, prepared, tracking, trained
    from pipeline.lineage import inputs_of
    from pipeline.progress import describe, each, progress

    tracking.prepare()  # starts now what takes seconds to start
    section = settings.section(settings.net)
    data, data_md5 = data_of(settings)
    initial, initial_md5 = initial_of(settings)
    inputs = inputs_of(section.dataset, data, data_md5, initial_md5)
    shown = contextlib.nullcontext(part.on_epoch_end) if part else progress(settings.net, section.epochs)
    member = tracking.Member(part.parent, part.tags, part.named) if part else tracking.Member()
    started = tracking.start_run(settings, settings.net, inputs, overrides, member=member)
    with started as tracked, shown as show:
        if part:
            part.record_id = tracked.record_id
        result, model = fit(settings, data, each(tracked.on_epoch_end, show), initial)
        trained.save(result, folder / "net")
        files = folder / "net"
        tracked.log_trained(
            result, files, settings, example=prepared.inputs(data["X_test"][:2]), model=model, with_model=part is None
        )
        report = evaluate.run(result, data, with_images=part is None)
        tracked.log_report(report.metrics, report.images, report.per_class)
        if part and part.on_result:
            part.on_result(result)
    if not part:
        log.info("%s", describe({name: report.metrics[name] for name in ("test_accuracy", "test_loss")}))
        log.info("run %s, in %s", tracked.run_id or tracked.record_id, folder)
        log.info("in MLflow: %s", tracked.shown_at())
    return result


def data_of(settings: Settings, md5: str | None = None) -> tuple["Arrays", str]:
    """Return the data of `settings.net` as they are kept, see `prepared`, and DVC's md5 of what they are made from.

    The last ones stay in memory: in a sweep many trainings have the same, and making and hashing MNIST takes 2 s.

    Args:
        settings: all settings.
        md5: that the data have elsewhere: then DVC's cache and remote are asked for them before they are made.
    """
    from pipeline import cache, dataset, tracking
    from pipeline.files import load_arrays

    name = settings.section(settings.net).dataset
    own = (settings.mnist.train_csv, settings.mnist.test_csv)
    files = [Path(file) for file in own if file is not None] or [TRAIN_CSV, TEST_CSV]
    stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if name == "mnist" and file.exists()]
    key = (name, settings.synthetic if name == "synthetic" else settings.mnist, settings.preprocess, settings.seed)
    if _last_data.get("key") != (*key, *stamps):
        _last_data.clear()  # first, so that two are never in memory at once
        found = cache.find(md5, tracking.store_root()) if md5 else None
        if found and md5:
            _last_data.update(key=(*key, *stamps), md5=md5, data=load_arrays(found))
        else:
            made = dataset.make(settings, name) if md5 is None else _made_here(settings, name, md5)
            if name == "mnist" and settings.mnist.train_csv is not None:
                cache.keep(made, tracking.store_root())  # nothing else could bring the user's own data back
            _last_data.update(key=(*key, *stamps), md5=cache.arrays_md5(made), data=made)
    return _last_data["data"], _last_data["md5"]


def _made_here(settings: Settings, name: str, md5: str) -> "Arrays":
    """Return data that could not be brought."""
    from pipeline import dataset, tracking

    try:
        return dataset.make(settings, name)
    except (DataError, OSError) as error:
        given = {"md5": md5, "name": name, "root": tracking.store_root(), "reason": one_line(error)}
        raise DataError(NO_DATA.format(**given)) from error


def warm_up(settings: Settings) -> None:
    """Load what a training of `settings.net` needs: its data, and TensorFlow."""
    if settings.net == "keras":
        from pipeline import train_keras

        train_keras.load()
    data_of(settings)


def fit(
    settings: Settings, data: "Arrays", on_epoch_end: "OnEpochEnd", initial: "Arrays | None" = None
) -> tuple["Trained", Any]:
    """Return what `settings.net` learns from `data`, and the `keras.Model` if it is one.

    Args:
        settings: all settings.
        data: a prepared dataset.
        on_epoch_end: called with the epoch from 0 and its metrics.
        initial: weights that a Keras net starts from; None: drawn anew.
    """
    if settings.net == "scratch":
        from pipeline import train_scratch

        return train_scratch.run(settings.scratch, data, settings.seed, on_epoch_end), None

    from pipeline import train_keras

    return train_keras.run(settings.keras, data, settings.seed, on_epoch_end, initial=initial)


def initial_of(settings: Settings, md5: str | None = None) -> tuple["Arrays | None", str | None]:
    """Return the weights that the training starts from, and the md5 of their file; None where they are drawn.

    Args:
        settings: all settings.
        md5: that the file has elsewhere: then it is brought by DVC, for this and all later calls.

    Raises:
        DataError: DVC has it neither in its cache nor in its remote.
    """
    from pipeline import cache, tracking, trained
    from pipeline.files import file_md5, load_arrays

    if settings.net != "keras" or not settings.keras.warm_start:
        return None, None
    if md5 and md5 not in _last_weights:
        found = cache.find(md5, tracking.store_root())
        if found is None:
            given = {"md5": md5, "name": "the weights at the start", "root": tracking.store_root()}
            raise DataError(NO_DATA.format(**given, reason="they come from a training"))
        _last_weights.clear()
        _last_weights[md5] = load_arrays(found)
    if _last_weights:
        return next((weights, known) for known, weights in _last_weights.items())
    folder = RUNS / "keras"
    return trained.load(folder).weights, file_md5(folder / "weights.npz")


def check_objective(settings: Settings) -> None:
    """Raise SettingsError where the run will have no such figure as `objective`: it has no validation rows."""
    if settings.objective.startswith("val_") and settings.preprocess.validation_fraction == 0:
        raise SettingsError(
            f"objective: loss or accuracy is needed where preprocess.validation_fraction is 0, "
            f"but got {settings.objective}; see conf/config.yaml"
        )


def objective_of(settings: Settings, result: "Trained") -> float:
    """Return the objective: of the last epoch; of that with the least val_loss where its weights were restored."""
    values = result.history[settings.objective]
    if settings.net == "keras" and settings.keras.early_stopping is not None:
        losses = result.history["val_loss"]
        return values[losses.index(min(losses))]
    return values[-1]


def check_overrides(settings: Settings, overrides: list[str]) -> None:
    """Raise SettingsError where an override is of a section that the run of `settings.net` does not read.

    Args:
        settings: all settings.
        overrides: as given on the command line.
    """
    dataset = settings.section(settings.net).dataset
    for text in overrides:
        if not is_read(text, settings.net, dataset):
            group = _group(text)
            choice = f"net={group}" if group in NETS else f"{settings.net}.dataset={group}"
            raise SettingsError(
                f"{text}: an override that the run reads is needed, but net={settings.net} on {dataset} reads "
                f"nothing of {group}; leave it out, or add {choice}"
            )


def is_read(override: str, net: str, dataset: str) -> bool:
    """Return whether a training reads what an override, or its key, sets: nothing of the other net, nor of its data.

    >>> is_read("keras.units=64", "keras", "mnist"), is_read("+synthetic.n_samples", "keras", "mnist")
    (True, False)
    """
    return _group(override) not in {*NETS, *DATASETS} - {net, dataset}


def _group(override: str) -> str:
    return re.split(r"\W", override.lstrip("+~"), maxsplit=1)[0]


def app(composed: "DictConfig") -> float:
    """Train with what Hydra has composed, and return the objective."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    if hydra.mode == RunMode.MULTIRUN:
        from pipeline.study import grid

        return grid.job(composed, hydra)
    settings = parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    check_objective(settings)
    check_overrides(settings, overrides)
    result = run(settings, Path(hydra.runtime.output_dir), overrides)
    return objective_of(settings, result)


def _check_secrets(arguments: list[str]) -> None:
    """Exit where an address has a password: Hydra writes its command line to outputs/ before it calls anything."""
    for argument in arguments:
        if redact(argument) != argument:
            sys.exit(f"error: {redact(argument)}: {NOT_TO_A_FILE}")


def _sweep_has_begun() -> bool:
    """Return whether what goes wrong is a sweep's, and no longer Hydra's."""
    return "pipeline.study.sweeper" in sys.modules or "PIPELINE_GRID" in os.environ


def _end_sweep(error: BaseException) -> None:
    """Exit at Ctrl-C as shells expect it, or where a launcher has failed; an open grid tells what has come of it."""
    grid = sys.modules.get("pipeline.study.grid")
    if isinstance(error, KeyboardInterrupt):
        if grid:
            grid.interrupt()
        sys.exit(INTERRUPTED)
    if grid and grid.is_launchers(error):
        grid.interrupt("ended")
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        sys.exit(f"error: the launcher: {redact(lines[0].strip())}")


def main() -> None:
    """Train, sweep or show, as the command line says; a user's mistake ends with one line and exit code 1."""
    configure_logging()
    collect_rarely()
    _check_secrets(sys.argv[1:])
    if not any(argument.startswith("-") for argument in sys.argv[1:]):  # a training, neither a sweep nor a look
        from pipeline import tracking

        tracking.prepare()  # starts now what takes longer to start than Hydra
    _hand_to_hydra()


def _hand_to_hydra() -> None:
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from pipeline.compose import hydras_reason, refuse_aliases

    mistakes: list[Exception] = []
    begun = False

    def task(composed: "DictConfig") -> float:
        nonlocal begun
        begun = True
        try:
            return app(composed)
        except USERS_ERRORS as error:  # Hydra would tell it in its own words
            mistakes.append(error)
            return math.nan

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its own errors on instead of printing them
    try:
        refuse_aliases(CONF)
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {hydras_reason(error)}")
    except (SettingsError, DataError, SweepError) as error:  # a sweep's
        sys.exit(f"error: {one_line(error)}")
    except (ValueError, OSError, yaml.YAMLError) as error:
        if begun or (_sweep_has_begun() and not isinstance(error, OSError)):  # a fault of the code: seen whole
            raise
        if _sweep_has_begun():
            sys.exit(f"error: {one_line(error)}")
        sys.exit(f"error: Hydra cannot start: {' '.join(one_line(error).split())}")
    except (KeyboardInterrupt, Exception) as error:
        _end_sweep(error)
        raise
    if mistakes:
        sys.exit("\n".join(f"error: {one_line(error)}" for error in mistakes))


if __name__ == "__main__":
    main()
