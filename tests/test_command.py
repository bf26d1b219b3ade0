"""What the terminal shows of an error: one line of a user's mistake, a traceback of the project's own."""

import sys
from pathlib import Path

import pytest

from pipeline.command import command
from pipeline.errors import DataError, SettingsError, TrainingError

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
from pipeline.command import command, configure_logging
from pipeline.errors import DataError
import logging

@command
def main():
    {body}

main()
"""


@pytest.fixture
def of_the_project(call, tmp_path):
    """Return a function that runs lines of Python as a command, in a process of its own."""

    def run(body, code):
        script = SCRIPT.format(body=body)
        return call(tmp_path, sys.executable, "-c", script, code=code, env={"PYTHONPATH": str(ROOT)})

    return run


@pytest.mark.parametrize("error", [DataError, SettingsError, TrainingError])
def test_a_users_mistake_is_one_line_and_exit_code_1(error):
    @command
    def main():
        raise error("train.csv: row 3: 785 columns are needed, but got 784")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == "error: train.csv: row 3: 785 columns are needed, but got 784"


def test_an_error_of_the_system_names_its_path(tmp_path):
    @command
    def main():
        (tmp_path / "none").read_text()

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == f"error: {tmp_path / 'none'}: No such file or directory"


def test_an_error_of_the_system_without_a_path_is_its_text():
    @command
    def main():
        raise OSError("npm is not installed")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == "error: npm is not installed"


@pytest.mark.parametrize("stage", ["compose", "train_keras"])
def test_a_stage_refuses_arguments_rather_than_ignoring_them(call, stage, tmp_path):
    given = ("keras.units=64", "--x", "http://ann:secret@host")
    env = {"PYTHONPATH": str(ROOT)}
    (line,) = call(tmp_path, sys.executable, "-m", f"pipeline.{stage}", *given, code=1, env=env).stderr.splitlines()
    assert line.startswith(f"error: {stage}: no arguments are needed, but got 'keras.units=64 --x http://")
    assert "`python -m pipeline.train`" in line
    assert "secret" not in line


def test_any_other_error_is_not_hidden():
    @command
    def main():
        raise KeyError("W1")

    with pytest.raises(KeyError, match="W1"):
        main()


def test_in_the_terminal_a_mistake_is_one_line_on_stderr(of_the_project):
    done = of_the_project("raise DataError('a.csv: is empty')", code=1)
    assert (done.stdout, done.stderr) == ("", "error: a.csv: is empty\n")


def test_in_the_terminal_any_other_error_has_its_traceback(of_the_project):
    done = of_the_project("raise KeyError('W1')", code=1)
    assert "Traceback" in done.stderr
    assert "KeyError: 'W1'" in done.stderr


def test_ctrl_c_is_one_line_and_the_shells_exit_code(of_the_project):
    done = of_the_project("raise KeyboardInterrupt", code=130)
    assert done.stderr == "interrupted\n"


def test_log_lines_go_to_stderr_as_they_are(of_the_project):
    done = of_the_project("logging.getLogger('x').info('%d rows', 7)", code=0)
    assert (done.stdout, done.stderr) == ("", "7 rows\n")


def test_of_chatty_packages_only_warnings_show(of_the_project):
    body = "[logging.getLogger('mlflow.x').log(level, 'level %d', level) for level in (20, 30)]"
    assert of_the_project(body, code=0).stderr == "level 30\n"


def test_a_command_looks_for_garbage_rarely_and_not_as_it_ends(call, tmp_path):
    script = """
import atexit, gc
from pipeline.command import parsing_command
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # after all that is registered later
parsing_command(lambda: print(gc.get_threshold()[0], gc.get_freeze_count()))()
"""
    done = call(tmp_path, sys.executable, "-c", script, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["10000", "0", "True"]
