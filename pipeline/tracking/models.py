"""The nets as MLflow models: Keras's in MLflow's Keras flavor, the from-scratch net as code with its weights.

What goes in: rows (n, d) of numbers, scaled as in training; a row of mnist_train.csv therefore without its label
and divided by 255 (undivided, a relu net still names the digit, but all too surely). What comes out: a table
(n, k) of probabilities, whose column names are the digits; one column, the probability of class 1, for the binary
task. `mlflow.keras.load_model` gives the trained `keras.Model` itself, which takes and returns arrays.

The signature names columns, d times `double`, not a tensor: MLflow 3.17's server refuses CSV for a model with a
tensor signature, and casts neither int64 nor float64 to a tensor's float32.

The training leaves in its record what a model is made from, and imports no mlflow for it (`keep_keras`,
`keep_scratch`); the courier makes the model (`log_model`), and imports no keras.
"""

import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tracking.records import Record
from pipeline.trained import Trained

NAME = "model"  # of the logged model in its run: runs:/<run id>/model
RECORD_TAG = "record"
NN = Path(__file__).resolve().parents[1] / "nn"
LOGGED_NN = "shallow_nn"  # pipeline/nn/ beside a logged model: a second `pipeline` would hide the project's package
SCRIPT = "scratch_model.py"
NO_CACHES = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True)
class Parts:
    """What model/ holds, beside the files themselves (parts.json).

    Attributes:
        flavor: keras, scratch, or mlflow for a whole MLflow model that another store had.
        n_outputs: k.
        dtype: of the answers.
        requirements: pip's.
        options: of a Keras net keras_version and keras_backend; of the other its activation.
    """

    flavor: str
    n_outputs: int = 0
    dtype: str = ""
    requirements: tuple[str, ...] = ()
    options: dict[str, str] | None = None


def keep_keras(record: Record, model: Any, example: np.ndarray) -> None:
    """Write what MLflow's model of a `keras.Model` is made from, with `example` (2, d) of its input."""
    folder = _folder(record)
    model.save(folder / "model.keras")
    options = {"keras_version": version("keras"), "keras_backend": "tensorflow"}  # the backend that train_keras takes
    parts = Parts("keras", model.output_shape[-1], model.compute_dtype, _pinned("keras", "tensorflow"), options)
    _describe(folder, parts, example)


def keep_scratch(record: Record, result: Trained, example: np.ndarray) -> None:
    """Write what MLflow's model of a from-scratch net is made from: its code as it now is; its weights are there."""
    folder = _folder(record)
    shutil.copy(Path(__file__).with_name(SCRIPT), folder)
    shutil.copytree(NN, folder / LOGGED_NN, ignore=NO_CACHES, dirs_exist_ok=True)
    bias = result.weights["b2"]
    parts = Parts("scratch", len(bias), bias.dtype.name, _pinned(), {"activation": result.activations[0]})
    _describe(folder, parts, example)


def drop_model(record: Record) -> None:
    """Remove what a model would be made from: of a net that nobody will use, it is most of the record."""
    shutil.rmtree(record.folder / "model", ignore_errors=True)


def has_parts(record: Record) -> bool:
    """Return whether a model can be made from the record."""
    return (record.folder / "model" / "parts.json").is_file()


