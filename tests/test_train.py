"""`python -m pipeline.train`: one training as one tracked run, in process where that saves a start of TensorFlow."""

import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import cache, paths, train, trained
from pipeline.config import Settings, parse
from pipeline.errors import DataError, SettingsError, TrainingError
from pipeline.trained import Trained

ROOT = Path(__file__).resolve().parents[1]
TINY = ("net=scratch", "synthetic.n_samples=300", "synthetic.n_train=200", "scratch.epochs=3")
TINY_KERAS = ("net=keras", "mnist=digits", "keras.units=8", "keras.epochs=2", "keras.jit_compile=false")

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),  # Keras 3.15 under NumPy 2
]


@dataclass(frozen=True)
class Tracked:
    """A finished training, and its run as MLflow has it."""

    settings: Settings
    result: Trained
    run: object
    client: object

    def history(self, key: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.run.info.run_id, key)
        return [(point.step, point.value) for point in sorted(points, key=lambda point: point.step)]

    def artifacts(self, folder: str | None = None) -> set[str]:
        return {artifact.path for artifact in self.client.list_artifacts(self.run.info.run_id, folder)}

    def text(self, artifact: str) -> str:
        return Path(self.client.download_artifacts(self.run.info.run_id, artifact)).read_text()

    def model(self):
        import mlflow

        mlflow.set_tracking_uri(self.settings.tracking.uri)
        (output,) = self.client.get_run(self.run.info.run_id).outputs.model_outputs
        return mlflow.pyfunc.load_model(f"models:/{output.model_id}")


@pytest.fixture(scope="module")
def trained_with(settings_of, new_store, tmp_path_factory, own_tracking):
    """Return a function that trains with overrides of conf/, in a store of the module's own."""
    import mlflow

    uri = new_store(tmp_path_factory.mktemp("store"))
    client = mlflow.MlflowClient(uri)

    def do(*overrides: str, fails: type[Exception] | None = None) -> Tracked:
        settings = settings_of(*overrides, f"tracking.uri={uri}")
        result = None
        if fails:
            with pytest.raises(fails):
                train.run(settings, tmp_path_factory.mktemp("outputs"), list(overrides))
        else:
            result = train.run(settings, tmp_path_factory.mktemp("outputs"), list(overrides))
        experiment = client.get_experiment_by_name(settings.tracking.experiment)
        run = client.search_runs([experiment.experiment_id], max_results=1)[0]
        return Tracked(settings, result, run, client)

    return do


@pytest.fixture(scope="module")
def scratch(trained_with) -> Tracked:
    return trained_with(*TINY)


@pytest.fixture(scope="module")
def keras(trained_with) -> Tracked:
    return trained_with(*TINY_KERAS)


@pytest.fixture
def app(call, tmp_path):
    """Return a function that calls the command line from another folder, with a store in that folder."""

    def run(*arguments: str, code: int = 0):
        env = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
        return call(tmp_path, sys.executable, "-m", "pipeline.train", *arguments, code=code, env=env)

    return run


@pytest.mark.parametrize("net", ["scratch", "keras"])
def test_a_training_is_a_finished_run_with_its_params(net, request):
    tracked = request.getfixturevalue(net)
    assert tracked.run.info.status == "FINISHED"
    params = tracked.run.data.params
    assert params["net"] == net
    assert params["epochs"] == str(tracked.settings.section(net).epochs)
    assert params["seed"] == "0"
    assert tracked.run.data.tags["weights_sha256"] == tracked.result.weights_sha256


@pytest.mark.parametrize("net", ["scratch", "keras"])
def test_the_history_has_one_point_an_epoch_from_step_1(net, request):
    tracked = request.getfixturevalue(net)
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert tracked.history(key) == list(enumerate(tracked.result.history[key], 1))


