"""The logged models as others meet them: in a process without the project, and behind `mlflow models serve`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import cache, dataset, evaluate, prepared, tracking, train, trained
from pipeline.config import Settings
from pipeline.files import Arrays, arrays_sha256, load_arrays, save_arrays
from pipeline.lineage import inputs_of
from pipeline.tracking.registry import promote
from pipeline.trained import Trained

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 90
LESSONS_HEADER = ",".join(f"{row}x{column}" for row in range(1, 29) for column in range(1, 29))

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),  # keras 3.15 saves a model
]

LOADING = """
import sys

sys.modules["pipeline"] = None  # importing it fails, wherever it is installed
import mlflow
import numpy as np

folder, root, *uris = sys.argv[1:]
rows = np.load(f"{folder}/rows.npz")
answers = {uri: mlflow.pyfunc.load_model(uri).predict(rows[uri]) for uri in uris}
np.savez(f"{folder}/answers.npz", **answers)
net = mlflow.keras.load_model("models:/digits@champion", load_model_kwargs={"safe_mode": True})
weights = {variable.path.removeprefix("mlp/"): variable.numpy() for variable in net.weights}
np.savez(f"{folder}/weights.npz", **weights)

del sys.modules["pipeline"]  # the models have brought code of their own: it hides no module of the project
sys.path.insert(0, root)
import pipeline.tracking
"""


@dataclass(frozen=True)
class Logged:
    """A tracked run with a model, and how to name that model in MLflow."""

    run_id: str
    result: Trained
    data: Arrays

    @property
    def uri(self) -> str:
        return f"runs:/{self.run_id}/model"

    @property
    def expected(self) -> np.ndarray:
        """Return what the pipeline itself says of the test rows, (n, k)."""
        return evaluate.score(self.result, self.data).proba

    @property
    def folder(self) -> Path:
        import mlflow

        (output,) = mlflow.MlflowClient().get_run(self.run_id).outputs.model_outputs
        location = mlflow.MlflowClient().get_logged_model(output.model_id).artifact_location
        return Path(location.removeprefix("file://"))


@pytest.fixture(scope="module")
def store(tmp_path_factory, new_store) -> str:
    return new_store(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def logged(own_tracking, tmp_path_factory, settings_of, store) -> dict[str, Logged]:
    """Return runs of both nets on the small digits, and of the from-scratch one on the binary task."""
    folder = tmp_path_factory.mktemp("nets")
    settings = settings_of(
        f"tracking.uri={store}",
        "mnist=digits",
        "synthetic.n_samples=500",
        "synthetic.n_train=400",
        "keras.units=[64]",
        "keras.epochs=5",
        "keras.jit_compile=false",
        "scratch.epochs=20",
        "scratch.learning_rate=0.5",
    )
    on_digits = replace(settings, scratch=replace(settings.scratch, dataset="mnist"))
    return {
        "keras": track(replace(settings, net="keras"), folder / "keras"),
        "scratch": track(replace(on_digits, net="scratch"), folder / "scratch"),
        "binary": track(replace(settings, net="scratch"), folder / "binary"),
    }


def track(settings: Settings, folder: Path) -> Logged:
    """Train, log, evaluate and, if it is the first of its dataset, make champion."""
    name = settings.section(settings.net).dataset
    data = dataset.make(settings, name)
    md5 = cache.arrays_md5(data)
    with tracking.start_run(settings, settings.net, inputs_of(name, data, md5)) as tracked:
        result, model = train.fit(settings, data, lambda epoch, metrics: None)
        trained.save(result, folder)
        tracked.log_trained(result, folder, settings, example=prepared.inputs(data["X_test"][:2]), model=model)
        tracked.log_report({"test_accuracy": evaluate.score(result, data).accuracy}, {})
    if not (name == "mnist" and settings.net == "scratch"):
        promote(settings, name, md5, "")
    return Logged(tracked.run_id, result, prepared.scaled(data))


@pytest.fixture(scope="module")
def loaded(logged, store, call, tmp_path_factory) -> Path:
    """Return the folder in which a process without the project has left what it got from the loaded models."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rows = {uri: one.data["X_test"] for uri, one in addresses(logged).items()}
    save_arrays(folder / "rows.npz", rows)
    call(
        folder,
        *(sys.executable, "-I", "-c", LOADING, str(folder), str(ROOT), *rows),
        env={"MLFLOW_TRACKING_URI": store},
    )
    return folder


