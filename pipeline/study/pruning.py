"""Pruning by slots: a pruner sees of each slot the trial that counts, under the slot's number.

Hyperband chooses a trial's bracket by its number, and successive halving compares with all that have reached a rung.
With Optuna's own numbers, and with lost trials among the others, an interrupted study would be pruned differently.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.pruners import BasePruner

from pipeline.study.slots import LOST, SLOT

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


class SlotPruner(BasePruner):
    """Asks another pruner, which sees slots for trials."""

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: "optuna.Study", trial: "FrozenTrial") -> bool:
        """Return whether the trial is to end."""
        import optuna

        view: Any = _Slots(study._storage)
        seen = optuna.Study(study.study_name, view, study.sampler, self._pruner)
        return self._pruner.prune(seen, _as_slot(trial))


@dataclass(frozen=True)
class _Slots:
    """A storage of which the lost trials are not seen, and the others under their slots' numbers."""

    storage: "BaseStorage"

    def get_all_trials(self, *given: Any, **more: Any) -> "list[FrozenTrial]":
        trials = self.storage.get_all_trials(*given, **more)
        return [_as_slot(trial) for trial in trials if SLOT in trial.user_attrs and LOST not in trial.user_attrs]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def _as_slot(trial: "FrozenTrial") -> "FrozenTrial":
    seen = copy.copy(trial)
    seen.number = trial.user_attrs[SLOT]
    return seen
