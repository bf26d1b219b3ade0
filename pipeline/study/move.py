"""`python -m pipeline.study.move NAME --to ADDRESS`: carries a study to another storage, whole or not at all.

The same sweep with `hydra.sweeper.storage=ADDRESS` then goes on with it; the old storage keeps its study, which says
where it has gone. Its runs are another matter: `python -m pipeline.sync` brings these.
"""

import argparse
import logging
from typing import TYPE_CHECKING

from pipeline.address import check_typed, redact
from pipeline.command import parsing_command
from pipeline.errors import DataError
from pipeline.study import slots, storage
from pipeline.study.signature import ID, MOVED, SIGNATURE
from pipeline.study.sweeper import ADDRESS

if TYPE_CHECKING:
    import optuna

STAYS = (
    SIGNATURE,
    MOVED,
    ADDRESS,
)  # attributes that are not copied: the first comes last, the others are the old one's

log = logging.getLogger(__name__)


def run(name: str, source: str, target: str) -> int:
    """Carry a study, and return how many of its trials count; once more changes nothing.

    Args:
        name: the study's.
        source: the storage that has it.
        target: an address that it is to have, or a file.

    Raises:
        DataError: there is no such study, it is being worked on, or the target has another one of that name.
        SettingsError: a storage cannot be opened.
    """
    with storage.alone(name):
        old = storage.find_study(source, name, "--from")
        if old is None or SIGNATURE not in old.user_attrs:
            raise DataError(f"{name}: {redact(source)} has no such study of this project")
        new = _room(name, target, old)
        if new is not None:
            _copy(old, new)
        old.set_user_attr(MOVED, redact(target))
    return len(slots.holders(old))


def _room(name: str, target: str, old: "optuna.Study") -> "optuna.Study | None":
    """Return a new study to copy into; None where the copy is there already."""
    slots.bury(old)
    if any(held.state.name == "RUNNING" for held in slots.holders(old)):
        raise DataError(f"{name}: it is being worked on; end that first, by Ctrl-C")
    there = storage.open_study(target, name, old.direction.name.lower())  # type: ignore[arg-type]
    if SIGNATURE not in there.user_attrs and ID not in there.user_attrs and there.get_trials(deepcopy=False):
        raise DataError(f"{name}: {redact(target)} has another study of that name")
    if SIGNATURE not in there.user_attrs:
        there._storage.delete_study(there._study_id)  # what a killed process has left of a copy
        return storage.open_study(target, name, old.direction.name.lower())  # type: ignore[arg-type]
    if there.user_attrs[ID] != old.user_attrs[ID]:
        raise DataError(f"{name}: {redact(target)} has another study of that name")
    if MOVED not in old.user_attrs and len(there.trials) < len(old.trials):
        raise DataError(f"{name}: {redact(target)} has it already, but fewer of its trials")
    return None


def _copy(old: "optuna.Study", new: "optuna.Study") -> None:
    """Copy all of a study; its signature comes last, as without it a study is not taken for one."""
    for key, value in old._storage.get_study_system_attrs(old._study_id).items():
        new._storage.set_study_system_attr(new._study_id, key, value)
    for key, value in old.user_attrs.items():
        if key not in STAYS:
            new.set_user_attr(key, value)
    new.add_trials(old.get_trials(deepcopy=False))
    new.set_user_attr(SIGNATURE, old.user_attrs[SIGNATURE])


@parsing_command
def main() -> None:
    """Parse the command line, carry the study, and say what goes on with it."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.study.move", description=__doc__)
    parser.add_argument(
        "name", metavar="NAME", help="the study's: hydra.sweeper.study_name, or its folder's in multirun/"
    )
    parser.add_argument(
        "--from", dest="source", metavar="ADDRESS", help="a database or file; default: studies/NAME.journal"
    )
    parser.add_argument("--to", required=True, metavar="ADDRESS", help="postgresql://host/database, for example")
    given = parser.parse_args()
    check_typed(given.to, "--to")
    check_typed(given.source, "--from")
    n_trials = run(given.name, given.source or storage.default_file(given.name), given.to)
    log.info(
        "study %s: %d trials are in %s; hydra.sweeper.storage=%s goes on with it",
        *(given.name, n_trials, redact(given.to), redact(given.to)),
    )


if __name__ == "__main__":
    main()
