"""`python -m pipeline.retrain FOLDER`: the training of a run again, by the code of this checkout, untracked.

`pipeline.reproduce` calls it in a checkout of the run's commit. The folder holds what the run had: settings.yaml;
data.npz, or the md5 that it must have in data.md5; initial.npz if it started from weights. The result goes to net/.
"""

import logging
import sys
from pathlib import Path

from pipeline import cache, dataset, trained
from pipeline.command import USERS_ERRORS, one_line, parsing_command
from pipeline.config import Settings, load_params
from pipeline.errors import DataError
from pipeline.files import Arrays, load_arrays
from pipeline.progress import progress
from pipeline.train import fit
from pipeline.trained import Trained

DATA = "data.npz"  # in the folder
ERROR_FILE = "error.txt"  # likewise, where the training could not be done: why
NO_DATA = (
    "the run's data (md5 {md5}) are neither in DVC's cache nor in its remote, and {reason}: "
    "`dvc fetch --all-commits` may bring them, or `dvc push` where the run was made"
)

log = logging.getLogger(__name__)


def run(settings: Settings, data: Arrays, initial: Arrays | None) -> Trained:
    """Return what `settings.net` learns from `data`, from the weights `initial` if there are any."""
    with progress(settings.net, settings.section(settings.net).epochs) as show:
        return fit(settings, data, show, initial)[0]


def _data(folder: Path, settings: Settings) -> Arrays:
    """Return the run's data: as given, or made again from their source, if that gives the same bytes."""
    if (folder / DATA).is_file():
        return load_arrays(folder / DATA)
    wanted = (folder / "data.md5").read_text(encoding="utf-8")
    log.info("data %s: not in DVC's cache, made again from the settings", wanted)
    try:
        data = dataset.make(settings, settings.section(settings.net).dataset)
    except (DataError, OSError) as error:
        raise DataError(NO_DATA.format(md5=wanted, reason=f"cannot be made again ({one_line(error)})")) from error
    made = cache.arrays_md5(data)
    if made != wanted:
        raise DataError(NO_DATA.format(md5=wanted, reason=f"made again they have md5 {made}"))
    return data


@parsing_command
def main() -> None:
    """Train as the folder says, and write net/ into it."""
    folder = Path(sys.argv[1])
    settings = load_params(folder / "settings.yaml")
    initial = folder / "initial.npz"
    try:
        result = run(settings, _data(folder, settings), load_arrays(initial) if initial.is_file() else None)
    except USERS_ERRORS as error:
        (folder / ERROR_FILE).write_text(one_line(error), encoding="utf-8")
        sys.exit(1)
    trained.save(result, folder / "net")


if __name__ == "__main__":
    main()