def addresses(logged: dict[str, Logged]) -> dict[str, Logged]:
    """Return each address by which a model must load."""
    named = {
        "models:/digits@champion": logged["keras"],
        "models:/digits/1": logged["keras"],
        "models:/synthetic@champion": logged["binary"],
    }
    return named | {one.uri: one for one in logged.values()}


def test_a_process_without_the_project_gets_the_pipelines_answers(logged, loaded):
    answers = load_arrays(loaded / "answers.npz")
    for uri, one in addresses(logged).items():
        if one.result.net == "scratch":
            np.testing.assert_array_equal(answers[uri], one.expected, err_msg=uri)
        else:
            np.testing.assert_allclose(answers[uri], one.expected, rtol=1e-4, atol=1e-7, err_msg=uri)


def test_keras_loads_the_trained_net_itself(logged, loaded):
    assert arrays_sha256(load_arrays(loaded / "weights.npz")) == logged["keras"].result.weights_sha256


@pytest.mark.parametrize(
    ("net", "flavors", "n_inputs", "outputs"),
    [
        ("keras", {"keras", "python_function"}, 784, ["DataType.float"] * 10),
        ("scratch", {"python_function"}, 784, ["DataType.float"] * 10),
        ("binary", {"python_function"}, 20, ["DataType.double"]),
    ],
)
def test_a_model_has_flavors_signature_example_and_requirements(logged, net, flavors, n_inputs, outputs):
    from mlflow.models import Model

    folder = logged[net].folder
    model = Model.load(str(folder))
    assert set(model.flavors) == flavors
    assert [str(column.type) for column in model.signature.inputs] == ["DataType.double"] * n_inputs
    assert [str(column.type) for column in model.signature.outputs] == outputs
    np.testing.assert_allclose(model.load_input_example(str(folder)), logged[net].data["X_test"][:2])
    requirements = (folder / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} >= {"mlflow", "numpy"}
    assert all("==" in line for line in requirements)


@pytest.mark.parametrize("net", ["keras", "scratch", "binary"])
def test_a_model_holds_no_pickle(logged, net):
    kinds = {path.suffix for path in logged[net].folder.rglob("*") if path.is_file()}
    kinds.discard(".pyc")  # MLflow loads from a local store in place
    assert kinds <= {"", ".txt", ".yaml", ".json", ".keras", ".py", ".npz"}


def test_logging_prints_nothing(logged, settings_of, store, tmp_path, capfd):
    one = logged["scratch"]
    trained.save(one.result, tmp_path / "net")
    settings = settings_of("scratch.dataset=mnist", f"tracking.uri={store}")
    with tracking.start_run(settings, "scratch", inputs_of("mnist", one.data, "d" * 32)) as run:
        run.log_trained(one.result, tmp_path / "net", settings, example=one.data["X_test"][:2])
    assert run.run_id
    assert capfd.readouterr() == ("", "")


@contextlib.contextmanager
def server(uri: str, store: str, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Yield the address of `mlflow models serve`, in a process group of its own that ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--host", "127.0.0.1"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env=environment | {"MLFLOW_TRACKING_URI": store},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "server.log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.1)
    pytest.fail(f"the server is not ready:\n{log.read_text()[-3000:]}")


def ask(address: str, rows: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, 10) that the server gives for rows of pixels, sent as the lesson's CSV."""
    body = "\n".join([LESSONS_HEADER, *(",".join(map(str, row)) for row in rows.tolist())])
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "text/csv"})
    with urllib.request.urlopen(request, timeout=30) as response:
        predictions = json.load(response)["predictions"]
    return np.array([[row[str(digit)] for digit in range(10)] for row in predictions])


@pytest.mark.parametrize("net", ["keras", "scratch"])
def test_the_server_answers_a_csv_row_of_784_pixels_with_its_digit(logged, net, store, environment, tmp_path):
    one = logged[net]
    X, digits = one.data["X_test"], one.data["Y_test"].argmax(axis=1)
    right = np.flatnonzero(one.expected.argmax(axis=1) == digits)
    grey = (X * 255).round().astype(int)  # as in mnist_train.csv: what the net is not meant for, yet the digit stands
    with server("models:/digits@champion" if net == "keras" else one.uri, store, environment, tmp_path) as address:
        assert ask(address, X[right[:1]]).argmax() == digits[right[0]]
        np.testing.assert_allclose(ask(address, X), one.expected, rtol=1e-4, atol=1e-6)
        assert np.mean(ask(address, grey).argmax(axis=1) == digits) > len(right) / len(X) - 0.05
