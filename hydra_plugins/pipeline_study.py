"""`hydra/sweeper=study` for Hydra, which takes plugins from folders of this name alone, and loads them at each start.

All that it does is in pipeline/study/; so a command that is no sweep does not pay for it.
"""

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class StudySweeper(Sweeper):
    """Hydra's sweeper of a study; its settings are those of conf/hydra/sweeper/study.yaml."""

    def __init__(self, params: Mapping[str, Any] | None = None, **given: Any) -> None:
        self._params = dict(params or {})
        self._given = given

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has; not the function, as a trial's training knows more than its config."""
        self._loader = hydra_context.config_loader
        self._config = config

    def sweep(self, arguments: list[str]) -> None:
        """Do the study, or the part of it that this process does.

        Args:
            arguments: the overrides of the command line, without Hydra's own.
        """
        from pipeline.study.sweeper import sweep  # noqa: PLC0415 – see above

        plain = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in self._given.items()
        }
        in_conf = [f"{key}={value}" for key, value in self._params.items()]
        sweep(self._loader, self._config, plain, [*in_conf, *arguments])
