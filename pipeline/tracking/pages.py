"""Where MLflow's pages show runs."""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from pipeline.address import reason, redact
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.tracking.store import is_server, open_store, tracking_uri
from pipeline.trained import HISTORY_KEYS

LOCAL_SERVER = "http://127.0.0.1:5000"  # `make ui`
MODEL_TRAINING = {"workflowType": "machine_learning"}  # else MLflow 3 shows its pages for language models
VIEW_TAG = "mlflow.sharedViewState."
NOT_KNOWN = "not known"
LARGEST_VIEW = 5000  # characters; what the smallest limit of an MLflow server lets pass
N_AXES = 6  # of the parallel coordinates; more are not legible
RESULTS_COLUMNS = (
    *("params.`net`", "params.`dataset`"),
    *(f"metrics.`{name}`" for name in ("test_accuracy", "test_loss", "val_loss")),
    *("attributes.`Duration`", "attributes.`Models`"),
)

log = logging.getLogger(__name__)


def server(settings: Settings) -> str:
    """Return the address of the server that shows the project's runs: the tracking server, else that of `make ui`."""
    uri = tracking_uri(settings)
    return redact(uri).rstrip("/") if is_served(settings) else LOCAL_SERVER


def is_served(settings: Settings) -> bool:
    """Return whether the store is a tracking server, which shows its runs itself."""
    return is_server(tracking_uri(settings))


def shown_at(settings: Settings, run_ids: Sequence[str], experiment_id: str | None = None) -> str:
    """Return where exactly these runs are shown, as a line for the terminal; None: they are of the project's own."""
    from mlflow.exceptions import MlflowException

    note = "" if is_served(settings) else "  (`make ui` serves it)"
    try:
        return run_page(settings, run_ids, experiment_id=experiment_id) + note
    except (MlflowException, SettingsError):  # of MLflow: its text may hold a password
        return f"{NOT_KNOWN}, {server(settings)} does not answer"
    except Exception as error:  # a proxy's page in place of an answer, a database
        return f"{NOT_KNOWN}, {server(settings)}: {reason(error)}"


def is_page(shown: str) -> bool:
    """Return whether a line of `shown_at` holds an address."""
    return not shown.startswith(NOT_KNOWN)


def page_of(settings: Settings, experiment_id: str, run_id: str) -> str:
    """Return where a run is shown, as a line for the terminal; it asks nobody."""
    note = "" if is_served(settings) else "  (`make ui` serves it)"
    return _own_page(f"{server(settings)}/#/experiments/{experiment_id}/runs", run_id) + note


def _own_page(root: str, run_id: str) -> str:
    return f"{root}/{run_id}?{urlencode(MODEL_TRAINING)}"


def run_page(
    settings: Settings, run_ids: Sequence[str], base: str | None = None, *, experiment_id: str | None = None
) -> str:
    """Return the address of the page that shows exactly these runs.

    One run: its own page. Several: their curves, what differs among their params, and parallel coordinates; the
    layout is kept in the store as one of MLflow's shared views, as its button "Share" does.

    Args:
        settings: all settings.
        run_ids: of one run or more.
        base: the address of the server; None: as `server` says.
        experiment_id: that the runs are of; None: the project's.
    """
    project_id = open_store(settings)
    experiment_id = experiment_id or project_id
    root = f"{base or server(settings)}/#/experiments/{experiment_id}/runs"
    if len(run_ids) == 1:
        return _own_page(root, run_ids[0])
    chart_mode = {"compareRunsMode": "CHART", **MODEL_TRAINING}
    condition = _only(run_ids)
    key = _save_view(experiment_id, {"searchFilter": condition, **_charts(_axes(experiment_id, run_ids))})
    only = {"viewStateShareKey": key} if key else {"searchFilter": condition}
    return f"{root}?{urlencode(chart_mode | only)}"


def results_page(settings: Settings, base: str | None = None) -> str:
    """Return the address of the table of all runs, with their results; MLflow's own columns hold no figure."""
    experiment_id = open_store(settings)
    page = f"{base or server(settings)}/#/experiments/{experiment_id}/runs"
    key = _save_view(experiment_id, {"selectedColumns": RESULTS_COLUMNS})
    return f"{page}?{urlencode(MODEL_TRAINING | ({'viewStateShareKey': key} if key else {}))}"


def _save_view(experiment_id: str, state: dict[str, Any]) -> str | None:
    """Keep a view as a tag of the experiment and return its key, the same for the same view; None: it cannot be."""
    import mlflow
    from mlflow.exceptions import MlflowException

    text = json.dumps(state, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    if len(text) > LARGEST_VIEW:
        return None
    try:
        mlflow.MlflowClient().set_experiment_tag(experiment_id, VIEW_TAG + key, text)
    except MlflowException as error:  # a server that lets this user only read
        log.debug("no shared view: %s", redact(str(error)))
        return None
    return key


def _only(run_ids: Sequence[str]) -> str:
    """Return the condition that these runs alone meet."""
    return f"attributes.run_id IN ({', '.join(map(repr, run_ids))})"


def _axes(experiment_id: str, run_ids: Sequence[str]) -> list[str]:
    """Return the params that all these runs have and that differ: MLflow leaves out a run that lacks one."""
    import mlflow

    found = mlflow.MlflowClient().search_runs([experiment_id], _only(run_ids), max_results=len(run_ids))
    params = [run.data.params for run in found]
    common = set.intersection(*map(set, params)) if params else set()
    differing = [name for name in common if len({one[name] for one in params}) > 1]
    return sorted(differing, key=lambda name: (name != "net", name))[:N_AXES]


def _charts(axes: list[str]) -> dict[str, Any]:
    """Return the charts of a comparison, in the form that MLflow's pages keep them in."""
    sections = [_section("curves", "Curves", 2, 300), _section("differences", "What differs", 1, 420)]
    line = {"xAxisKey": "step", "lineSmoothness": 0, "useGlobalLineSmoothing": False}
    cards = [_card("LINE", "curves", metricKey=name, selectedMetricKeys=[name], **line) for name in HISTORY_KEYS]
    cards.append(
        _card(
            "DIFFERENCE",
            "differences",
            compareGroups=["Parameters", "Model metrics"],
            chartName="Side by side",
            showChangeFromBaseline=False,
            showDifferencesOnly=True,
            baselineColumnUuid="",
        )
    )
    if axes:
        cards.append(_card("PARALLEL", "differences", selectedParams=axes, selectedMetrics=["val_loss"]))
    return {"compareRunSections": sections, "compareRunCharts": cards, "isAccordionReordered": True}


def _section(uuid: str, name: str, columns: int, height: int) -> dict[str, Any]:
    """Return a section of so many charts a row, each so many pixels high."""
    flags = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, "columns": columns, "cardHeight": height, **flags}


def _card(kind: str, section: str, **more: Any) -> dict[str, Any]:
    uuid = f"{kind}-{more.get('metricKey', section)}".lower()
    return {"uuid": uuid, "type": kind, "metricSectionId": section, "isGenerated": False, "deleted": False, **more}
