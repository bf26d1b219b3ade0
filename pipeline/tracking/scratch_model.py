"""The from-scratch net as an MLflow model: this file and pipeline/nn/ are logged with the weights, no pickle."""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.nn import ShallowNN


class ScratchModel(PythonModel):  # type: ignore[misc]  # mlflow is not typed
    """Rows in, probabilities out: (n, d) → (n, k)."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the net from the logged weights."""
        with np.load(context.artifacts["weights"], allow_pickle=False) as archive:
            weights = dict(archive)
        self.net = ShallowNN(weights, context.model_config["activation"])

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Return (n, k) probabilities of rows (n, d)."""
        X = np.asarray(model_input, dtype=self.net.W1.dtype)
        return self.net.predict_proba(X.T).T


set_model(ScratchModel())
