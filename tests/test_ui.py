"""`make ui`: MLflow's real server, looked at in a real Chromium, and ended as a user ends it."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import CHROMIUM, open_page
from processes import living
from tracked import track

from pipeline import ui
from pipeline.errors import SettingsError
from pipeline.tracking.pages import run_page
from pipeline.tracking.table import history

ROOT = Path(__file__).resolve().parents[1]
# of each chart of curves: the runs that it shows, and their points
CURVES = """
Object.fromEntries([...document.querySelectorAll(".js-plotly-plot")]
    .filter(plot => plot.data?.some(trace => trace.metricKey))
    .map(plot => [plot.data.find(trace => trace.metricKey).metricKey,
                  Object.fromEntries(plot.data.map(trace => [trace.uuid, trace.y]))]))
"""
N_CURVES = f"Object.values({CURVES}).filter(curves => Object.keys(curves).length == 2).length"

pytestmark = [
    pytest.mark.usefixtures("own_tracking"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # importing mlflow.pyfunc 3.17
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def group(leader: int) -> list[int]:
    """Return the living processes of a process group."""
    return [process.pid for process in living() if process.group == leader]


def read_until(stream, text: str, seconds: float = ui.START_SECONDS) -> str:
    """Return what a process has said, as soon as it has said this."""
    said = b""
    end = time.monotonic() + seconds
    while text.encode() not in said:
        assert select.select([stream], [], [], max(0, end - time.monotonic()))[0], f"not within {seconds} s: {said!r}"
        more = os.read(stream.fileno(), 1 << 16)
        assert more, f"ended: {said.decode()}"
        said += more
    return said.decode()


@contextlib.contextmanager
def serving(port, uri, environment):
    """Yield the process of `python -m pipeline.ui`, in a group of its own, and what it has said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.ui", str(port)],
        cwd=ROOT,
        env=environment | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process, read_until(process.stderr, "Ctrl-C ends it")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def settings(own_tracking, settings_of, new_store, tmp_path_factory):
    uri = new_store(tmp_path_factory.mktemp("ui"))
    return settings_of("scratch.dataset=mnist", "scratch.epochs=3", "scratch.n_hidden=7", f"tracking.uri={uri}")


@pytest.fixture(scope="module")
def ids(settings, settings_of, tmp_path_factory):
    """The ids of a run of each net on the same dataset, oldest first."""
    folder = tmp_path_factory.mktemp("nets")
    uri = f"tracking.uri={settings.tracking.uri}"
    other = settings_of("scratch.dataset=mnist", "scratch.epochs=5", "keras.epochs=5", uri)
    first = track(settings, folder)
    return [first, track(other, folder, net="keras", overrides=("keras.epochs=5",))]


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def said(port, settings, ids, environment):
    """What `python -m pipeline.ui` says; it serves until the last test of this module."""
    with serving(port, settings.tracking.uri, environment) as (process, text):
        yield text
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        assert process.wait(ui.STOP_SECONDS + 5) == 0
        assert group(process.pid) == []


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with open_page(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def address(said, label):
    """Return the address that stands behind a label."""
    return re.search(rf"^{label}: +(http\S+)$", said, re.MULTILINE)[1]


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "5000.0", "http", "٣"])
def test_a_port_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="PORT: one whole number from 1 to 65535 is needed"):
        ui.port_of([text])


def test_the_port_is_the_argument_or_5000():
    assert (ui.port_of([]), ui.port_of(["8080"])) == (5000, 8080)


def test_a_port_that_is_taken_is_one_line_with_another(call, settings):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        env = {"MLFLOW_TRACKING_URI": settings.tracking.uri}
        done = call(ROOT, sys.executable, "-m", "pipeline.ui", str(taken), code=1, env=env)
    assert done.stderr == (
        f"error: port {taken} of 127.0.0.1: Address already in use; `make ui PORT={taken + 1}` takes another\n"
    )


def test_a_tracking_server_is_named_without_its_password_and_none_is_started(call):
    env = {"MLFLOW_TRACKING_URI": "https://ann:secret@mlflow.example.com/team"}
    done = call(ROOT, sys.executable, "-m", "pipeline.ui", env=env)
    assert done.stderr == "the tracking server shows the runs itself: https://mlflow.example.com/team\n"


def test_only_this_machines_names_and_pages_pass(said, port):
    def status(**headers):
        url = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=x"
        request = urllib.request.Request(url, headers=headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    assert status() == 404  # the server's own answer: no such experiment
    assert {status(Host="mlflow.example.com"), status(Host=f"10.example.com:{port}")} == {403}


def test_it_listens_for_this_machine_alone(said, port):
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table]
    listening = [address for _, address, _, state, *_ in sockets if state == "0A"]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_sigterm_to_the_command_alone_ends_all_its_processes(settings, environment):
    port = free_port()
    with serving(port, settings.tracking.uri, environment) as (process, _):
        assert len(group(process.pid)) > 1
        process.terminate()
        process.wait(ui.STOP_SECONDS + 5)
        assert group(process.pid) == []
    with socket.create_server(("127.0.0.1", port)):
        pass


@needs_chromium
def test_the_comparison_of_two_runs_shows_both_curves_of_each_metric(said, page, settings, ids):
    page.goto(address(said, "the newest"))
    page.wait_for(f"{N_CURVES} == 4")
    shown = page.evaluate(CURVES)
    assert set(shown) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for name, curves in shown.items():
        assert set(curves) == set(ids)
        for run_id in ids:
            assert curves[run_id] == pytest.approx(list(history(run_id, settings=settings)[name]))
    drawn = page.evaluate("document.querySelector('.js-plotly-plot').querySelectorAll('path.js-line').length")
    assert drawn >= 2


@needs_chromium
def test_the_comparison_shows_the_params_that_differ_and_only_those(said, page, ids):
    page.goto(address(said, "the newest"))
    page.wait_for_text("What differs", "Side by side", "learning_rate", "Parallel Coordinates")
    differences = page.text.partition("Side by side")[2].partition("Parallel Coordinates")[0]
    lines = differences.splitlines()
    assert lines[lines.index("epochs") :][1:3] == ["5", "3"]
    assert lines[lines.index("net") :][1:3] == ["keras", "scratch"]
    assert not {"seed", "dataset", "preprocess.validation_fraction"} & set(lines)
    assert {"keras mnist epochs=5", "scratch mnist"} <= set(lines)


@needs_chromium
def test_the_table_of_all_runs_shows_the_description_the_names_and_the_results(said, page, ids):
    page.goto(address(said, "all runs"))
    page.wait_for_text("keras mnist epochs=5", "scratch mnist", "Each run is one training of one net on one dataset")
    page.wait_for_text("test_accuracy", "0.75")
    assert page.evaluate("location.hash").startswith("#/experiments/1/runs")


@needs_chromium
def test_a_run_has_a_page_with_its_params_and_its_files(said, page, port, settings, ids):
    one = run_page(settings, ids[:1], base=f"http://127.0.0.1:{port}")
    page.goto(one)
    page.wait_for_text("scratch mnist", "n_hidden", "weights_sha256")
    page.goto(one.replace("?", "/artifacts/settings.yaml?"))
    page.wait_for_text("settings.yaml", "weights.npz", "history.csv", "n_hidden: 7")


@needs_chromium
def test_the_pages_ask_nobody_but_this_server(said, page, port, ids):
    page.goto(address(said, "the newest"))
    page.wait_for(f"{N_CURVES} == 4")
    asked = page.evaluate("performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin)")
    assert set(asked) - {"null"} == {f"http://127.0.0.1:{port}"}, json.dumps(sorted(set(asked)))
