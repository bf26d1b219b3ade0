"""The nets as MLflow models: Keras's in MLflow's Keras flavor, the from-scratch net as code with its weights."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.trained import Trained

PACKAGE = Path(__file__).resolve().parents[1]


class _KerasFlavor:
    """MLflow's Keras flavor, which (in 3.17) writes an input example before it makes the model's folder."""

    __name__ = "mlflow.keras"

    @staticmethod
    def save_model(model: Any, path: str, **options: Any) -> None:
        """Write `model` to `path`."""
        import mlflow

        Path(path).mkdir()
        mlflow.keras.save_model(model, path, **options)


def log_keras_model(model: Any, example: np.ndarray) -> None:
    """Log a `keras.Model` to the active run, with a signature from `example` (2, d)."""
    from mlflow.models import Model, infer_signature

    Model.log(
        flavor=_KerasFlavor,
        model=model,
        name="model",
        artifact_path=None,
        signature=infer_signature(example, np.asarray(model(example))),
        input_example=example,
        pip_requirements=_pins("keras", "tensorflow", "numpy"),
    )


def log_scratch_model(result: Trained, weights: Path, example: np.ndarray) -> None:
    """Log scratch_model.py with the package pipeline.nn, the only one of the project that it imports."""
    import mlflow
    from mlflow.models import infer_signature

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "pipeline")
        shutil.copytree(PACKAGE / "nn", package / "nn", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PACKAGE / "__init__.py", package)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("scratch_model.py")),
            artifacts={"weights": str(weights)},
            model_config={"activation": result.activations[0]},
            code_paths=[str(package)],
            signature=infer_signature(example, np.zeros((len(example), len(result.weights["b2"])), example.dtype)),
            input_example=example,
            pip_requirements=_pins("numpy"),
        )


def _pins(*packages: str) -> list[str]:
    """Return the installed versions as requirements; named, as MLflow would else find them in a second process."""
    return [f"{package}=={version(package)}" for package in ("mlflow", *packages)]
