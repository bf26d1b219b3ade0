"""The nets as MLflow models: Keras's in MLflow's Keras flavor, the from-scratch net as code with its weights.

What goes in: rows (n, d) of numbers, scaled as in training; a row of mnist_train.csv therefore without its label
and divided by 255 (undivided, a relu net still names the digit, but all too surely). What comes out: a table
(n, k) of probabilities, whose column names are the digits; one column, the probability of class 1, for the binary
task. `mlflow.keras.load_model` gives the trained `keras.Model` itself, which takes and returns arrays.

The signature names columns, d times `double`, not a tensor: MLflow 3.17's server refuses CSV for a model with a
tensor signature, and casts neither int64 nor float64 to a tensor's float32.
"""

import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.trained import Trained

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

NAME = "model"  # of the logged model in its run: runs:/<run id>/model
NN = Path(__file__).resolve().parents[1] / "nn"
LOGGED_NN = "shallow_nn"  # pipeline/nn/ beside a logged model: a second `pipeline` would hide the project's package


class _KerasFlavor:
    """MLflow's Keras flavor, with a signature of columns, which `mlflow.keras.save_model` itself refuses."""

    __name__ = "mlflow.keras"

    @staticmethod
    def save_model(
        path: str,
        *,
        mlflow_model: Any,
        signature: "ModelSignature",
        model: Any,
        validate_serving_input: bool,
        **options: Any,
    ) -> None:
        """Write `model` to `path`; `validate_serving_input` is for `Model.log` alone."""
        import mlflow
        from mlflow.models import infer_signature

        tensors = infer_signature(options["input_example"])
        Path(path).mkdir(exist_ok=True)  # in 3.17 the flavor writes the input example before it makes the folder
        mlflow.keras.save_model(model, path, mlflow_model=mlflow_model, signature=tensors, **options)
        mlflow_model.signature = signature
        mlflow_model.save(Path(path, "MLmodel"))


class _ScratchFlavor:
    """MLflow's python_function flavor, with pipeline.nn under the name that scratch_model.py finds it by there."""

    __name__ = "mlflow.pyfunc"

    @staticmethod
    def save_model(path: str, *, validate_serving_input: bool, **options: Any) -> None:
        """Write scratch_model.py and pipeline/nn/ to `path`; `validate_serving_input` is for `Model.log` alone."""
        import mlflow

        with tempfile.TemporaryDirectory() as folder:
            package = shutil.copytree(NN, Path(folder, LOGGED_NN), ignore=shutil.ignore_patterns("__pycache__"))
            mlflow.pyfunc.save_model(path, code_paths=[str(package)], **options)
        for file in Path(path).rglob("*.py"):
            file.write_text(re.sub(r"\bpipeline\.nn\b", LOGGED_NN, file.read_text("utf-8")), "utf-8")


def log_keras_model(model: Any, example: np.ndarray) -> None:
    """Log a `keras.Model` to the active run, with a signature from `example` (2, d)."""
    answer = np.zeros((1, model.output_shape[-1]), model.compute_dtype)
    _log(_KerasFlavor, example, answer, ("keras", "tensorflow", "numpy"), model=model)


def log_scratch_model(result: Trained, weights: Path, example: np.ndarray) -> None:
    """Log scratch_model.py to the active run, with the code of pipeline.nn that it needs, and the file of weights."""
    _log(
        _ScratchFlavor,
        example,
        result.weights["b2"].T,
        ("numpy",),
        python_model=str(Path(__file__).with_name("scratch_model.py")),
        artifacts={"weights": str(weights)},
        model_config={"activation": result.activations[0]},
    )


def _log(flavor: type, example: np.ndarray, answer: np.ndarray, packages: tuple[str, ...], **model: Any) -> None:
    """Log a model to the active run.

    Args:
        flavor: what saves it.
        example: (2, d) rows of its input.
        answer: (1, k) of the shape and type of what it returns for a row.
        packages: what it needs beside mlflow.
        model: options of the flavor's `save_model`.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    column = ColSpec("double" if answer.dtype == np.float64 else "float")
    Model.log(
        flavor=flavor,
        name=NAME,
        artifact_path=None,
        signature=ModelSignature(
            inputs=Schema([ColSpec("double")] * example.shape[1]), outputs=Schema([column] * answer.shape[1])
        ),
        input_example=example,
        pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", *packages)],  # else MLflow loads
        validate_serving_input=False,  # the model in a second process to find them, and here to try it: the tests do
        **model,
    )