@pytest.mark.parametrize("net", ["scratch", "keras"])
def test_the_run_holds_test_metrics_and_files(net, request):
    tracked = request.getfixturevalue(net)
    assert {
        "test_loss",
        "test_accuracy",
        "test_f1",
        "train_test_gap",
    } <= tracked.run.data.metrics.keys()
    files = {"weights.npz", "history.csv", "settings.yaml", "net.json", "summary.txt", "per_class.json"}
    assert files <= tracked.artifacts()
    pictures = {"learning_curves", "confusion_matrix", "first_layer_weights"}
    assert {f"pictures/{name}.png" for name in pictures} <= tracked.artifacts("pictures")
    without_address = replace(tracked.settings, tracking=replace(tracked.settings.tracking, uri=None))
    assert parse(yaml.safe_load(tracked.text("settings.yaml"))) == without_address


def test_weights_of_each_net_are_named_layer_by_layer(scratch, keras):
    assert list(scratch.result.weights) == ["W1", "b1", "W2", "b2"]
    path = keras.client.download_artifacts(keras.run.info.run_id, "weights.npz")
    with np.load(path, allow_pickle=False) as weights:
        shapes = {name: weights[name].shape for name in weights.files}
    assert shapes == {
        "dense/kernel": (784, 8),
        "dense/bias": (8,),
        "dense_1/kernel": (8, 10),
        "dense_1/bias": (10,),
    }


def test_the_logged_model_answers_as_the_net_does(scratch):
    from pipeline import dataset, metrics, train_scratch

    data = dataset.make(scratch.settings, "synthetic")
    expected = metrics.score(train_scratch.logits(scratch.result, data["X_test"]), data["Y_test"]).proba
    np.testing.assert_allclose(scratch.model().predict(data["X_test"]), expected, rtol=1e-12)


def test_keras_summary_is_logged(keras):
    assert "dense_1 (Dense)" in keras.text("summary.txt")


@pytest.mark.parametrize(
    ("overrides", "shape"),
    [
        (["net=scratch", "scratch.dataset=mnist", "mnist=digits", "scratch.epochs=1"], (10, 784)),
        (
            ["net=keras", "keras.dataset=synthetic", "keras.units=8", "keras.epochs=1", "keras.jit_compile=false"],
            (20, 8),
        ),
    ],
    ids=["scratch on mnist", "keras on synthetic"],
)
def test_either_net_trains_on_either_dataset(trained_with, overrides, shape):
    tracked = trained_with(*overrides)
    assert tracked.run.info.status == "FINISHED"
    assert next(iter(tracked.result.weights.values())).shape == shape
    assert tracked.result.dataset == tracked.run.data.params["dataset"]


def test_an_overridden_data_key_is_recorded_and_used(trained_with, scratch):
    fewer = trained_with(*TINY, "synthetic.n_train=100")
    assert fewer.run.data.params["synthetic.n_train"] == "100"
    assert fewer.result.history["loss"][0] != scratch.result.history["loss"][0]
    assert fewer.result.weights_sha256 != scratch.result.weights_sha256


def test_equal_settings_give_equal_weights(trained_with, scratch):
    assert trained_with(*TINY).result.weights_sha256 == scratch.result.weights_sha256


def test_a_training_that_diverges_is_a_failed_run_with_its_history_so_far(trained_with):
    overrides = [*TINY, "scratch.activation=relu", "scratch.learning_rate=1e4", "scratch.epochs=400"]
    tracked = trained_with(*overrides, fails=TrainingError)
    assert tracked.run.info.status == "FAILED"
    error = tracked.run.data.tags["error"]
    epoch = int(re.match(r"TrainingError: scratch: epoch (\d+) of 400", error)[1])
    assert "10000" in error
    assert [step for step, _ in tracked.history("loss")] == list(range(1, epoch))
    assert all(math.isfinite(value) for _, value in tracked.history("loss"))


def test_a_net_beyond_the_memory_is_a_failed_run(trained_with):
    tracked = trained_with("net=scratch", "scratch.n_hidden=900000000000", fails=MemoryError)
    assert tracked.run.info.status == "FAILED"
    assert "Unable to allocate" in tracked.run.data.tags["error"]


