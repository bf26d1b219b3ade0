"""MLflow's pages: an address for exactly the runs that are asked for, without a secret."""

import json
import re
from urllib.parse import parse_qs

import pytest
from tracked import track

from pipeline.tracking.pages import results_page, run_page, server, shown_at

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


def test_the_server_is_the_tracking_server_without_its_password(settings_of):
    served = settings_of(uri="https://ann:secret@mlflow.example.com/team/?token=abc")
    assert server(served) == "https://mlflow.example.com/team"


def test_the_server_of_a_database_is_that_of_make_ui(settings_of):
    assert server(settings_of(uri="postgresql://ann:secret@db/runs")) == "http://127.0.0.1:5000"


@pytest.fixture(scope="module")
def settings(own_tracking, settings_of, new_store, tmp_path_factory):
    uri = new_store(tmp_path_factory.mktemp("address"))
    return settings_of("scratch.dataset=mnist", "scratch.epochs=1", f"tracking.uri={uri}")


@pytest.fixture(scope="module")
def ids(settings, settings_of, tmp_path_factory):
    """The ids of two runs, whose nets differ, and their epochs."""
    folder = tmp_path_factory.mktemp("nets")
    return [track(settings, folder), track(settings, folder, net="keras")]


def view(settings, address):
    """Return what MLflow's pages find under the key of an address."""
    import mlflow

    (key,) = parse_qs(address.partition("?")[2])["viewStateShareKey"]
    experiment = mlflow.MlflowClient(settings.tracking.uri).get_experiment_by_name(settings.tracking.experiment)
    return json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])


def n_views(settings):
    import mlflow

    experiment = mlflow.MlflowClient(settings.tracking.uri).get_experiment_by_name(settings.tracking.experiment)
    return sum(name.startswith("mlflow.sharedViewState.") for name in experiment.tags)


def test_one_run_has_its_own_page(settings, ids):
    assert re.fullmatch(
        rf"http://127\.0\.0\.1:5000/#/experiments/1/runs/{ids[0]}\?workflowType=machine_learning  "
        r"\(`make ui` serves it\)",
        shown_at(settings, ids[:1]),
    )


def test_several_runs_share_a_page_that_holds_just_them(settings, ids):
    address = run_page(settings, ids, base="http://127.0.0.1:5001")
    assert address.startswith("http://127.0.0.1:5001/#/experiments/1/runs?compareRunsMode=CHART")
    kept = view(settings, address)
    assert kept["searchFilter"] == f"attributes.run_id IN ('{ids[0]}', '{ids[1]}')"
    lines = [card["metricKey"] for card in kept["compareRunCharts"] if card["type"] == "LINE"]
    assert lines == ["loss", "accuracy", "val_loss", "val_accuracy"]


def test_the_axes_are_the_params_that_both_runs_have_and_that_differ(settings, ids):
    charts = view(settings, run_page(settings, ids))["compareRunCharts"]
    (axes,) = [card["selectedParams"] for card in charts if card["type"] == "PARALLEL"]
    assert axes[0] == "net"
    assert "learning_rate" in axes
    assert not {"seed", "dataset", "n_hidden", "dropout"} & set(axes)


def test_the_same_runs_have_the_same_address_and_one_view(settings, ids):
    first = run_page(settings, ids)
    before = n_views(settings)
    assert run_page(settings, ids) == first
    assert n_views(settings) == before


def test_more_runs_than_a_view_can_name_stand_in_the_address(settings, ids):
    before = n_views(settings)
    address = run_page(settings, [ids[0], *[ids[1]] * 130])
    assert parse_qs(address.partition("?")[2])["searchFilter"][0].count(ids[1]) == 130
    assert n_views(settings) == before


def test_the_table_of_all_runs_shows_their_results(settings, ids):
    assert "metrics.`test_accuracy`" in view(settings, results_page(settings))["selectedColumns"]
