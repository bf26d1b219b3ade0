"""Stage evaluate: what it measures, of a binary net and one of ten classes, and the files that it writes."""

import csv
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import yaml
from sklearn.metrics import f1_score, roc_auc_score

from pipeline import dataset, evaluate, files, metrics, paths, tracking, train_scratch, trained
from pipeline.config import to_dict
from pipeline.lineage import inputs_of
from pipeline.trained import Trained

EVERY_NETS = [
    "test_loss",
    "test_accuracy",
    "train_accuracy",
    "train_test_gap",
    "test_precision",
    "test_recall",
    "test_f1",
]

# importing mlflow.pyfunc 3.17
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")


@pytest.fixture(scope="module")
def binary(settings_of):
    """The data and the net of the binary task, three epochs in."""
    settings = settings_of("scratch.learning_rate=0.3")
    data = dataset.make(settings, "synthetic")
    return data, train_scratch.run(replace(settings.scratch, epochs=3), data, 0)


@pytest.fixture(scope="module")
def digits(settings_of):
    """The data of small digits, and a net in Keras's form: weights that NumPy drew, not trained."""
    settings = settings_of("mnist=digits")
    rng = np.random.default_rng(0)
    weights = {
        "dense/kernel": rng.normal(size=(784, 16)).astype(np.float32) / 28,
        "dense/bias": np.zeros(16, np.float32),
        "dense_1/kernel": rng.normal(size=(16, 10)).astype(np.float32),
        "dense_1/bias": np.zeros(10, np.float32),
    }
    history = {"loss": [2.0, 1.0], "accuracy": [0.5, 0.6], "val_loss": [2.1, 1.1], "val_accuracy": [0.4, 0.5]}
    result = Trained("keras", "mnist", ("relu", "softmax"), weights, history, "summary\n")
    return dataset.make(settings, "mnist"), result


@pytest.fixture(scope="module")
def reports(binary, digits):
    return {"scratch": evaluate.run(binary[1], binary[0]), "keras": evaluate.run(digits[1], digits[0])}


def test_a_binary_net_has_every_figure_and_a_roc(reports):
    assert list(reports["scratch"].metrics) == [*EVERY_NETS, "test_roc_auc"]
    assert list(reports["scratch"].per_class) == ["0", "1"]
    assert set(reports["scratch"].images) == {
        "learning_curves",
        "confusion_matrix",
        "first_layer_weights",
        "roc_curve",
    }


def test_a_net_of_ten_classes_has_every_figure_and_its_errors(reports):
    assert list(reports["keras"].metrics) == EVERY_NETS
    assert list(reports["keras"].per_class) == [str(digit) for digit in range(10)]
    assert set(reports["keras"].images) == {
        "learning_curves",
        "confusion_matrix",
        "first_layer_weights",
        "most_confident_errors",
    }


def test_figures_are_scikit_learns_from_the_nets_own_probabilities(binary, reports):
    data, result = binary
    probability = 1 / (1 + np.exp(-train_scratch.logits(result, data["X_test"])[0]))
    actual = data["Y_test"][:, 0]
    predicted = probability >= 0.5
    figures = reports["scratch"].metrics
    assert figures["test_accuracy"] == pytest.approx(np.mean(predicted == actual))
    assert figures["test_f1"] == pytest.approx(f1_score(actual, predicted, average="macro"))
    assert figures["test_roc_auc"] == pytest.approx(roc_auc_score(actual, probability))
    loss = -np.mean(actual * np.log(probability) + (1 - actual) * np.log(1 - probability))
    assert figures["test_loss"] == pytest.approx(loss)


def test_the_gap_is_train_accuracy_less_test_accuracy(binary, reports):
    data, result = binary
    train = metrics.score(train_scratch.logits(result, data["X_train"]), data["Y_train"])
    figures = reports["scratch"].metrics
    assert figures["train_accuracy"] == train.accuracy
    assert figures["train_test_gap"] == pytest.approx(train.accuracy - figures["test_accuracy"])


def test_a_class_that_is_never_predicted_has_precision_0(digits):
    data, result = digits
    biased = result.weights | {"dense_1/bias": np.array([99] + [0] * 9, np.float32)}
    report = evaluate.run(replace(result, weights=biased), data)
    assert report.per_class["3"] == {"test_precision": 0.0, "test_recall": 0.0, "test_f1": 0.0}
    assert report.per_class["0"]["test_recall"] == 1.0


def test_equal_input_gives_equal_pictures(digits, reports):
    data, result = digits
    assert evaluate.run(result, data).images == reports["keras"].images


