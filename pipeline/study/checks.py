"""What is looked at before a sweep begins, of a grid and of a study alike: every value that it may try."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Settings, read_yaml
from pipeline.errors import SettingsError
from pipeline.study import trial
from pipeline.study.composer import Composer

if TYPE_CHECKING:
    from omegaconf import DictConfig

NOT_VARIED = re.compile(r"objective$|tracking\b|hydra\b")


def check(composer: Composer, fixed: Sequence[str], tried: Sequence[Sequence[str]]) -> Settings:
    """Return the settings with the first value of each that varies, after a look at all others, one at a time.

    Args:
        composer: makes configs of overrides.
        fixed: overrides that hold for all trials.
        tried: of each key that varies the overrides that set it.

    Raises:
        SettingsError: one of them is not allowed, is read by no trial, or has another objective than the first.
    """
    keys = [override.partition("=")[0] for override, *_ in tried]
    for key in keys:
        if NOT_VARIED.match(key.lstrip("+~")):
            raise SettingsError(f"{key}: one value is needed, as the trials of a sweep would not compare otherwise")
    first = [override for override, *_ in tried]
    settings = trial.settings_of(composer.config([*fixed, *first]))
    _check_read(settings, fixed, keys)
    for i, overrides in enumerate(tried):
        for override in overrides[1:]:
            other = trial.settings_of(composer.config([*fixed, *first[:i], override, *first[i + 1 :]]))
            if other.objective != settings.objective:
                raise SettingsError(
                    f"objective: the same one is needed in all trials, but {first[i]} has {settings.objective} and "
                    f"{override} has {other.objective}; set one: objective={other.objective}"
                )
    return settings


def names_folder(config: "DictConfig") -> bool:
    """Return whether a sweep is to be in a folder of the user's, instead of one that no other sweep has had."""
    from omegaconf import OmegaConf

    from pipeline.train import CONF

    given: Any = OmegaConf.to_container(config.hydra.sweep)  # not resolved: as it stands in conf/
    return bool(given["dir"] != read_yaml(CONF / "config.yaml")["hydra"]["sweep"]["dir"])


def make_folder(folder: Path) -> None:
    """Make a folder where there is none.

    Raises:
        SettingsError: something else is in its place, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        place = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), folder)
        raise SettingsError(f"{place}: a folder is needed, but it cannot be made: {error.strerror}") from error


def _check_read(settings: Settings, fixed: Sequence[str], keys: Sequence[str]) -> None:
    """Raise SettingsError for an override that no trial reads, fixed or varied, unless what is read itself varies."""
    from pipeline.train import check_overrides

    if not any(key in ("net", "experiment") or key.endswith(".dataset") for key in keys):
        check_overrides(settings, [*fixed, *(f"{key}=..." for key in keys)])
