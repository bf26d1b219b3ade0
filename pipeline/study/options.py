"""The settings of a study (conf/hydra/sweeper/study.yaml), checked; the samplers and pruners that they name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

from pipeline.address import redact
from pipeline.config import LARGEST_SEED, NETS, NOT_NEGATIVE, POSITIVE, Rule, Settings, one_of, optional, whole
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    import optuna

SECTION = "hydra.sweeper"
PLACE = "see conf/hydra/sweeper/study.yaml"
Direction = Literal["minimize", "maximize"]
NAME = re.compile(r"[\w.-]+")

RATE = Rule("a number in [0, 1]", lambda value: NOT_NEGATIVE.holds(value) and value <= 1)
PERCENT = Rule("a number in (0, 100)", lambda value: POSITIVE.holds(value) and value < 100)
STUDY_NAME = Rule(
    "letters, digits, `-`, `_` and `.`",
    lambda value: isinstance(value, str) and bool(NAME.fullmatch(value)) and value.strip(".") != "",
)
ADDRESS = Rule("an address or a file", lambda value: isinstance(value, str) and value != "")
HOST = Rule("auto or a host and its port (host:6379)", lambda value: value == "auto" or _is_host(value))
DATABASE = re.compile(r"(postgresql|mysql|mssql|oracle)(\+\w+)?://", re.IGNORECASE)


@dataclass(frozen=True)
class Sampler:
    """How a trial's values are chosen."""

    name: Annotated[str, one_of("tpe", "random", "grid", "cmaes")]
    seed: Annotated[int | None, optional(whole(0, LARGEST_SEED))]
    startup_trials: Annotated[int, whole(0)]


@dataclass(frozen=True)
class Pruner:
    """Which trials are ended early."""

    name: Annotated[str, one_of("none", "median", "percentile", "successive_halving", "hyperband")]
    startup_trials: Annotated[int, whole(0)]
    warmup_epochs: Annotated[int, whole(0)]
    percentile: Annotated[float, PERCENT]
    reduction_factor: Annotated[int, whole(2)]


@dataclass(frozen=True)
class Options:
    """The settings of a study; `direction` and `study_name` are None where they follow from the sweep."""

    sampler: Sampler
    pruner: Pruner
    direction: Annotated[Direction | None, optional(one_of("minimize", "maximize"))]
    n_trials: Annotated[int, whole(1)]
    n_jobs: Annotated[int, whole(1)]
    cluster: Annotated[str | None, optional(one_of("ray"))]
    cluster_address: Annotated[str, HOST]
    study_name: Annotated[str | None, optional(STUDY_NAME)]
    storage: Annotated[str | None, optional(ADDRESS)]
    max_worker_memory_mb: Annotated[int | None, optional(whole(1))]
    max_failure_rate: Annotated[float, RATE]
    keep_models: Annotated[int, whole(0)]


def read(given: Mapping[str, Any]) -> Options:
    """Return the settings of a study, or say everything that is wrong with them.

    Args:
        given: what stands under hydra.sweeper, but `params`.

    Raises:
        SettingsError: one line for each value that is not allowed.
    """
    complaints: list[str] = []
    sampler = _section(Sampler, given.get("sampler"), f"{SECTION}.sampler", complaints)
    pruner = _section(Pruner, given.get("pruner"), f"{SECTION}.pruner", complaints)
    rest = {key: value for key, value in given.items() if key not in ("sampler", "pruner")}
    values = _checked(Options, rest, SECTION, complaints)
    if not complaints and sampler.name == "cmaes" and find_spec("cmaes") is None:
        complaints.append(f"{SECTION}.sampler.name: cmaes needs its package, which is not here: pip install cmaes")
    if not complaints and values["cluster"] is not None:
        complaints += _of_cluster(values)
    if complaints:
        raise SettingsError("; ".join(complaints))
    return Options(sampler=sampler, pruner=pruner, **values)