def log_model(client: Any, write: Callable[..., Any], experiment_id: str, run_id: str, record: Record) -> str:
    """Make the MLflow model of a record, and return its id; one that was begun before is gone on with.

    Args:
        client: MLflow's, for what does not write to the store.
        write: of a method of the client's by name, and its arguments: alone among the store's writers, and briefly.
        experiment_id: of the run.
        run_id: of the record's run.
        record: whose model/ is there.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    if outputs:
        return str(outputs[0].model_id)
    begun = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    logged = begun[0] if begun else _begin(write, experiment_id, run, record)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAME)
        _make(record, logged, run_id, path)
        client.log_model_artifacts(logged.model_id, str(path))
    write("finalize_logged_model", logged.model_id, "READY")
    write("log_outputs", run_id, [LoggedModelOutput(logged.model_id, step=0)])  # last: a run's model is a whole one
    return str(logged.model_id)


def _begin(write: Callable[..., Any], experiment_id: str, run: Any, record: Record) -> Any:
    tags = {RECORD_TAG: record.id}
    return write("create_logged_model", experiment_id, NAME, run.info.run_id, tags, params=run.data.params)


def _make(record: Record, logged: Any, run_id: str, path: Path) -> None:
    """Write the folder of an MLflow model to `path`."""
    from mlflow.models import Model

    described = json.loads((record.folder / "model" / "parts.json").read_text(encoding="utf-8"))
    parts = Parts(**described)
    names = {"run_id": run_id, "model_id": logged.model_id, "model_uuid": logged.model_id}
    if parts.flavor == "mlflow":
        shutil.copytree(record.folder / "model" / "mlflow", path, ignore=NO_CACHES)
        _rename(path, names | {"artifact_path": logged.artifact_location})
        return
    model = Model(artifact_path=logged.artifact_location, **names)
    make = _make_keras if parts.flavor == "keras" else _make_scratch
    make(record, parts, model, path)
    for cache in path.rglob("__pycache__"):
        shutil.rmtree(cache)


def _rename(path: Path, names: dict[str, str]) -> None:
    """Give a model of another store the ids that it has here."""
    import yaml

    file = path / "MLmodel"
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(described | names, sort_keys=False), encoding="utf-8")


def _make_keras(record: Record, parts: Parts, model: Any, path: Path) -> None:
    """Write what `mlflow.keras.save_model` of MLflow 3.17 writes, which itself would load TensorFlow for it."""
    import yaml
    from mlflow import pyfunc
    from mlflow.models.utils import _save_example
    from mlflow.utils.environment import _process_pip_requirements, _PythonEnv
    from mlflow.utils.file_utils import get_total_file_size

    data = path / "data"
    data.mkdir(parents=True)
    shutil.copyfile(record.folder / "model" / "model.keras", data / "model.keras")
    (data / "keras_module.txt").write_text("keras", encoding="utf-8")
    example = _example(record)
    _save_example(model, example, str(path))
    model.signature = _signature(parts, example)
    model.add_flavor("keras", data="data", save_exported_model=False, **parts.options or {})
    pyfunc.add_to_model(model, loader_module="mlflow.keras", conda_env="conda.yaml", python_env="python_env.yaml")
    model.model_size_bytes = get_total_file_size(str(path))
    conda, pip, _ = _process_pip_requirements(None, list(parts.requirements), None)
    (path / "conda.yaml").write_text(yaml.safe_dump(conda), encoding="utf-8")
    (path / "requirements.txt").write_text("\n".join(pip), encoding="utf-8")
    _PythonEnv.current().to_yaml(str(path / "python_env.yaml"))
    model.save(str(path / "MLmodel"))


def _make_scratch(record: Record, parts: Parts, model: Any, path: Path) -> None:
    """Write scratch_model.py, the net's code under the name that it is found by there, and the weights."""
    import mlflow

    example = _example(record)
    with tempfile.TemporaryDirectory() as scratch:  # MLflow tries the script, which leaves its bytecode beside it
        folder = shutil.copytree(record.folder / "model", Path(scratch, "model"))
        mlflow.pyfunc.save_model(
            str(path),
            mlflow_model=model,
            python_model=str(folder / SCRIPT),
            code_paths=[str(folder / LOGGED_NN)],
            artifacts={"weights": str(record.folder / "artifacts" / "weights.npz")},
            model_config=parts.options,
            signature=_signature(parts, example),
            input_example=example,
            pip_requirements=list(parts.requirements),
        )
    for file in path.rglob("*.py"):
        file.write_text(re.sub(r"\bpipeline\.nn\b", LOGGED_NN, file.read_text("utf-8")), "utf-8")


def _signature(parts: Parts, example: np.ndarray) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    column = ColSpec("double" if parts.dtype == "float64" else "float")
    inputs = Schema([ColSpec("double")] * example.shape[1])
    return ModelSignature(inputs=inputs, outputs=Schema([column] * parts.n_outputs))


def _folder(record: Record) -> Path:
    folder = record.folder / "model"
    folder.mkdir(exist_ok=True)
    return folder


@functools.cache
def _pinned(*packages: str) -> tuple[str, ...]:
    """Return the requirements of a model; else MLflow loads it in a second process to find them."""
    return tuple(f"{package}=={version(package)}" for package in ("mlflow", *packages, "numpy"))


def _describe(folder: Path, parts: Parts, example: np.ndarray) -> None:
    """Write parts.json, last: it says that the others are there."""
    np.save(folder / "example.npy", example)
    (folder / "parts.json").write_text(json.dumps(asdict(parts), indent=1) + "\n", encoding="utf-8")


def _example(record: Record) -> np.ndarray:
    example: np.ndarray = np.load(record.folder / "model" / "example.npy", allow_pickle=False)
    return example
