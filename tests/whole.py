"""Whether a store has all of a run, once: what every test of a fault asks at its end."""

from pathlib import Path
from typing import Any

from pipeline.tracking.records import Record

FILES = {"weights.npz", "history.csv", "net.json", "summary.txt", "settings.yaml", "per_class.json", "pictures"}


def runs_of(client: Any, record_id: str | None = None) -> list[Any]:
    """Return the runs of the experiment, or those of one record."""
    experiment = client.get_experiment_by_name("neural-nets")
    condition = f"tags.record = '{record_id}'" if record_id else ""
    return list(client.search_runs([experiment.experiment_id], condition)) if experiment else []


def lost_points(client: Any, run_id: str, record: Record) -> int:
    """Return how many of a record's points the store has not got just once, with their own time and step."""
    lost = 0
    expected = [points for points, _ in record.points()]
    for name in {name for points in expected for name in points.metrics}:
        wanted = sorted((one.step, one.time, one.metrics[name]) for one in expected if name in one.metrics)
        found = sorted((one.step, one.timestamp, one.value) for one in client.get_metric_history(run_id, name))
        lost += len(set(wanted) ^ set(found)) + abs(len(wanted) - len(found))
    return lost


def assert_whole(client: Any, records: Path, record_id: str, status: str = "FINISHED") -> str:
    """Fail unless the store has one run of a record, with all that the record has; return the run's id."""
    record = Record(records / record_id)
    (run,) = runs_of(client, record_id)
    run_id = run.info.run_id
    assert run.info.status == status
    assert (run.info.start_time, run.info.end_time) == (record.opening.start_time, record.state.end_time)
    assert run.data.params == record.opening.params
    assert record.state.tags.items() <= run.data.tags.items()
    assert lost_points(client, run_id, record) == 0
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {one["name"] for one in record.opening.datasets}
    if status == "FINISHED":
        assert {artifact.path for artifact in client.list_artifacts(run_id)} == FILES
        (model,) = run.outputs.model_outputs
        assert client.get_logged_model(model.model_id).status == "READY"
        assert len(client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")) == 1
    return str(run_id)