def _of_cluster(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the settings of a study whose workers are on other machines."""
    complaints = []
    if not DATABASE.match(values["storage"] or ""):
        shown = repr(redact(values["storage"])) if values["storage"] else "null"
        complaints.append(
            f"{SECTION}.storage: a database that every node reaches (postgresql://…) is needed where "
            f"{SECTION}.cluster is {values['cluster']}, but got {shown}"
        )
    if find_spec("ray") is None:
        complaints.append(f"{SECTION}.cluster: ray needs its package: `make setup-cluster` installs it")
    return complaints


def _is_host(value: Any) -> bool:
    host, sign, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return bool(host and sign and port.isdecimal() and "/" not in host)


def check_grid(max_failure_rate: Any, keep_models: Any) -> None:
    """Raise SettingsError where a setting of Hydra's own sweeps (conf/hydra/callbacks/grid.yaml) is not allowed."""
    complaints: list[str] = []
    given = {"max_failure_rate": max_failure_rate, "keep_models": keep_models}
    _checked(Options, given, "hydra.callbacks.grid", complaints)
    if complaints:
        raise SettingsError("; ".join(complaints).replace(PLACE, "see conf/hydra/callbacks/grid.yaml"))


def direction_of(options: Options, settings: Settings) -> Direction:
    """Return `minimize` or `maximize`: as set, else as the objective has it."""
    return options.direction or natural_direction(settings.objective)


def natural_direction(objective: str) -> Direction:
    """Return which of an objective's values are the better ones.

    >>> natural_direction("val_accuracy"), natural_direction("loss")
    ('maximize', 'minimize')
    """
    return "maximize" if objective.endswith("accuracy") else "minimize"


def sampler(options: Sampler, number: int) -> "optuna.samplers.BaseSampler":
    """Return the sampler of one trial, seeded by its number, so that a trial does not depend on who draws it.

    Args:
        options: the sampler's settings; `grid` draws nothing, as its trials are counted off.
        number: of the trial.
    """
    import numpy as np
    import optuna

    seed = None
    if options.seed is not None:
        seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    if options.name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=options.startup_trials)
    if options.name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=max(1, options.startup_trials))
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(options: Pruner, n_epochs: int) -> "optuna.pruners.BasePruner":
    """Return the pruner; its steps are epochs, of which a trial has `n_epochs`."""
    from optuna import pruners

    least, first = max(1, options.warmup_epochs), options.warmup_epochs + 1
    known: dict[str, Callable[[], pruners.BasePruner]] = {
        "none": pruners.NopPruner,
        "median": lambda: pruners.MedianPruner(options.startup_trials, first),
        "percentile": lambda: pruners.PercentilePruner(options.percentile, options.startup_trials, first),
        "successive_halving": lambda: pruners.SuccessiveHalvingPruner(least, options.reduction_factor),
        "hyperband": lambda: pruners.HyperbandPruner(least, max(least, n_epochs), options.reduction_factor),
    }
    return known[options.name]()


def default_name(settings: Settings, keys: list[str]) -> str:
    """Return a study's name where none is given: the net, the dataset and what varies.

    So the same command finds its study again, and one with another interval is told that there is one.
    """
    short = [key.lstrip("+").removeprefix(f"{settings.net}.") for key in keys]
    head = [] if "net" in keys else [settings.net, settings.section(settings.net).dataset]
    return re.sub(r"[^\w.-]", "_", "-".join([*head, *short]))


def nets_of(settings: Settings, keys: list[str]) -> tuple[str, ...]:
    """Return the nets that a sweep may train."""
    return NETS if "net" in keys else (settings.net,)


def _section(kind: type, given: Any, prefix: str, complaints: list[str]) -> Any:
    if not isinstance(given, Mapping) or set(given) != {field.name for field in fields(kind)}:
        names = ", ".join(field.name for field in fields(kind))
        complaints.append(f"{prefix}: a section with {names} is needed, but got {given!r}; {PLACE}")
        return None
    before = len(complaints)
    values = _checked(kind, given, prefix, complaints)
    return kind(**values) if len(complaints) == before else None


def _checked(kind: type, given: Mapping[str, Any], prefix: str, complaints: list[str]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    for name, value in given.items():
        if name not in hints:
            complaints.append(f"{prefix}.{name}: unknown key (known: {', '.join(['params', *hints])}); {PLACE}")
            continue
        rule = get_args(hints[name])[1]
        if not rule.holds(value):
            complaints.append(f"{prefix}.{name}: {rule.says} is needed, but got {value!r}; {PLACE}")
    return dict(given)
