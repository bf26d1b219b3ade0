"""`python -m pipeline.compare`: legible in a narrow terminal, one line a run in a pipe, and it makes no store."""

import re
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tracked import fail, track

from pipeline import compare
from pipeline.tracking.table import runs

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture(scope="module")
def settings(own_tracking, settings_of, new_store, tmp_path_factory):
    uri = new_store(tmp_path_factory.mktemp("compare"))
    return settings_of("scratch.dataset=mnist", "scratch.epochs=2", f"tracking.uri={uri}")


@pytest.fixture(scope="module")
def ids(settings, settings_of, tmp_path_factory):
    """The ids of a run of each net and of one that failed, oldest first."""
    folder = tmp_path_factory.mktemp("nets")
    given = ("keras.units=[512,256]", "keras.dropout=0.25", "keras.epochs=3")
    other = settings_of("scratch.dataset=mnist", "scratch.epochs=2", *given, f"tracking.uri={settings.tracking.uri}")
    made = [track(settings, folder), track(other, folder, net="keras", overrides=given)]
    with pytest.raises(ValueError, match="on purpose"):
        fail(settings)
    return [*made, runs(1, settings=settings).index[0]]


@pytest.fixture
def said(settings, ids, monkeypatch, capsys):
    """Return a function that runs the command on the store, in this process, and returns the lines that it prints."""

    def lines(*run_ids):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking.uri)
        monkeypatch.setattr(sys, "argv", ["compare", *run_ids])
        compare.main()
        return capsys.readouterr().out.splitlines()

    return lines


def lines_of(table, width):
    """Return the lines that a terminal of this width shows."""
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as shown:
        console.print(compare.run(table, width))
    return shown.get().splitlines()


def test_in_a_pipe_each_run_is_one_line_however_long(said, ids):
    head, rule, *rows = said()
    assert head.split()[:3] == ["run", "name", "status"]
    assert head.split()[-5:] == ["val_loss", "val_accuracy", "test_loss", "test_accuracy", "time"]
    assert set(rule) <= {"─", " "}
    assert [row.split()[0] for row in rows] == [run_id[:8] for run_id in ids[::-1]]
    assert all("0.7500" in row and "0.5000" in row for row in rows[1:])
    assert " failed " in rows[0]


def test_params_that_differ_are_columns_and_others_are_not(said, ids):
    head, _, keras, scratch = said(*ids[1::-1])[:4]
    assert {"net", "epochs", "learning_rate", "activation"} <= set(head.split())
    assert not {"seed", "dataset", "dropout", "n_hidden"} & set(head.split())  # alike, or of one run only
    at = head.index("epochs")
    assert (keras[at:].split()[0], scratch[at:].split()[0]) == ("3", "2")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_in_a_terminal_nothing_is_cut_off_and_no_number_is_broken(settings, ids, width):
    lines = lines_of(runs(settings=settings), width)
    assert max(map(len, lines)) <= width
    for run_id in ids[:2]:
        (line,) = [line for line in lines if line.startswith(run_id[:8])]
        assert re.search(r"done .* \d\.\d{4}  \d\.\d{4}  0\.5000  0\.7500 +\d+\.\ds$", line.rstrip())


def test_where_the_columns_do_not_fit_the_params_share_one(settings, ids):
    narrow = "\n".join(lines_of(runs(settings=settings), 100))
    assert "params that differ" in narrow
    assert "epochs=3" in narrow
    assert "params that differ" not in "\n".join(lines_of(runs(settings=settings), 300))


def test_one_run_alone_has_no_params_that_differ(settings, ids):
    table = runs(settings=settings, run_ids=ids[:1])
    assert compare.differing(table) == []
    assert lines_of(table, 100)[-1].startswith(ids[0][:8])


def test_given_runs_come_with_the_address_that_shows_them(said, ids):
    last = said(ids[0][:10], ids[1])[-1]
    assert re.fullmatch(r"http://127\.0\.0\.1:5000/#/experiments/1/runs\?\S+  \(`make ui` serves it\)", last)


def test_runs_of_two_experiments_are_one_table_and_two_pages(said, settings, ids, settings_of, tmp_path):
    import mlflow

    uri = f"tracking.uri={settings.tracking.uri}"
    other = track(settings_of("scratch.epochs=2", uri, "tracking.experiment=ideas"), tmp_path)
    lines = said(ids[0], other, ids[1])
    assert [line.split()[0] for line in lines[2:5]] == [ids[0][:8], other[:8], ids[1][:8]]
    idea = mlflow.MlflowClient(settings.tracking.uri).get_experiment_by_name("ideas").experiment_id
    pages = [line for line in lines if line.startswith("http")]
    assert [page.split("/#/")[1].split("?")[0] for page in pages] == [
        "experiments/1/runs",
        f"experiments/{idea}/runs/{other}",
    ]


def test_an_unknown_id_is_one_line(call, settings, ids):
    env = {"MLFLOW_TRACKING_URI": settings.tracking.uri}
    done = call(ROOT, sys.executable, "-m", "pipeline.compare", "0" * 32, code=1, env=env)
    assert done.stderr.startswith(f"error: {'0' * 32}: the tracking store has no such run")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_a_store_it_says_how_to_make_a_run_and_makes_nothing(call, tmp_path):
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    done = call(ROOT, sys.executable, "-m", "pipeline.compare", env=env)
    assert done.stdout.splitlines() == [compare.NONE_YET]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_store_a_given_id_is_unknown(call, tmp_path):
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    assert "no such run" in call(ROOT, sys.executable, "-m", "pipeline.compare", "abc", code=1, env=env).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_one_line_without_its_password(call):
    env = {"MLFLOW_TRACKING_URI": "http://ann:sEcret@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = call(ROOT, sys.executable, "-m", "pipeline.compare", code=1, env=env)
    assert done.stderr.startswith("error: tracking.uri: http://127.0.0.1:9 cannot be read: ")
    assert done.stderr.count("\n") == 1
    assert "sEcret" not in done.stderr + done.stdout
