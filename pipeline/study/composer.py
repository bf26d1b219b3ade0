"""Hydra, as a study uses it: overrides in, configs and jobs out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.study.trial import FAILED, Outcome

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Composer:
    """Composes conf/ with overrides.

    Attributes:
        loader: Hydra's.
        master: the config of the sweep as a whole, which says what of `hydra` was overridden.
    """

    loader: "ConfigLoader"
    master: "DictConfig"

    def parsed(self, overrides: Sequence[str]) -> "list[Override]":
        """Return overrides as Hydra's grammar reads them."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        return OverridesParser.create(config_loader=self.loader).parse_overrides(list(overrides))

    def config(self, overrides: Sequence[str]) -> "DictConfig":
        """Return the config of one trial."""
        return self.loader.load_sweep_config(self.master, list(overrides))

    def in_job(
        self, overrides: Sequence[str], number: int, folder: Path, train: "Callable[[DictConfig], Outcome]"
    ) -> Outcome:
        """Run a training as the Hydra job that it is, with its configs in `folder`; return its outcome."""
        from hydra._internal.callbacks import Callbacks
        from hydra.core.hydra_config import HydraConfig
        from hydra.core.utils import run_job, setup_globals
        from hydra.errors import HydraException
        from hydra.types import HydraContext
        from omegaconf import open_dict
        from omegaconf.errors import OmegaConfBaseException

        from pipeline.compose import hydras_reason

        setup_globals()
        try:
            config = self.config(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            return Outcome(FAILED, tuple(overrides), error=hydras_reason(error))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
            config.hydra.sweep.dir = str(folder.parent)
            config.hydra.sweep.subdir = folder.name
        HydraConfig.instance().set_config(config)
        done = run_job(
            train,
            config,
            "hydra.sweep.dir",
            "hydra.sweep.subdir",
            HydraContext(config_loader=self.loader, callbacks=Callbacks()),
            configure_logging=False,
        )
        outcome: Outcome = done.return_value
        return outcome