def test_the_confusion_csv_has_a_row_a_test_row(binary, reports, tmp_path):
    evaluate.write(reports, {}, tmp_path)
    with (tmp_path / "scratch_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["actual"]) for row in rows] == binary[0]["Y_test"][:, 0].astype(int).tolist()
    agree = sum(row["actual"] == row["predicted"] for row in rows)
    assert agree / len(rows) == reports["scratch"].metrics["test_accuracy"]


def test_written_metrics_are_the_reports(reports, tmp_path):
    evaluate.write(reports, {"activations": b"png"}, tmp_path)
    for net, report in reports.items():
        assert json.loads((tmp_path / f"{net}_metrics.json").read_text()) == report.metrics
        files_ = sorted((tmp_path / f"{net}_per_class").iterdir())
        assert {path.stem: json.loads(path.read_text()) for path in files_} == report.per_class
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"activations.png", "keras_most_confident_errors.png", "scratch_roc_curve.png"} <= pictures


def test_pictures_of_an_earlier_evaluation_go(reports, tmp_path):
    evaluate.write(reports, {"sample_digits": b"png"}, tmp_path)
    evaluate.write(reports, {}, tmp_path)
    assert not (tmp_path / "pictures/sample_digits.png").exists()


def test_test_rows_of_one_class_have_no_roc_curve(binary):
    data, result = binary
    ones = data["Y_test"][:, 0] == 1
    report = evaluate.run(result, data | {"X_test": data["X_test"][ones], "Y_test": data["Y_test"][ones]})
    assert "test_roc_auc" not in report.metrics
    assert "roc_curve" not in report.images


def choose(net, dataset):
    """Write what stage preprocess says of the dataset of a net."""
    choice = {"dataset": dataset, "md5": files.file_md5(paths.prepared(dataset))}
    paths.choice_file(net).write_text(json.dumps(choice))


@pytest.fixture
def stage(binary, digits, settings_of, new_store, own_tracking, tmp_path, monkeypatch):
    """Stand in a folder with what the stage reads, and return its settings."""
    settings = settings_of("mnist=digits", f"tracking.uri={new_store(tmp_path)}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(to_dict(settings)))
    for data, result in (binary, digits):
        trained.save(result, paths.RUNS / result.net)
        files.save_arrays(paths.prepared(result.dataset), data)
        choose(result.net, result.dataset)
    return settings


def test_the_stage_adds_its_figures_to_the_run_that_made_the_weights(stage, binary, reports):
    import mlflow

    data, result = binary
    with tracking.start_run(stage, "scratch", inputs_of("synthetic", data, "0" * 32)) as run:
        run.log_trained(result, paths.RUNS / "scratch", stage, example=data["X_test"][:2])
    evaluate.main()
    client = mlflow.MlflowClient()
    figures = client.get_run(run.run_id).data.metrics
    assert {name: figures[name] for name in EVERY_NETS} == {
        name: reports["scratch"].metrics[name] for name in EVERY_NETS
    }
    logged = {artifact.path for artifact in client.list_artifacts(run.run_id, "pictures")}
    assert "pictures/confusion_matrix.png" in logged


def test_the_stage_goes_on_where_no_run_made_the_weights(stage, caplog):
    caplog.set_level(logging.INFO)
    evaluate.main()
    told = "no run has made these weights; their figures stay local"
    assert len([line for line in caplog.messages if line.endswith(told)]) == 2
    assert (paths.REPORTS / "keras_metrics.json").is_file()
    common = {"activations.png", "sample_digits.png"}
    assert common <= {path.name for path in (paths.REPORTS / "pictures").iterdir()}


def test_without_image_data_there_are_no_sample_digits(stage, binary):
    trained.save(replace(binary[1], net="keras", weights=_as_keras(binary[1])), paths.RUNS / "keras")
    choose("keras", "synthetic")
    evaluate.main()
    assert not (paths.REPORTS / "pictures/sample_digits.png").exists()
    first, second = (json.loads((paths.REPORTS / f"{net}_metrics.json").read_text()) for net in ("scratch", "keras"))
    assert first["test_accuracy"] == second["test_accuracy"]


def _as_keras(result):
    """Return the weights of a from-scratch net under Keras's names and in its row form."""
    W1, b1, W2, b2 = result.weights.values()
    return {"dense/kernel": W1.T, "dense/bias": b1[:, 0], "dense_1/kernel": W2.T, "dense_1/bias": b2[:, 0]}
