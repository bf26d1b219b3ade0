"""The runs that are part of another, as the store has them: also those whose records are on other machines."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.config import Settings
from pipeline.tracking.delivery import PARENT_TAG
from pipeline.tracking.models import RECORD_TAG
from pipeline.tracking.records import KILLED, now
from pipeline.tracking.store import open_store

PAGE = 1000  # runs


@dataclass(frozen=True)
class Child:
    """A run of a store: its id there, that of its record, how it ended or RUNNING."""

    run_id: str
    record_id: str
    status: str


def children_of(settings: Settings, parent_run_id: str) -> list[Child]:
    """Return the runs that are part of a run.

    Raises:
        SettingsError: the store cannot be opened.
        Exception: whatever MLflow raises where it does not answer any more.
    """
    import mlflow

    experiment_id = open_store(settings)
    client = mlflow.MlflowClient()
    found: list[Child] = []
    token = None
    while True:
        query = f"tags.`{PARENT_TAG}` = '{parent_run_id}'"
        page = client.search_runs([experiment_id], query, max_results=PAGE, page_token=token)
        found += [Child(run.info.run_id, run.data.tags.get(RECORD_TAG, ""), run.info.status) for run in page]
        token = page.token
        if not token:
            return found


def end_children(children: Collection[Child], why: str) -> None:
    """End runs as KILLED that nobody else will end.

    Args:
        children: as `children_of` gives them, from the same process.
        why: becomes their tag `error`.

    Raises:
        Exception: as there.
    """
    import mlflow

    client = mlflow.MlflowClient()
    for child in children:
        client.set_tag(child.run_id, "error", why)
        client.set_terminated(child.run_id, KILLED, now())