@pytest.mark.slow
def test_history_goes_on_from_the_trained_net_on_the_pooled_images(trained_with, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("experiment=history", "mnist=digits", "keras.units=8", "keras.epochs=2", "keras.jit_compile=false")
    first = trained_with("mnist=digits", "keras.units=8", "keras.epochs=3", "keras.jit_compile=false")
    trained.save(first.result, paths.RUNS / "keras")
    on = trained_with(*small)
    assert on.result.history["loss"][0] < first.result.history["loss"][-1]
    assert on.result.n_epochs == 2
    assert on.run.data.params["warm_start"] == "True"
    assert on.run.data.params["preprocess.pool_test"] == "True"


def test_history_without_a_trained_net_says_how_to_get_one(settings_of, tmp_path, monkeypatch, new_store):
    monkeypatch.chdir(tmp_path)
    settings = settings_of("experiment=history", "mnist=digits", f"tracking.uri={new_store(tmp_path)}")
    with pytest.raises(FileNotFoundError, match=r"data/runs/keras.*`dvc repro`"):
        train.run(settings, tmp_path, [])


def test_history_pools_70000_images_into_1466_steps_an_epoch(settings_of):
    from pipeline import preprocess

    settings = settings_of("experiment=history")
    images, labels = np.zeros((70_000, 1, 1), np.uint8), np.zeros(70_000, np.uint8)
    loaded = {
        "X_train": images[:60_000],
        "y_train": labels[:60_000],
        "X_test": images[60_000:],
        "y_test": labels[60_000:],
    }
    prepared = preprocess.run(settings.preprocess, settings.seed, loaded)
    assert len(prepared["X_train"]) + len(prepared["X_val"]) == 70_000
    assert math.ceil(len(prepared["X_train"]) / settings.keras.batch_size) == 1466
    assert settings.keras.epochs == 5
    assert not settings.preprocess.shuffle  # the last third validates, as Keras's validation_split has it


def test_the_objective_needs_validation_rows_where_it_is_of_them(settings_of):
    settings = settings_of("preprocess.validation_fraction=0")
    with pytest.raises(SettingsError, match=r"objective: loss or accuracy is needed .* but got val_loss"):
        train.check_objective(settings)
    train.check_objective(replace(settings, objective="accuracy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keras.unit=3"], "keras.unit"),
        (["kers=deep"], "kers"),
        (["experiment=quikc"], "quikc"),
        (["keras.epochs=0"], "keras.epochs: a whole number ≥ 1 is needed, but got 0"),
        (["keras.learning_rate=nan"], "keras.learning_rate: a finite number > 0 is needed, but got nan"),
        (["net=forest"], "net: one of scratch, keras is needed, but got 'forest'"),
        (["scratch.activation=swish"], "scratch.activation: one of tanh, sigmoid, relu is needed, but got 'swish'"),
        (["objective=val_loss", "preprocess.validation_fraction=0"], "objective: loss or accuracy is needed"),
        (["keras.units=[1"], "no viable alternative"),
        (["tracking.uri=http://ann:secret@h"], "tracking.uri=http://h: an address without user, password and query"),
        (["tracking=null"], "Config group override must be a string or a list"),
        (["hydra.run.dir=/proc/none"], "Hydra cannot start: /proc/none: No such file or directory"),
        (["net=scratch", "mnist=digits"], "net=scratch on synthetic reads nothing of mnist"),
        (["net=scratch", "keras.units=3"], "net=scratch on synthetic reads nothing of keras"),
        (["synthetic.n_train=9"], "net=keras on mnist reads nothing of synthetic; leave it out, or add"),
        (["net=scratch", "scratch.dataset=mnist", "mnist.train_csv=a", "mnist.test_csv=b"], "a: no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_1(app, arguments, message):
    done = app(*arguments, code=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert done.stdout == ""


def test_the_app_trains_and_says_where(app, new_store, tmp_path):
    new_store(tmp_path)
    done = app(*TINY)
    folder = Path(re.search(r"run [0-9a-f]{32}, in (\S+)", done.stdout)[1])
    assert (tmp_path / folder / "net/weights.npz").is_file()
    assert len(re.findall(r"scratch epoch \d/3  loss", done.stdout)) == 3


@pytest.fixture
def interruptible():
    """Let children of this process take SIGINT, also where a shell has started it in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_a_killed_run_with_its_history_so_far(environment, new_store, tmp_path):
    import mlflow

    uri = new_store(tmp_path)
    client = mlflow.MlflowClient(uri)
    command = [sys.executable, "-m", "pipeline.train", *TINY, "scratch.epochs=10000000", f"tracking.uri={uri}"]
    with (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, stderr=stderr)
        try:
            run = _first_epochs(client, process)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
            process.wait()
        stderr.seek(0)
        assert "Traceback" not in stderr.read()
    ended = client.get_run(run.info.run_id)
    assert ended.info.status == "KILLED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(steps) == list(range(1, len(steps) + 1))
    assert steps


def _first_epochs(client, process):
    """Return the run as soon as the first epochs are in the store, while the process still trains."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        experiment = client.get_experiment_by_name("neural-nets")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        if runs and runs[0].data.metrics:
            assert runs[0].info.status == "RUNNING"
            return runs[0]
        time.sleep(0.1)
    raise AssertionError(f"no epoch in the store; exit code {process.poll()}")


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """Return a DVC repository that is the project, for what is brought by its md5."""
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(train, "_last_data", {})
    monkeypatch.setattr(train, "_last_weights", {})
    return tmp_path


def test_data_that_another_machine_has_are_brought_by_their_md5(repository, settings_of):
    """They are not those that the settings would give here: so it is seen where they come from."""
    arrays = {"X_train": np.ones((2, 3))}
    cache.keep(arrays, repository)
    settings = settings_of(*TINY)
    data, md5 = train.data_of(settings, cache.arrays_md5(arrays))
    assert data["X_train"].tolist() == arrays["X_train"].tolist()
    assert md5 == cache.arrays_md5(arrays)
    assert train.data_of(settings) == (data, md5)  # they stay


def test_data_that_nobody_has_are_made_or_it_is_said_that_they_cannot_be(repository, settings_of):
    made, _ = train.data_of(settings_of(*TINY), "0" * 32)
    assert made["X_train"].shape == (180, 20)
    own = ("net=scratch", "scratch.dataset=mnist", "mnist.train_csv=no.csv", "mnist.test_csv=no.csv")
    told = rf"data {'0' * 32} \(mnist\): neither DVC's cache in {repository} nor its remote .*no\.csv.*`dvc push`"
    with pytest.raises(DataError, match=told):
        train.data_of(settings_of(*own), "0" * 32)


def test_weights_to_start_from_are_brought_by_their_md5(repository, settings_of):
    arrays = {"dense/kernel": np.ones((2, 3), np.float32)}
    settings = settings_of("net=keras", "keras.warm_start=true")
    with pytest.raises(DataError, match="the weights at the start"):
        train.initial_of(settings, cache.arrays_md5(arrays))
    cache.keep(arrays, repository)
    for asked in (cache.arrays_md5(arrays), None):  # the training itself asks without
        weights, md5 = train.initial_of(settings, asked)
        assert weights["dense/kernel"].tolist() == arrays["dense/kernel"].tolist()
        assert md5 == cache.arrays_md5(arrays)


@pytest.mark.parametrize("sweep", [[], ["-m"], ["-m", "hydra/sweeper=study"]], ids=["run", "grid", "study"])
def test_a_password_in_conf_is_in_no_file(app, tmp_path, sweep):
    (tmp_path / "own/tracking").mkdir(parents=True)
    (tmp_path / "own/tracking/team.yaml").write_text("uri: http://ann:secret@127.0.0.1:9\nexperiment: e\n")
    epochs = "scratch.epochs=1,2" if sweep else "scratch.epochs=1"
    done = app(f"--config-dir={tmp_path / 'own'}", *sweep, *TINY[:-1], epochs, "tracking=team", code=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: tracking.uri: an address without user, password and query is needed")
    assert "secret" not in line
    (tmp_path / "own/tracking/team.yaml").unlink()
    assert not [path for path in tmp_path.rglob("*.yaml") if "secret" in path.read_text()]
