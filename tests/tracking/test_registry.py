"""The champion of a dataset: registered once, moved only by a better test accuracy, measured on equal rows."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cache, dataset, evaluate, tracking, train_scratch, trained
from pipeline.config import Settings
from pipeline.files import Arrays, arrays_sha256
from pipeline.lineage import inputs_of
from pipeline.tracking.registry import promote, task_of

BAD, FAIR, GOOD = 1, 25, 60  # epochs

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]


@pytest.fixture
def settings(new_store, settings_of, tmp_path) -> Settings:
    return settings_of(
        "synthetic.n_samples=600",
        "synthetic.n_train=400",
        "synthetic.n_features=6",
        "synthetic.n_informative=6",
        "scratch.n_hidden=3",
        "scratch.learning_rate=0.1",
        f"tracking.uri={new_store(tmp_path)}",
    )


def made(settings: Settings) -> tuple[Arrays, str]:
    data = dataset.make(settings, "synthetic")
    return data, cache.arrays_md5(data)


def train(settings: Settings, epochs: int, folder: Path) -> tuple[str, float]:
    """Leave a tracked and evaluated run as `pipeline.train` does; return its id and its test accuracy."""
    settings = replace(settings, net="scratch", scratch=replace(settings.scratch, epochs=epochs))
    data, md5 = made(settings)
    with tracking.start_run(settings, "scratch", inputs_of("synthetic", data, md5)) as tracked:
        result = train_scratch.run(settings.scratch, data, settings.seed)
        trained.save(result, folder / "net")
        tracked.log_trained(result, folder / "net", settings, example=data["X_test"][:2])
        accuracy = evaluate.score(result, data).accuracy
        tracked.log_report({"test_accuracy": accuracy}, {})
    return tracked.run_id, accuracy


def rows_sha256(data: Arrays) -> str:
    return arrays_sha256({name: data[name] for name in ("X_test", "Y_test")})


def crown(settings: Settings) -> str | None:
    """Do what `evaluate` does at its end."""
    data, md5 = made(settings)
    return promote(settings, "synthetic", md5, rows_sha256(data))


def versions() -> dict[str, str]:
    """Return the run of each registered version."""
    import mlflow

    found = mlflow.MlflowClient().search_model_versions("name = 'synthetic'")
    return {str(version.version): version.run_id for version in found}


def champion() -> str:
    import mlflow

    return str(mlflow.MlflowClient().get_model_version_by_alias("synthetic", "champion").version)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], bool]:
    """Return a function that tells whether a line of the log begins with a text."""
    caplog.set_level(logging.INFO, "pipeline.tracking.registry")
    return lambda text: any(line.startswith(text) for line in caplog.messages)


def test_the_first_run_is_the_champion_and_its_version_says_where_it_comes_from(settings, tmp_path, said):
    import mlflow

    run_id, accuracy = train(settings, GOOD, tmp_path)
    assert crown(settings) == "1"
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("synthetic", "champion")
    run = client.get_run(run_id)
    assert version.run_id == run_id
    assert version.tags == {
        "run_id": run_id,
        "net": "scratch",
        "data.md5": made(settings)[1],
        "test_accuracy": str(accuracy),
        "test_sha256": rows_sha256(made(settings)[0]),
        "weights_sha256": run.data.tags["weights_sha256"],
    }
    assert said(f"champion of synthetic: version 1, test_accuracy {accuracy:.4f} (the first)")


def test_evaluating_twice_registers_once(settings, tmp_path):
    train(settings, GOOD, tmp_path)
    assert [crown(settings), crown(settings)] == ["1", None]
    train(settings, GOOD, tmp_path)  # the same weights in another run
    assert crown(settings) is None
    assert list(versions()) == ["1"]


def test_only_a_better_test_accuracy_moves_the_champion(settings, tmp_path, said):
    _, fair = train(settings, FAIR, tmp_path)
    crown(settings)
    _, bad = train(settings, BAD, tmp_path)
    assert bad < fair
    assert crown(settings) is None
    run_id, good = train(settings, GOOD, tmp_path)
    assert good > fair
    assert crown(settings) == champion() == "2"
    assert versions()["2"] == run_id
    assert said(f"champion of synthetic: version 2, test_accuracy {good:.4f} (was {fair:.4f})")


def test_of_several_runs_the_best_alone_is_registered(settings, tmp_path):
    runs = [train(settings, epochs, tmp_path)[0] for epochs in (FAIR, GOOD, BAD)]
    assert crown(settings) == "1"
    assert versions() == {"1": runs[1]}


def test_a_run_that_failed_or_was_trained_on_the_test_rows_is_no_candidate(settings, tmp_path):
    import mlflow

    pooled = replace(settings, preprocess=replace(settings.preprocess, pool_test=True))
    train(pooled, GOOD, tmp_path)
    failed, _ = train(settings, GOOD, tmp_path)
    mlflow.MlflowClient(settings.tracking.uri).set_terminated(failed, "FAILED")
    assert crown(settings) is None
    assert crown(pooled) is None
    assert versions() == {}


def test_another_split_competes_on_the_same_test_rows(settings, tmp_path, said):
    _, fair = train(settings, FAIR, tmp_path)
    crown(settings)
    other_split = replace(settings, seed=1)  # other validation rows, equal test rows
    _, bad = train(other_split, BAD, tmp_path)
    assert crown(other_split) is None
    assert said(f"champion of synthetic: unchanged (was {fair:.4f}); the best run has test_accuracy {bad:.4f}")
    train(other_split, GOOD, tmp_path)
    assert crown(other_split) == champion() == "2"


def test_a_champion_tested_on_other_rows_stays_there_and_back(settings, tmp_path, said):
    train(settings, FAIR, tmp_path)
    crown(settings)
    other_task = replace(settings, synthetic=replace(settings.synthetic, random_state=7))
    train(other_task, GOOD, tmp_path)
    assert crown(other_task) is None
    assert said(
        "champion of synthetic: unchanged (version 1 was tested on other rows; README: Use a model); the best run "
    )
    assert crown(settings) is None
    assert (champion(), list(versions())) == ("1", ["1"])


def test_small_digits_are_a_task_of_their_own(settings_of):
    names = [task_of(settings_of(*given), "mnist") for given in ([], ["mnist=digits"])]
    assert names == ["mnist", "digits"]
    assert task_of(settings_of("mnist=digits"), "synthetic") == "synthetic"


def test_two_evaluations_at_once_register_one_version(settings, tmp_path):
    train(settings, GOOD, tmp_path)
    data, md5 = made(settings)
    at_once = threading.Barrier(2)
    moved = []

    def evaluation() -> None:
        at_once.wait()
        moved.append(promote(settings, "synthetic", md5, rows_sha256(data)))

    threads = [threading.Thread(target=evaluation) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved, key=str) == ["1", None]
    assert list(versions()) == ["1"]
