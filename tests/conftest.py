"""What all tests share: they run in the project's root, and leave no run open in MLflow."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_run_is_left_open():
    yield
    if "mlflow" in sys.modules:
        import mlflow

        assert mlflow.active_run() is None
