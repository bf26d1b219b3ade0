"""A run read back: all that is needed to make it again."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import trained
from pipeline.address import reason, redact
from pipeline.config import Settings
from pipeline.errors import DataError, SettingsError
from pipeline.lineage import DIFF_FILE, LOCK_FILE, Code
from pipeline.tracking.importing import opening_of
from pipeline.tracking.naming import SETTINGS_FILE
from pipeline.tracking.records import Opening
from pipeline.tracking.store import open_store, tracking_uri
from pipeline.tracking.table import find
from pipeline.trained import Trained

LINEAGE = ("data.name", "data.md5", "git.commit")  # tags
LEFT_OUT = ("git.left_out", "git.left_out_unread")  # likewise, where the diff lacks anything
FILES = (SETTINGS_FILE, "net.json", "weights.npz", "history.csv", "summary.txt")


@dataclass(frozen=True)
class PastRun:
    """A run that has ended with weights.

    Attributes:
        run_id: its id.
        opening: what was known of it as it started: name, experiment, params, datasets.
        tags: its lineage, see `pipeline.lineage.tags`.
        trained: its weights and history.
        folder: where its files are: settings.yaml, dvc.lock, and code.diff if the code had changes.
    """

    run_id: str
    opening: Opening
    tags: dict[str, str]
    trained: Trained
    folder: Path

    @property
    def settings(self) -> str:
        """Return all settings, as YAML: the keys are those that the run's own code has."""
        return self._text(SETTINGS_FILE)

    @property
    def code(self) -> Code:
        """Return the code that trained."""
        left_out, unread = ((self.tags[tag],) if self.tags.get(tag) else () for tag in LEFT_OUT)
        return Code(self.tags["git.commit"], self._text(DIFF_FILE), left_out, self._text(LOCK_FILE), unread)

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""


def read_past(settings: Settings, run_id: str, folder: Path) -> PastRun:
    """Return a run, its files brought to `folder`.

    Args:
        settings: all settings; those of tracking are read.
        run_id: its id, or the beginning of it.
        folder: an empty one.

    Raises:
        DataError: there is no such run, or something is missing in it.
        SettingsError: the store cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    open_store(settings)
    client = mlflow.MlflowClient()
    try:
        found = find(settings, run_id)
        full_id = found.info.run_id
        for name in (artifact.path for artifact in client.list_artifacts(full_id) if not artifact.is_dir):
            client.download_artifacts(full_id, name, str(folder))
        opening = opening_of(client, found, {}, redact(tracking_uri(settings)))
    except MlflowException as error:
        raise SettingsError(f"tracking.uri: {redact(tracking_uri(settings))}: {reason(error)}") from None
    if "weights_sha256" not in found.data.tags:
        raise DataError(f"{run_id}: this run has no weights, its status is {found.info.status}")
    missing = [name for name in LINEAGE if name not in found.data.tags]
    missing += [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{run_id}: cannot be made again, as the run has no {', '.join(missing)}")
    return PastRun(
        run_id=found.info.run_id,
        opening=opening,
        tags=found.data.tags,
        trained=trained.load(folder),
        folder=folder,
    )
