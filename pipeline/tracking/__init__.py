"""The record of runs, in MLflow. Only this package imports mlflow, inside the functions that need it."""

from pipeline.tracking.pages import shown_at
from pipeline.tracking.record import Record, read_record
from pipeline.tracking.run import Run, find_run, log_report, run_params, start_run
from pipeline.tracking.store import open_store, store_root, tracking_uri
from pipeline.tracking.table import history, runs

__all__ = [
    "Record",
    "Run",
    "find_run",
    "history",
    "log_report",
    "open_store",
    "read_record",
    "run_params",
    "runs",
    "shown_at",
    "start_run",
    "store_root",
    "tracking_uri",
]
