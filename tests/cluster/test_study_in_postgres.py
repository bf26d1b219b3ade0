"""A study whose trials stand in PostgreSQL and whose runs go to the server, on one machine."""

import re
from collections import Counter

import pytest
from services import HOST, Postgres, free_port, running
from team import SPACE, counted, family, states, study
from tracked import wait_until

from pipeline.address import NO_DATABASE_USER

SECRET = "a-wrong-secret"
ON_SERVER = ("tracking=server", "hydra.sweeper.n_jobs=2")

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # importing mlflow.pyfunc


@pytest.fixture(autouse=True)
def user(postgres, monkeypatch):
    """Let this process into the databases, as `counted` needs it."""
    for name, value in postgres.secret.items():
        monkeypatch.setenv(name, value)


def test_a_study_goes_on_to_its_total_prunes_and_keeps_no_secret(team, database, client, tracking_server, postgres):
    rates = ("scratch.learning_rate=1,0.9,0.8,0.7,1e-6,1e-7", "hydra.sweeper.sampler.name=grid")  # two are hopeless
    sweep = (*ON_SERVER, *rates, "hydra.sweeper.study_name=total", f"hydra.sweeper.storage={database}")
    pruned = ("hydra.sweeper.pruner.name=median", "hydra.sweeper.pruner.startup_trials=2", "scratch.epochs=12")
    done = team.study(*sweep, *pruned, "hydra.sweeper.n_trials=4")
    assert f"compared: {tracking_server.uri}/#/experiments/" in done.stdout
    more = team.study(*sweep, *pruned, "hydra.sweeper.n_trials=6")
    assert "study total: goes on after 4 of 6 trials" in more.stderr
    assert counted(database, "total") == dict.fromkeys(range(6), 1)
    parents, children = family(client, "total")
    assert len(parents) == 1
    assert children.keys() == {str(number) for number in range(6)}
    assert children["4"] == children["5"] == ["KILLED"]
    ended = states(database, "total")
    assert Counter(status for (status,) in children.values()) == {
        "FINISHED": ended["COMPLETE"],
        "KILLED": ended["PRUNED"],
    }
    secrets = [postgres.password.encode(), tracking_server.password.encode()]
    kept = [path for path in team.folder.rglob("*") if path.is_file()]
    assert [str(path) for path in kept if any(secret in path.read_bytes() for secret in secrets)] == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [({"PGPASSWORD": SECRET}, NO_DATABASE_USER), ({"PGPASSWORD": ""}, NO_DATABASE_USER)],
    ids=["wrong password", "no password"],
)
def test_a_database_that_lets_nobody_in_is_one_line(team, database, variables, why):
    sweep = (*SPACE, f"hydra.sweeper.storage={database}")
    (line,) = team.study(*sweep, code=1, **variables).stderr.splitlines()
    assert line == f"error: hydra.sweeper.storage: {database} cannot be opened: {why}"


def test_a_database_that_is_not_there_is_one_line(team, database):
    away = f"postgresql://{HOST}:{free_port()}/studies"
    (line,) = team.study(*SPACE, f"hydra.sweeper.storage={away}", code=1).stderr.splitlines()
    assert line == f"error: hydra.sweeper.storage: {away} cannot be opened: connection refused"
    (line,) = team.study(*SPACE, f"hydra.sweeper.storage={database}_", code=1).stderr.splitlines()
    assert re.match(
        rf'error: hydra.sweeper.storage: {database}_ cannot be opened: FATAL: database ".*" does not', line
    )


def test_a_password_in_an_address_is_refused_and_not_repeated(team):
    address = f"postgresql://ann:{SECRET}@{HOST}/studies"
    (line,) = team.study(*SPACE, f"hydra.sweeper.storage={address}", code=1).stderr.splitlines()
    assert "an address without user, password and query is needed" in line
    assert "PGPASSWORD" in line
    assert SECRET not in line


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_when_the_database_goes_away_trainings_under_way_finish_and_the_same_command_goes_on(
    team, n_jobs, client, monkeypatch
):
    own = Postgres()
    with running(own, own.remove):
        monkeypatch.setenv("PGPASSWORD", own.password)
        address = own.database("studies")
        sweep = ("tracking=server", *SPACE, f"hydra.sweeper.study_name=away{n_jobs}", "hydra.sweeper.n_trials=4")
        sweep = (*sweep, f"hydra.sweeper.storage={address}", f"hydra.sweeper.n_jobs={n_jobs}", "scratch.epochs=2500")
        process = team.start(*study(*sweep), PGPASSWORD=own.password)
        folder = team.folder / "multirun" / f"away{n_jobs}"
        wait_until(lambda: list(folder.glob("*/outcome.json")) or process.poll() is not None, 300)
        own.kill()
        told = team.end(process, code=1)
        assert "Traceback" not in told.stderr
        *_, line = told.stderr.splitlines()
        assert re.match(rf"error: .*away{n_jobs}.*the same command goes on", line), told.stderr
        assert own.password not in told.stderr
        trained = {path.parent.name: path.read_bytes() for path in folder.glob("*/outcome.json")}
        own.start()
        team.study(*sweep, PGPASSWORD=own.password)
        assert counted(address, f"away{n_jobs}") == dict.fromkeys(range(4), 1)
        for number, outcome in trained.items():
            assert (folder / number / "outcome.json").read_bytes() == outcome
        parents, children = family(client, f"away{n_jobs}")
        assert len(parents) == 1
        assert {number: statuses.count("FINISHED") for number, statuses in children.items()} == {
            str(number): 1 for number in range(4)
        }
