"""What a run shows of its settings: its params, its name, and all of them as YAML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Settings, flatten, to_dict

NO_RESULT = {f"mnist.{key}" for key in ("max_csv_bytes", "train_csv", "test_csv", "label_column")}  # data.md5 is
NO_RESULT |= {"steps_per_execution"}
SETTINGS_FILE = "settings.yaml"


def run_params(settings: Settings, net: str) -> dict[str, Any]:
    """Return the settings that a run of `net` uses, flat: its own by bare name, its data's by section.

    What is null is left out, and so is what changes no result: paths, limits, how many batches a call takes.
    """
    composed = to_dict(settings)
    own = composed[net]
    shared = {"net": net, "seed": settings.seed, **own}
    data = flatten({section: composed[section] for section in (own["dataset"], "preprocess")})
    used = {key: value for key, value in (shared | data).items() if key not in NO_RESULT and value is not None}
    if own["dataset"] == "mnist" and settings.mnist.train_csv is not None:
        used["mnist.source"] = "csv"  # also where it says auto
    return {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in used.items()}


def settings_text(settings: Settings, net: str) -> str:
    """Return all settings of a run of `net` as the YAML that it keeps; not the store's address: it may be secret."""
    plain = to_dict(settings) | {"net": net}
    plain["tracking"]["uri"] = None
    return yaml.safe_dump(plain, sort_keys=False)


def run_name(settings: Settings, net: str, overrides: Sequence[str]) -> str:
    """Return the net, the dataset, and what was overridden of what the net uses.

    An override's value stays, its section goes, and so do a file's folders: `keras mnist units=64`.
    """
    dataset = settings.section(net).dataset
    groups = (net, dataset, "preprocess")
    used = (*(f"{group}{sign}" for group in groups for sign in ".="), "seed=", "experiment=")
    given = [text.lstrip("+~") for text in overrides]
    shown = [_without_folders(text.removeprefix(f"{net}.")) for text in given if text.startswith(used)]
    return " ".join([net, dataset, *(text for text in shown if not text.startswith("dataset="))])


def _without_folders(override: str) -> str:
    key, sign, value = override.partition("=")
    return f"{key}={Path(value).name}" if key.endswith("_csv") else key + sign + value
