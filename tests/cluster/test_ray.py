"""Sweeps on a Ray cluster of two nodes: shared out, killed, resumed, refused; and where data and records are."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import pytest
from nodes import Node
from services import need

from pipeline.tracking.records import Record

EPOCHS = 60  # long enough to be killed within
DIGITS = ("net=keras", "mnist=digits", "keras.batch_size=32")
SPACE = ("keras.learning_rate=tag(log, interval(1e-4, 1e-2))", "keras.units=16,32,64")
LEFT_SECONDS = 60
ASKED_SECONDS = 10  # in which a sweep comes to ask the nodes, and these are not yet known to be gone


@dataclass
class Team:
    """A project on a machine of one's own and on the nodes of a cluster, with the services of a team.

    Attributes:
        own: the checkout that sweeps are started from.
        desk: the folder that they are started in; Ray shows nodes the driver's folder, and its code with it.
        nodes: of the cluster; the first one is its head.
        environment: of all commands, without the secrets.
        secrets: that the nodes have from their administrator, and the user from his.
    """

    own: Path
    desk: Path
    nodes: list[Node]
    environment: dict[str, str]
    secrets: dict[str, str]
    experiment: str = "neural-nets"
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def shared(self) -> tuple[str, ...]:
        return (f"hydra.sweeper.cluster_address={self.nodes[0].address}", "hydra.sweeper.cluster=ray")

    def start(self, *arguments: str, **env: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.train", *arguments, f"tracking.experiment={self.experiment}"],
            cwd=self.desk,
            env=self.environment | self.secrets | {"PYTHONPATH": str(self.own)} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen, code: int = 0) -> subprocess.CompletedProcess:
        out, err = process.communicate(timeout=500)
        assert process.returncode == code, f"{out[-3000:]}\n{err[-3000:]}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess:
        return self.end(self.start(*arguments, **env), code)

    def trials(self, storage: str, name: str):
        import optuna

        known = optuna.storages.RDBStorage(storage)
        try:
            return known.get_all_trials(known.get_study_id_from_name(name))
        except KeyError:
            return []
        finally:
            known.engine.dispose()

    def has_study(self, storage: str, name: str) -> bool:
        import optuna

        known = optuna.storages.RDBStorage(storage)
        try:
            return name in [study.study_name for study in known.get_all_studies()]
        finally:
            known.engine.dispose()

    def n_done(self, storage: str, name: str) -> int:
        return sum(trial.state.is_finished() for trial in self.trials(storage, name))

    def children(self) -> list:
        """Return the runs that are parts of others, once none is left running, or after LEFT_SECONDS."""
        import mlflow

        client = mlflow.MlflowClient(self.secrets["MLFLOW_TRACKING_URI"])
        end = time.monotonic() + LEFT_SECONDS
        while True:
            (experiment,) = [one for one in client.search_experiments() if one.name == self.experiment]
            runs = client.search_runs([experiment.experiment_id])
            found = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
            if time.monotonic() > end or all(run.info.status != "RUNNING" for run in found):
                return found
            time.sleep(0.5)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, clone, call) -> Path:
    """Return a checkout of the project with a DVC remote, which is a folder."""
    root = clone(tmp_path_factory.mktemp("team") / "own")
    call(root, "dvc", "remote", "add", "-d", "team", str(root.parent / "remote"))
    call(root, "git", "commit", "-qam", "A remote")
    return root


@pytest.fixture(scope="module")
def secrets(postgres, tracking_server) -> Iterator[dict[str, str]]:
    """Return what the environment of a user, and of whoever starts a node, holds; this process has it, too."""
    with pytest.MonkeyPatch.context() as patch:
        found = postgres.secret | tracking_server.client_environment
        found |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
        for name, value in found.items():
            patch.setenv(name, value)
        yield found


@contextlib.contextmanager
def running(folder: Path, checkout: Path, environment: dict[str, str], secrets: dict[str, str]) -> Iterator[Team]:
    """Yield a team whose cluster of two nodes runs."""
    need("ray", "ray")
    own = {name: value for name, value in environment.items() if name != "PIPELINE_RECORDS"}
    bare = shutil.ignore_patterns("cache", "records")  # which earlier tests have filled
    places = [Path(shutil.copytree(checkout, folder / name, ignore=bare)) for name in ("head", "second")]
    head = Node(places[0], own | secrets, 2)
    team = Team(checkout, folder / "desk", [head, Node(places[1], own | secrets, 3, head)], own, secrets)
    team.desk.mkdir()
    try:
        for node in team.nodes:
            node.start()
        yield team
    finally:
        for process in team.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for node in team.nodes:
            node.remove()


@pytest.fixture(scope="module")
def team(tmp_path_factory, checkout, environment, secrets) -> Iterator[Team]:
    """Return a team, for tests that kill nothing."""
    with running(tmp_path_factory.mktemp("cluster"), checkout, environment, secrets) as team:
        yield team


@pytest.fixture(autouse=True)
def own_experiment(request) -> None:
    """Give each test an experiment of its own."""
    for name in {"team", "mortal"} & set(request.fixturenames):
        request.getfixturevalue(name).experiment = request.node.name


@pytest.fixture
def mortal(tmp_path, checkout, environment, secrets) -> Iterator[Team]:
    """Return a team of whose nodes one is to die."""
    with running(tmp_path, checkout, environment, secrets) as team:
        yield team


def test_a_study_on_two_nodes_of_which_one_dies(mortal, database):
    """20 ended trials, none lost or doubled; every child run ended; the winner is the same on one machine."""
    team = mortal
    sweep = ("-m", "hydra/sweeper=study", "hydra.sweeper.study_name=s", f"hydra.sweeper.storage={database}", *DIGITS)
    sweep = (*sweep, *SPACE, f"keras.epochs={EPOCHS}")
    process = team.start(*sweep, "hydra.sweeper.n_trials=20", "hydra.sweeper.n_jobs=2", *team.shared)
    dying = team.nodes[1]
    record = wait_for_one_in_hand(process, dying, is_time=lambda: team.n_done(database, "s") >= 6)
    dying.kill()
    done = team.end(process)

    trials = team.trials(database, "s")
    counted = [trial for trial in trials if trial.state.is_finished() and "lost" not in trial.user_attrs]
    assert Counter(trial.user_attrs["slot"] for trial in counted) == dict.fromkeys(range(20), 1)
    assert lost(trials) == ["its node died"]
    for node in team.nodes:
        assert_data_came_once(node)
    assert f"node {dying.host} has died" in done.stderr
    assert len(re.findall(r"^\d+ +\d+\.\d{4}", done.stdout, re.MULTILINE)) == 20
    by_record = {trial.user_attrs["outcome"]["record_id"]: trial for trial in counted}
    runs = team.children()
    assert Counter(run.info.status for run in runs) == {"FINISHED": 20, "KILLED": 1}
    assert {run.data.tags["record"] for run in runs} == {*by_record, record}
    (killed,) = [run for run in runs if run.info.status == "KILLED"]
    assert (killed.data.tags["record"], killed.data.tags["error"][:13]) == (record, "its node died")
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 1

    winner = min(counted, key=lambda trial: trial.value)
    best = winner.user_attrs["outcome"]["record_id"]
    is_here = (team.nodes[0].records / best).is_dir()
    assert [run.data.tags["record"] for run in runs if run.outputs.model_outputs] == ([best] if is_here else [])
    assert ("its node is gone, so MLflow gets its weights but no model" in done.stderr) is not is_here
    again = team.run(*winner.user_attrs["outcome"]["overrides"], "hydra.run.dir=alone")
    net = json.loads((team.desk / "alone/net/net.json").read_text())
    assert net["weights_sha256"] == winner.user_attrs["outcome"]["weights_sha256"], again.stderr
    assert_no_secret_is_in_a_file(team)


def assert_data_came_once(node: Node) -> None:
    """Make sure that a node's cache has one file, and that this is older than all that was trained there."""
    (file,) = [path for path in (node.project / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    begun = [json.loads(record.read_text())["start_time"] for record in node.records.glob("*/run.json")]
    assert begun
    assert file.stat().st_ctime < min(begun) / 1000


def assert_no_secret_is_in_a_file(team: Team) -> None:
    """Look through what Ray has written: it logs the environment that it is told to make."""
    names = ("PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN")
    hidden = [team.secrets[name].encode() for name in names]
    logs = [path for path in team.nodes[0].folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(logs) > 5
    assert [path for path in logs if any(secret in path.read_bytes() for secret in hidden)] == []


def wait_for_one_in_hand(
    process: subprocess.Popen, node: Node, epochs: int = EPOCHS, is_time: Callable[[], bool] = lambda: True
) -> str:
    """Return the record of the training that a node has in hand, as soon as a sweep has one when it is time."""
    while process.poll() is None:
        if is_time() and (record := in_hand(node, epochs)):
            return record
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def in_hand(node: Node, epochs: int) -> str | None:
    """Return the record of a training that a node is in the first half of, and that MLflow has."""
    for file in node.records.glob("*/delivered.json"):
        if 0 < len(file.with_name("metrics.jsonl").read_text().splitlines()) < epochs / 2:
            return file.parent.name
    return None


def lost(trials) -> list[str]:
    """Return why trials were lost; but for a claim that another worker was ahead of, at which nothing is trained."""
    found = [trial.user_attrs["lost"] for trial in trials if "lost" in trial.user_attrs]
    return [why for why in found if why != "another worker was first"]


SMALL = ("net=scratch", "scratch.dataset=mnist", "mnist=digits", "scratch.epochs=3")


def test_a_grid_on_two_nodes_and_what_it_has_trained_is_reused(team):
    """Its outcomes and nets end up where it was started; the data come by their md5."""
    grid = ("-m", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={team.nodes[0].address}", *SMALL)
    longer = "scratch.epochs=1500"  # seconds: one node does not have all done before the other has begun
    values = ("scratch.n_hidden=4,8", "scratch.learning_rate=0.1,0.5", longer)
    done = team.run(*grid, *values, "hydra.sweep.dir=multirun/g/first")
    assert len(re.findall(r"^trial \d \(\d/4\)  val_loss 0?\d\.\d{4}", done.stderr, re.MULTILINE)) == 4, done.stderr
    outcomes = [json.loads(file.read_text()) for file in team.desk.glob("multirun/g/first/*/outcome.json")]
    assert sorted(one["number"] for one in outcomes) == [0, 1, 2, 3]
    runs = team.children()
    assert {run.data.tags["record"] for run in runs} == {one["record_id"] for one in outcomes}
    assert Counter(run.info.status for run in runs) == {"FINISHED": 4}
    assert all(list(node.records.glob("*/run.json")) for node in team.nodes)
    for node in team.nodes:
        assert_one_after_the_other(node, {one["record_id"] for one in outcomes})
    best = min(outcomes, key=lambda one: one["value"])
    assert [run.data.tags["record"] for run in runs if run.outputs.model_outputs] == [best["record_id"]]
    md5 = runs[0].data.tags["data.md5"]
    assert all((node.project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).is_file() for node in team.nodes)

    whole = "+hydra.launcher.ray.remote.num_cpus=1"
    again = team.run(*grid, *values, whole, "hydra.sweep.dir=multirun/g/second")
    assert len(re.findall(r"^trial \d \(\d/4\)  reused", again.stderr, re.MULTILINE)) == 4, again.stderr
    assert len(team.children()) == 4


def assert_one_after_the_other(node: Node, record_ids: set[str]) -> None:
    """Make sure that a node, which has one processor, has trained no two of these at once."""
    here = [Record(folder) for folder in node.records.iterdir() if folder.name in record_ids]
    spans = sorted((record.opening.start_time, record.state.end_time) for record in here)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), spans


def test_a_node_that_dies_before_it_has_told_its_code_is_done_without(mortal, database):
    """It is asked, does not answer, and is then found to be dead."""
    dying = mortal.nodes[1]
    study = ("-m", "hydra/sweeper=study", "hydra.sweeper.study_name=d", f"hydra.sweeper.storage={database}", *SMALL)
    dying.freeze()
    two = ("scratch.n_hidden=4,8", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    process = mortal.start(*study, *two, *mortal.shared)
    while process.poll() is None and not mortal.has_study(database, "d"):  # the last thing before nodes are asked
        time.sleep(0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(ASKED_SECONDS)
    dying.kill()
    done = mortal.end(process)
    assert len(re.findall(r"^trial \d \(\d/2\)  val_loss", done.stderr, re.MULTILINE)) == 2, done.stderr
    assert Counter(run.info.status for run in mortal.children()) == {"FINISHED": 2}


def test_jobs_of_a_grid_on_a_node_that_comes_later_with_other_code_fail_and_say_so(mortal):
    team = mortal
    late = team.nodes[1]
    late.kill()
    changed = late.project / "conf/keras/default.yaml"
    changed.write_text(changed.read_text() + "# another machine\n")
    grid = ("-m", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={team.nodes[0].address}", *SMALL)
    process = team.start(
        *grid, "scratch.n_hidden=4,8,12,16,20,24", "scratch.epochs=4000", "hydra.sweep.dir=multirun/g"
    )
    while process.poll() is None and not list(team.nodes[0].records.glob("*/run.json")):
        time.sleep(0.1)
    late.start()
    done = team.end(process)
    outcomes = [json.loads(file.read_text()) for file in team.desk.glob("multirun/g/*/outcome.json")]
    failed = [one["error"] for one in outcomes if one["error"]]
    assert 1 <= len(failed) < len(outcomes) == 6, done.stderr
    for error in failed:
        assert f"the same code as here is needed on every node, but on {late.host}, in" in error
    assert not list(late.records.glob("*/run.json"))


@pytest.mark.slow
def test_a_job_of_a_grid_whose_node_dies_is_begun_again_elsewhere(mortal):
    team = mortal
    grid = ("-m", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={team.nodes[0].address}", *DIGITS)
    epochs = 2 * EPOCHS
    once = "+hydra.launcher.ray.remote.max_retries=1"
    sweep = ("keras.units=16,32,64,128", f"keras.epochs={epochs}", "hydra.sweep.dir=multirun/g")
    process = team.start(*grid, *sweep, once)
    dying = team.nodes[1]
    record = wait_for_one_in_hand(process, dying, epochs)
    dying.kill()
    done = team.end(process)
    assert len(re.findall(r"^trial \d \(\d/4\)  val_loss", done.stderr, re.MULTILINE)) == 4, done.stderr
    outcomes = [json.loads(file.read_text()) for file in team.desk.glob("multirun/g/*/outcome.json")]
    assert sorted(one["number"] for one in outcomes) == [0, 1, 2, 3]
    runs = team.children()
    assert Counter(run.info.status for run in runs) == {"FINISHED": 4, "KILLED": 1}
    assert {run.data.tags["record"] for run in runs} == {record, *(one["record_id"] for one in outcomes)}


def test_ctrl_c_gives_back_what_the_nodes_have_in_hand_and_the_same_command_goes_on(team, database):
    study = ("-m", "hydra/sweeper=study", "hydra.sweeper.study_name=s", f"hydra.sweeper.storage={database}", *SMALL)
    sweep = (*study, "scratch.epochs=4000", "scratch.learning_rate=interval(0.01, 0.1)", *team.shared)
    process = team.start(*sweep, "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
    while process.poll() is None:
        states = Counter(trial.state.name for trial in team.trials(database, "s"))
        if states["COMPLETE"] and states["RUNNING"]:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    told = team.end(process, code=130)
    assert re.search(r"study s: interrupted after \d of 5 trials; the same command goes on", told.stderr)
    trials = team.trials(database, "s")
    assert all(trial.state.is_finished() for trial in trials)
    assert set(lost(trials)) == {"its training was interrupted"}

    again = team.run(*sweep, "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
    assert re.search(r"study s: goes on after \d of 5 trials", again.stderr)
    counted = [trial for trial in team.trials(database, "s") if "lost" not in trial.user_attrs]
    assert Counter(trial.user_attrs["slot"] for trial in counted) == dict.fromkeys(range(5), 1)
    runs = team.children()
    assert Counter(run.info.status for run in runs)["FINISHED"] == 5
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}


def test_other_code_on_a_node_is_one_line(team, database):
    study = ("-m", "hydra/sweeper=study", "hydra.sweeper.study_name=c", f"hydra.sweeper.storage={database}", *SMALL)
    grid = ("-m", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={team.nodes[0].address}", *SMALL)
    second = team.nodes[1]
    changed = second.project / "conf/keras/default.yaml"
    before = changed.read_text()
    changed.write_text(before + "# another machine\n")
    try:
        for command in ((*study, *team.shared), grid):
            (line,) = team.run(*command, "scratch.n_hidden=4,8", code=1).stderr.splitlines()
            assert f"error: Ray: the same code as here is needed on every node, but on {second.host}, in" in line
            assert "code and conf: " in line
    finally:
        changed.write_text(before)


@pytest.mark.short
def test_a_remote_without_the_data_is_one_line(team, database, call):
    """The user has CSVs of his own; the nodes look for what is made of them in a remote that lacks it."""
    rows = "label," + ",".join(f"p{i}" for i in range(16)) + "\n"
    rows += "".join(f"{i % 10}," + ",".join(str((i * j) % 256) for j in range(16)) + "\n" for i in range(200))
    (team.desk / "own.csv").write_text(rows)
    data = ("net=scratch", "scratch.dataset=mnist", "mnist.train_csv=own.csv", "mnist.test_csv=own.csv")
    study = ("-m", "hydra/sweeper=study", f"hydra.sweeper.storage={database}", *data, "scratch.epochs=2")
    for node in team.nodes:
        call(node.project, "dvc", "remote", "modify", "--local", "team", "url", str(team.desk / "empty"))
    try:
        told = team.run(*study, "scratch.n_hidden=4,8", "hydra.sweeper.n_trials=2", *team.shared, code=1)
    finally:
        for node in team.nodes:
            (node.project / ".dvc/config.local").unlink()
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("error")]
    assert re.search(r"all 2 trials failed; the first, 0: DataError: data [0-9a-f]{32} \(mnist\): neither", line)
    assert "`dvc push` where the sweep was started" in line
    done = team.run(
        *study, "hydra.sweeper.study_name=d", "scratch.n_hidden=4,8", "hydra.sweeper.n_trials=2", *team.shared
    )
    assert len(re.findall(r"^\d +\d\.\d{4}", done.stdout, re.MULTILINE)) == 2


def test_without_the_server_records_stay_on_their_node_and_it_is_said_where(team, database):
    study = ("-m", "hydra/sweeper=study", f"hydra.sweeper.storage={database}", *SMALL, "scratch.n_hidden=4,8")
    before = set(team.nodes[0].records.glob("*")) | set(team.nodes[1].records.glob("*"))
    nobody = "http://127.0.0.1:9"
    done = team.run(*study, "hydra.sweeper.n_trials=2", f"tracking.uri={nobody}", *team.shared)
    told = re.findall(
        rf"127.0.0.\d: {nobody}: the tracking store cannot be reached .*: the run is kept on .* in (\S+),",
        done.stderr,
    )
    kept = (set(team.nodes[0].records.glob("*")) | set(team.nodes[1].records.glob("*"))) - before
    assert len(kept) == 2
    assert {Path(path) for path in told} <= kept
    assert told


def test_a_cluster_that_is_not_there_is_one_line(team, database):
    study = ("-m", "hydra/sweeper=study", f"hydra.sweeper.storage={database}", *SMALL, "scratch.n_hidden=4,8")
    (line,) = team.run(
        *study, "hydra.sweeper.cluster=ray", "hydra.sweeper.cluster_address=127.0.0.1:9", code=1
    ).stderr.splitlines()
    assert line == (
        "error: Ray: a cluster at 127.0.0.1:9 is needed, but: Connection refused; `ray start --head` starts one"
    )
    (line,) = team.run(*study[:2], *study[3:], *team.shared, code=1).stderr.splitlines()
    assert "hydra.sweeper.storage: a database that every node reaches (postgresql://…) is needed" in line
    (line,) = team.run(*study, *team.shared, "tracking.uri=sqlite:///mlflow.db", code=1).stderr.splitlines()
    assert "tracking.uri: a server that every node reaches (http://…) is needed on a cluster" in line
