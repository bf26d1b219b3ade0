"""What must stay the same where a sweep is continued, and how it is told that it did not."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compose import changes
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.study import options
from pipeline.study.options import Options
from pipeline.study.space import Param

if TYPE_CHECKING:
    import optuna

SIGNATURE, DATA, CODE, ID = "signature", "data", "code", "id"  # attributes of a study
PACKAGE = Path(__file__).resolve().parents[1]
NO_TRAINING = ("study", "tracking")  # folders of the package that change no trained net
OTHER = "give it another hydra.sweeper.study_name, or what it was begun with"


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
    elif known != wanted:
        _refuse(study, "other settings", known, wanted)
    return str(study.user_attrs[ID])


def settle_data(study: "optuna.Study", dataset: str, md5: str) -> None:
    """Keep the md5 of a new study's data, or make sure that an earlier one's has not changed.

    Raises:
        SettingsError: it has.
    """
    known = study.user_attrs.get(DATA)
    if known is None:
        study.set_user_attr(DATA, {dataset: md5})
    elif known != {dataset: md5}:
        _refuse(study, "other data", known, {dataset: md5})


def code_has_changed(study: "optuna.Study") -> bool:
    """Return whether the code that trains is not that which the study was begun with."""
    return bool(study.user_attrs[CODE] != code_digest())


def code_digest() -> str:
    """Return the SHA-256 of the code that a trained net depends on: the package's modules, as they are now."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] not in NO_TRAINING:
            digest.update(f"{name.as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _full(name: str, net: str) -> str:
    return name if name in ("net", "seed") else f"{net}.{name}"


def _refuse(study: "optuna.Study", what: str, known: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    differing = "; ".join(changes(dict(known), dict(wanted)))
    raise SettingsError(f"hydra.sweeper.study_name: {study.study_name} was begun with {what}: {differing}; {OTHER}")
