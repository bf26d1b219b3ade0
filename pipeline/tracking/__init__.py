"""The record of runs: plain files first, MLflow as a view of them. Only this package imports mlflow."""

from pipeline.tracking.calls import call
from pipeline.tracking.naming import run_params, settings_text
from pipeline.tracking.pages import shown_at
from pipeline.tracking.past import PastRun, read_past
from pipeline.tracking.reports import add_report, find_run, page_of_weights
from pipeline.tracking.run import (
    Member,
    Run,
    drop_model_of,
    log_model_of,
    log_origin,
    open_parent,
    prepare,
    start_again,
    start_run,
)
from pipeline.tracking.sender import sender
from pipeline.tracking.store import open_store, records_folder, store_root, tracking_uri
from pipeline.tracking.table import history, runs

__all__ = [
    "Member",
    "PastRun",
    "Run",
    "add_report",
    "call",
    "drop_model_of",
    "find_run",
    "history",
    "log_model_of",
    "log_origin",
    "open_parent",
    "open_store",
    "page_of_weights",
    "prepare",
    "read_past",
    "records_folder",
    "run_params",
    "runs",
    "sender",
    "settings_text",
    "shown_at",
    "start_again",
    "start_run",
    "store_root",
    "tracking_uri",
]
