"""A run read back: all that is needed to make it again."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import trained
from pipeline.config import Settings, load_params
from pipeline.errors import DataError, SettingsError
from pipeline.lineage import DIFF_FILE, Code
from pipeline.tracking.address import redact
from pipeline.tracking.store import open_store, reason, tracking_uri
from pipeline.trained import Trained


@dataclass(frozen=True)
class PastRun:
    """A run that has ended with weights.

    Attributes:
        run_id: its id.
        tags: its lineage, see `pipeline.lineage.tags`.
        settings: all settings, as they were; `net` is the run's.
        trained: its weights and history.
        folder: where its files are: settings.yaml, and code.diff if the code had changes.
    """

    run_id: str
    tags: dict[str, str]
    settings: Settings
    trained: Trained
    folder: Path

    @property
    def code(self) -> Code:
        """Return the code that trained."""
        diff = self.folder / DIFF_FILE
        text = diff.read_text(encoding="utf-8", errors="surrogateescape") if diff.is_file() else ""
        return Code(self.tags["git.commit"], text)


def read_past(settings: Settings, run_id: str, folder: Path) -> PastRun:
    """Return a run, its files brought to `folder`.

    Raises:
        DataError: there is no such run, or it has no weights.
        SettingsError: the store cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    open_store(settings)
    client = mlflow.MlflowClient()
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise SettingsError(f"tracking.uri: {redact(tracking_uri(settings))}: {reason(error)}") from None
        raise DataError(
            f"{run_id}: the tracking store has no such run; `python -m pipeline.compare` lists them"
        ) from None
    if "weights_sha256" not in found.data.tags:
        raise DataError(f"{run_id}: this run has no weights, its status is {found.info.status}")
    for name in (artifact.path for artifact in client.list_artifacts(run_id) if not artifact.is_dir):
        client.download_artifacts(run_id, name, str(folder))
    return PastRun(
        run_id=found.info.run_id,
        tags=found.data.tags,
        settings=load_params(folder / "settings.yaml"),
        trained=trained.load(folder),
        folder=folder,
    )
