"""Stage compose: conf/ → params.yaml, so that a plain `dvc repro` follows an edit of a Hydra config."""

import contextlib
import difflib
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.address import redact
from pipeline.command import command
from pipeline.config import PARAMS_FILE, Settings, first_alias, flatten, parse, read_yaml
from pipeline.errors import SettingsError

CONF = Path("conf")
LOCK = Path("dvc.lock")

log = logging.getLogger(__name__)


def run(conf: Path = CONF, overrides: Sequence[str] = ()) -> str:
    """Return what `conf` composes to, as YAML text: byte for byte what `dvc exp run` writes.

    Args:
        conf: folder of the configs, with config.yaml in it.
        overrides: in Hydra's grammar, such as `keras.units=64` or `experiment=quick`.

    Raises:
        SettingsError: Hydra cannot compose it, or a file has an alias; in one line.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    refuse_aliases(conf)
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            composed = compose("config", list(overrides))
            OmegaConf.to_container(composed, resolve=True)  # unlike the next call, its errors name the key
            OmegaConf.resolve(composed)
            return OmegaConf.to_yaml(composed)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        reason = hydras_reason(error)
        broken = None if ".yaml" in reason else _broken_file(conf)
        raise SettingsError(f"{conf}/ does not compose: {broken or reason}") from error


def refuse_aliases(conf: Path) -> None:
    """Raise SettingsError where a file of `conf` has a YAML alias, before Hydra writes out what it stands for.

    What else is wrong with a file Hydra says itself.
    """
    for path in sorted(conf.rglob("*.yaml")):
        with contextlib.suppress(OSError, yaml.YAMLError, RecursionError):
            alias = first_alias(path.read_text(encoding="utf-8", errors="replace"))
            if alias:
                raise SettingsError(f"{path}, {alias}")


def _broken_file(conf: Path) -> str | None:
    """Return what is wrong with the first file of `conf` that is no mapping in YAML, and not empty either."""
    for path in sorted(conf.rglob("*.yaml")):
        try:
            read_yaml(path)
        except SettingsError as error:
            if not str(error).endswith("it holds None"):
                return str(error)
    return None


def hydras_reason(error: Exception) -> str:
    """Return what Hydra says is wrong, on one line, with the nearest key or option and without what does not help.

    What does not help: its advice to add a key that nothing would read, the search path, the address of its manual.
    """
    reason, advises, _ = (str(error) or str(error.__cause__)).partition("\nTo append to your config")
    reason = re.split(r"Config search path:|See https://hydra\.cc", reason)[0]
    reason, _, place = reason.partition("\n    full_key: ")  # OmegaConf's
    reason = ": ".join(filter(None, [place.partition("\n")[0], reason]))
    known: list[str] = re.findall(r"\t(\S+)", reason.partition("Available options")[2])
    if advises:
        reason = reason.rstrip(".") + ": no such key"
        known = [key.name for key in fields(Settings)] + [
            f"{section.name}.{key.name}"
            for section in fields(Settings)
            if is_dataclass(section.type)
            for key in fields(section.type)
        ]
    head, options, listed = reason.partition("Available options")
    if options:
        where, _, names = listed.partition(":")
        reason = f"{head.strip()}; available options{where}: {', '.join(names.split())}"
    reason = re.sub(r"Error parsing override '(.*)'\s+missing EQUAL at '<EOF>'", r"'\1': key=value is needed", reason)
    named = re.search(r"'(?:[^'/]*/)?([^']+)'(?:: no such key|; available)", reason)
    near = difflib.get_close_matches(named[1], known, n=1) if named else []
    return " ".join(reason.split()) + (f" (did you mean {near[0]}?)" if near else "")


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return one line for each key that differs between two composed configs.

    >>> changes({"keras": {"units": 512}}, {"keras": {"units": 64}, "seed": 1})
    ['keras.units: 512 → 64', 'seed: (none) → 1']
    """
    before, after = flatten(old), flatten(new)
    return [
        redact(f"{key}: {before.get(key, '(none)')} → {after.get(key, '(none)')}")
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ...) != after.get(key, ...)
    ]


def check_stages(settings: Settings) -> None:
    """Raise SettingsError where the settings ask for what the DVC stages cannot give."""
    if settings.keras.warm_start:
        raise SettingsError(
            "keras.warm_start: false is needed in `dvc repro`, as a stage cannot start from its own output, "
            "but got True; use `python -m pipeline.train keras.warm_start=true`"
        )


def write(text: str, params: Path = PARAMS_FILE, lock: Path = LOCK) -> None:
    """Bring `params` up to date with the composed `text`, and log each key that changes.

    Raises:
        SettingsError: `params` was edited by hand: neither `lock` nor conf/ knows its content.
    """
    if not params.exists():
        log.info("%s: written from %s/", params, CONF)
    elif params.read_bytes() == text.encode():
        return
    else:
        differing = changes(read_yaml(params), yaml.safe_load(text))
        if _md5(params) != _locked_md5(params, lock):
            raise SettingsError(
                f"{params}: made from {CONF}/, never edited, but it holds values that {CONF}/ does not: "
                f"{'; '.join(changes(yaml.safe_load(text), read_yaml(params)))}. Set them in "
                f"{', '.join(_places(differing))}, or give the file up: `rm {params}`; then `dvc repro`"
            )
        for line in differing:
            log.info("%s", line)
    from pipeline.files import replacing  # with numpy, which `--help` does without

    with replacing(params) as new:
        new.write_text(text, encoding="utf-8")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _locked_md5(path: Path, lock: Path) -> str | None:
    """Return the md5 of `path` as an output of stage compose, as dvc.lock has it."""
    if not lock.exists():
        return None
    outs = read_yaml(lock).get("stages", {}).get("compose", {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == path.name), None)


def _places(differing: list[str]) -> list[str]:
    """Return the folders and files of conf/ in which the keys of `changes` are set."""
    keys = [line.split(":")[0] for line in differing]
    places = {f"{CONF}/{key.split('.')[0]}/" if "." in key else f"{CONF}/config.yaml" for key in keys}
    return sorted(places)


@command
def main() -> None:
    """Compose conf/ into params.yaml; inside `dvc exp run`, which has composed already, only check it."""
    text = run()
    if os.environ.get("DVC_EXP_NAME") and PARAMS_FILE.exists():
        kept = read_yaml(PARAMS_FILE)
        try:
            check_stages(parse(kept))
        except SettingsError:  # `dvc exp run` leaves its file behind, and the next `dvc repro` would blame its user
            from pipeline.files import replacing  # with numpy, which `--help` does without

            with replacing(PARAMS_FILE) as new:
                new.write_text(text, encoding="utf-8")
            raise
        for line in changes(yaml.safe_load(text), kept):
            log.info("experiment: %s", line)
        return
    check_stages(parse(yaml.safe_load(text)))
    write(text)


if __name__ == "__main__":
    main()
