"""What a run is made again with: its own code and settings, or this checkout's code and settings fitted to it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import lineage, tracking
from pipeline.config import Settings, flatten, parse, read_yaml, to_dict
from pipeline.lineage import Code, Inputs
from pipeline.tracking import PastRun

SAME = (  # tags that a run has in common with one that its own code makes again
    *("data.name", "data.md5", "initial.md5", "overrides", "settings_sha256"),
    *("git.commit", "git.dirty", "git.left_out", "git.left_out_unread", "dvc.lock_md5"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What a run is made again with, beside its data.

    Attributes:
        settings: all of them, as YAML.
        code: that trains.
        params: of the new run in MLflow.
        tags: its lineage.
    """

    settings: str
    code: Code
    params: dict[str, str]
    tags: dict[str, str]


def own_recipe(past: PastRun) -> Recipe:
    """Return what the run itself was made with; only its own code reads its settings."""
    tags = {name: past.tags[name] for name in SAME if name in past.tags}
    tags |= {"threads": lineage.threads_of(past.trained.net)} | lineage.machine()
    return Recipe(past.settings, past.code, past.opening.params, tags)


def recipe_here(past: PastRun, own: Settings) -> Recipe:
    """Return the code of this checkout, and the run's settings as far as that code has them.

    Args:
        past: the run.
        own: the settings of this checkout, for the keys that the run has not got.

    Raises:
        SettingsError: this code does not allow a value of the run's.
    """
    net, code = past.trained.net, lineage.read_code()
    settings = fitted_settings(read_yaml(past.folder / "settings.yaml"), own)
    inputs = Inputs(past.tags["data.name"], past.tags["data.md5"], {}, past.tags.get("initial.md5"))
    params = {name: str(value) for name, value in tracking.run_params(settings, net).items()}
    tags = lineage.tags(settings, net, inputs, code, [past.tags.get("overrides", "")])
    return Recipe(tracking.settings_text(settings, net), code, params, tags)


def fitted_settings(plain: Mapping[str, Any], own: Settings) -> Settings:
    """Return the settings of a run as this code has them, and say which keys it has and the run had not, or not it.

    Args:
        plain: the run's, as its code had them.
        own: the settings of this checkout.

    Raises:
        SettingsError: this code does not allow a value.
    """
    composed = to_dict(own)
    first, now = flatten({**plain, "tracking": composed["tracking"]}), flatten(composed)
    added = {key: value for key, value in now.items() if key not in first}
    dropped = {key: value for key, value in first.items() if key not in now}
    for keys, why in ((added, "new since the run, so as in params.yaml"), (dropped, "no longer known, so left out")):
        if keys:
            log.warning("%s: %s", ", ".join(f"{key}={value}" for key, value in keys.items()), why)
    for key in now.keys() & first.keys():
        section, _, name = key.rpartition(".")
        (composed[section] if section else composed)[name] = first[key]
    return parse(composed)
