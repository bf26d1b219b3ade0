"""What must stay the same where a sweep is continued, and how it is told that it did not."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compose import changes
from pipeline.config import NETS, Settings
from pipeline.errors import SettingsError
from pipeline.study import options
from pipeline.study.options import Options
from pipeline.study.space import Param

if TYPE_CHECKING:
    import optuna

SIGNATURE, CODE, ID, MOVED = "signature", "code", "id", "moved"  # attributes of a study
PACKAGE = Path(__file__).resolve().parents[1]
INPUT = "input: "  # begins the attributes that hold md5s
INITIAL = "the weights at the start"
DIGITS = 12  # of a digest, in such an attribute's name
OF_HARDWARE = ("cpu", "cpus")  # of what lineage.machine() tells
NO_TRAINING = ("study", "tracking")  # folders of the package that change no trained net
OTHER = "give it another hydra.sweeper.study_name, or what it was begun with"


class ChangedError(SettingsError):
    """What a study's trials read is no longer what it was: names what, old → new."""


def of(given: Options, params: Sequence[Param], settings: Settings) -> dict[str, str]:
    """Return what a study was begun with, key by key: its objective, what varies, and what is fixed.

    Args:
        given: the study's settings. Its pruner, n_trials, n_jobs and the like may change on the way.
        params: what varies.
        settings: with the first value of each; of the fixed ones those count that its nets read.
    """
    from pipeline.tracking import run_params

    keys = [param.key.lstrip("+") for param in params]
    found = {"objective": settings.objective, "direction": options.direction_of(given, settings)}
    found |= {"sampler.name": given.sampler.name, "sampler.seed": str(given.sampler.seed)}
    for net in options.nets_of(settings, keys):
        named = {
            name if "." in name else _full(name, net): value for name, value in run_params(settings, net).items()
        }
        found |= {name: str(value) for name, value in named.items()}
    return found | {param.key: param.text for param in params}


def settle(study: "optuna.Study", wanted: Mapping[str, str], folder: Path) -> str:
    """Return the study's own id; begin it if it is new, else make sure that it is the same sweep.

    Args:
        study: of Optuna.
        wanted: what `of` gives.
        folder: of its trials, which a new one may not find there.

    Raises:
        SettingsError: it was begun with something else; names what, old → new.
    """
    known = study.user_attrs.get(SIGNATURE)
    if MOVED in study.user_attrs:
        raise SettingsError(
            f"hydra.sweeper.storage: study {study.study_name} has been carried to {study.user_attrs[MOVED]}, which "
            "is to be the storage now"
        )
    if known is not None and known != wanted:
        _refuse(study, "other settings", known, wanted)
    sought = [direction.name.lower() for direction in study.directions]
    if sought != [wanted["direction"]]:
        raise SettingsError(
            f"hydra.sweeper.study_name: {study.study_name} is a study that is to {' and '.join(sought)}, but "
            f"{wanted['direction']} is asked for; {OTHER}"
        )
    if known is None:
        if study.get_trials(deepcopy=False):
            raise SettingsError(
                f"hydra.sweeper.study_name: {study.study_name} is not a study of this project; {OTHER}"
            )
        if folder.is_dir() and any(folder.iterdir()):
            raise SettingsError(
                f"hydra.sweeper.study_name: {folder} holds the trials of an earlier study; move them away, or {OTHER}"
            )
        study.set_user_attr(ID, uuid.uuid4().hex)
        study.set_user_attr(CODE, code_digest())
        study.set_user_attr(SIGNATURE, dict(wanted))  # last: a killed process leaves none or a whole one
    return str(study.user_attrs[ID])


def settle_inputs(
    study: "optuna.Study", settings: Settings, varied: Mapping[str, str], *, bring: bool = False
) -> None:
    """Keep the md5s of what a training reads, or make sure that they are those that the study has of it.

    Args:
        study: of Optuna.
        settings: of the training; its data are loaded.
        varied: what it has for each parameter of the study.
        bring: by DVC what the study has the md5 of, as this is another machine than the one that it was begun on.

    Raises:
        ChangedError: they are not.
    """
    from pipeline import tracking, train

    read = tracking.run_params(settings, settings.net)
    of_data = {name: value for name, value in read.items() if "." in name or name == "seed"}
    asked = [of_data, of_inputs(varied)]  # of a user's CSV the path is no param, but one that varies names other data
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:DIGITS]
    dataset, known = settings.section(settings.net).dataset, study.user_attrs if bring else {}
    _, md5 = train.data_of(settings, known.get(_attribute(dataset, digest)))
    settle_md5(study, dataset, md5, digest)
    _, initial_md5 = train.initial_of(settings, known.get(_attribute(INITIAL)))
    if initial_md5 is not None:
        settle_md5(study, INITIAL, initial_md5)


def of_inputs(varied: Mapping[str, str]) -> dict[str, str]:
    """Return those parameters that may change what a training reads: all but the nets' own."""
    own = tuple(f"{net}." for net in NETS)
    return {key: value for key, value in varied.items() if not key.startswith(own) or key.endswith(".dataset")}


def settle_md5(study: "optuna.Study", what: str, md5: str, digest: str = "") -> None:
    """Keep an md5 of a study's inputs, in an attribute of its own, or make sure that it is the one that is kept.

    Raises:
        ChangedError: it is not.
    """
    name = _attribute(what, digest)
    known = study.user_attrs.get(name)
    if known is None:
        study.set_user_attr(name, md5)
    elif known != md5:
        raise ChangedError(_told(study, "other data", {what: known}, {what: md5}))


def input_md5s(study: "optuna.Study") -> set[str]:
    """Return the md5s of all that the study's trainings are known to read."""
    return {str(value) for name, value in study.user_attrs.items() if name.startswith(INPUT)}


def _attribute(what: str, digest: str = "") -> str:
    return f"{INPUT}{what} {digest}"


def code_has_changed(study: "optuna.Study") -> bool:
    """Return whether the code that trains is not that which the study was begun with."""
    return bool(study.user_attrs[CODE] != code_digest())


def code_digest() -> str:
    """Return the SHA-256 of the code that a trained net depends on: the package's modules, as they are now."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return _digest(PACKAGE, [path for path in paths if path.relative_to(PACKAGE).parts[0] not in NO_TRAINING])


def checkout() -> dict[str, str]:
    """Return what must be the same wherever the trials of one sweep are trained: all code, conf/, the libraries."""
    from pipeline import lineage

    root = PACKAGE.parent
    paths = [*PACKAGE.rglob("*.py"), *(root / "hydra_plugins").rglob("*.py"), *(root / "conf").rglob("*.yaml")]
    versions = {name: version for name, version in lineage.machine().items() if name not in OF_HARDWARE}
    return {"code and conf": _digest(root, sorted(paths))[:DIGITS], **versions}


def _digest(root: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _full(name: str, net: str) -> str:
    return name if name in ("net", "seed") else f"{net}.{name}"


def _refuse(study: "optuna.Study", what: str, known: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    raise SettingsError(_told(study, what, known, wanted))


def _told(study: "optuna.Study", what: str, known: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    differing = "; ".join(changes(dict(known), dict(wanted)))
    return f"hydra.sweeper.study_name: {study.study_name} was begun with {what}: {differing}; {OTHER}"
