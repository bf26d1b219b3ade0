"""From one machine to a team: the runs of the embedded store, and a sweep that goes on where it was."""

import pytest
import yaml
from services import HOST, free_port
from team import SMALL, SPACE, Team, counted, family
from whole import lost_points, runs_of

from pipeline.address import NO_DATABASE_USER
from pipeline.config import to_dict
from pipeline.tracking.records import Record, all_records

NAME = ("hydra.sweeper.study_name=moved", *SPACE)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Any type hint is inferred as AnyType",  # importing mlflow.pyfunc
    "ignore::optuna.exceptions.ExperimentalWarning",
)


@pytest.fixture
def embedded(team, new_store) -> tuple[Team, str]:
    """Return a folder in which a sweep of three trials was done with SQLite alone, and its MLflow store."""
    store = new_store(team.folder)
    alone = {"MLFLOW_TRACKING_URI": store}
    team.study(*NAME, "hydra.sweeper.storage=sqlite:///studies.db", "hydra.sweeper.n_trials=3", **alone)
    return team, store


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "another machine"])
def test_a_sweep_begun_on_sqlite_goes_on_with_postgresql_and_the_server(
    embedded, elsewhere, client, database, tracking_server, postgres, monkeypatch
):
    import mlflow

    team, store = embedded
    before = {run.data.tags["record"]: run for run in runs_of(mlflow.MlflowClient(store))}
    records = team.folder / "records"
    if elsewhere:  # which has neither the records nor the files of the trials
        team.environment["PIPELINE_RECORDS"] = str(team.folder / "other")
        (team.folder / "multirun").rename(team.folder / "old")
    team.run("pipeline.sync", "--from", store, "--to", tracking_server.uri)
    moved = team.run("pipeline.study.move", "moved", "--from", "sqlite:///studies.db", "--to", database)
    assert (
        moved.stderr == f"study moved: 3 trials are in {database}; hydra.sweeper.storage={database} goes on with it\n"
    )

    on = ("tracking=server", f"hydra.sweeper.storage={database}", "hydra.sweeper.n_jobs=2")
    done = team.study(*NAME, *on, "hydra.sweeper.n_trials=6")
    assert "study moved: goes on after 3 of 6 trials" in done.stderr
    assert f"compared: {tracking_server.uri}/#/experiments/" in done.stdout
    for name, value in postgres.secret.items():
        monkeypatch.setenv(name, value)
    assert counted(database, "moved") == dict.fromkeys(range(6), 1)
    mine = [run for run in runs_of(client) if run.data.tags.get("record") in before]
    assert {run.data.tags["record"] for run in mine} == before.keys()
    (parent,) = [run for run in mine if "sweep.trial" not in run.data.tags]
    parents, children = family(client, "moved", parent.info.run_id)
    assert [one.info.run_id for one in parents] == [parent.info.run_id]
    assert children == {str(number): ["FINISHED"] for number in range(6)}
    points = client.get_metric_history(parent.info.run_id, "best_val_loss")
    assert [point.step for point in points] == list(range(6))
    for run in mine:
        if run.info.run_id != parent.info.run_id:
            assert lost_points(client, run.info.run_id, Record(records / run.data.tags["record"])) == 0
            assert run.data.params == before[run.data.tags["record"]].data.params

    (line,) = team.study(*NAME, "hydra.sweeper.storage=sqlite:///studies.db", code=1).stderr.splitlines()
    told = f"error: hydra.sweeper.storage: study moved has been carried to {database}, which is to be the storage now"
    assert line == told


def test_a_move_that_cannot_be_is_one_line_and_moves_nothing(embedded, database, postgres, client):
    team, store = embedded
    move = ("pipeline.study.move", "moved", "--from", "sqlite:///studies.db", "--to")
    (line,) = team.run(*move, database, code=1, PGPASSWORD="a-wrong-secret").stderr.splitlines()
    assert line == f"error: hydra.sweeper.storage: {database} cannot be opened: {NO_DATABASE_USER}"
    away = f"postgresql://{HOST}:{free_port()}/studies"
    (line,) = team.run(*move, away, code=1).stderr.splitlines()
    assert line == f"error: hydra.sweeper.storage: {away} cannot be opened: connection refused"
    (line,) = team.run("pipeline.sync", "--from", store, "--to", "http://127.0.0.1:9", code=1).stderr.splitlines()
    assert line == "error: tracking.uri: http://127.0.0.1:9 cannot be opened: connection refused"
    done = team.study(
        *NAME, "hydra.sweeper.storage=sqlite:///studies.db", "hydra.sweeper.n_trials=4", MLFLOW_TRACKING_URI=store
    )
    assert "study moved: goes on after 3 of 4 trials" in done.stderr


def test_the_runs_of_a_server_come_to_an_embedded_store_with_their_files_and_models(
    team, new_store, client, tracking_server, settings_of
):
    import mlflow

    own = "tracking.experiment=of-one-test"
    (team.folder / "params.yaml").write_text(yaml.safe_dump(to_dict(settings_of(own))))
    team.run("pipeline.train", *SMALL, own, "tracking=server")
    store = new_store(team.folder)
    there = {"PIPELINE_RECORDS": str(team.folder / "other"), "DVC_ROOT": str(team.folder)}  # for its params.yaml
    team.run("pipeline.sync", "--from", tracking_server.uri, "--to", store, **there)
    mine = mlflow.MlflowClient(store)
    (run,), (original,) = (
        one.search_runs([one.get_experiment_by_name("of-one-test").experiment_id]) for one in (mine, client)
    )
    assert run.data.params == original.data.params
    (record,) = all_records(team.folder / "records")
    assert lost_points(mine, run.info.run_id, record) == 0
    files = [{file.path for file in one.list_artifacts(run_id)} for one, run_id in (
        (mine, run.info.run_id), (client, original.info.run_id))]  # fmt: skip
    assert files[0] == files[1] != set()
    (model,) = run.outputs.model_outputs
    mlflow.set_tracking_uri(store)
    assert mlflow.pyfunc.load_model(f"models:/{model.model_id}").metadata.run_id == run.info.run_id
