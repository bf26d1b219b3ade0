"""The from-scratch net as an MLflow model: this file and pipeline/nn/ are logged with the weights, no pickle."""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.nn import ShallowNN  # in the logged copy of this file: from shallow_nn, see models.LOGGED_NN


class ScratchModel(PythonModel):  # type: ignore[misc]  # mlflow is not typed
    """Rows in, probabilities out: (n, d) → (n, k)."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the net from the logged weights."""
        with np.load(context.artifacts["weights"], allow_pickle=False) as archive:
            weights = dict(archive)
        self.net = ShallowNN(weights, context.model_config["activation"])

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return (n, k) probabilities of rows (n, d), a table as the Keras flavor returns one."""
        X = model_input.to_numpy(self.net.W1.dtype)
        return pd.DataFrame(self.net.predict_proba(X.T).T, index=model_input.index)


set_model(ScratchModel())
