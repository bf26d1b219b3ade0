"""`dvc repro` and writers of files, killed with -9 at random moments: old or new, never half."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repro_project import FAILED, STAGES, Project, copied, ran

from pipeline import files

SEED = 0
FEW, MANY = 2, 20
LONGEST_WAIT = 2.0  # seconds from the start of a stage to the kill; a stage of the small settings takes 0.5 to 8
ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import itertools, sys
from pathlib import Path
from pipeline.files import replacing

file, folder = Path(sys.argv[1], "file"), Path(sys.argv[1], "folder")
for i in itertools.count(1):
    with replacing(file) as new:
        new.write_text(f"{i}\\n" * 50_000)
    with replacing(folder) as new:
        new.mkdir()
        for name in "ab":
            (new / name).write_text(f"{i}\\n" * 50_000)
    print(i, flush=True)
"""


def clone_of(small: Project, folder: Path) -> Project:
    """Return a fresh clone of the small project: its settings, but neither data nor cache nor the lock of a run."""
    small.call(small.root, "git", "clone", "-q", str(small.root), str(folder))
    return Project(folder, small.call)


def killed_repro(project: Project, environment: dict[str, str], stage: str, wait: float) -> str | None:
    """Start `dvc repro`, and kill it and its children `wait` seconds after a stage's start.

    Return the stage that was killed; None if all had ended by then.
    """
    said = project.root.with_suffix(".log")
    with said.open("wb") as out:
        process = subprocess.Popen(
            ["dvc", "repro"], cwd=project.root, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    while process.poll() is None and f"Running stage '{stage}'" not in said.read_text():
        time.sleep(0.01)
    time.sleep(wait)
    is_killed = process.poll() is None
    if is_killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return re.findall(r"Running stage '(\w+)'", said.read_text())[-1] if is_killed else None


def half_written(project: Project, whole: dict[str, bytes]) -> list[str]:
    """Return the files of outputs that differ from those of an undisturbed run."""
    hidden = [path for path in relative(project) if "/." in path]
    return [path for path, content in relative(project).items() if path not in hidden and content != whole.get(path)]


def relative(project: Project) -> dict[str, bytes]:
    """Return all files below data/, by their path in the project."""
    return {str(Path(path).relative_to(project.root)): data for path, data in project.bytes_of("data").items()}


def mends() -> dict[str, str]:
    """Return the commands of the README's table for a crash, by patterns of the messages that call for them."""
    lines = (ROOT / "README.md").read_text().partition("| DVC says | do |\n|---|---|\n")[2].partition("\n\n")[0]
    found = {}
    for line in lines.splitlines():
        _, says, do, _ = line.split("|")
        command = re.findall("`(.+?)`", do)[0]
        for message in (said for said in re.findall("`(.+?)`", says) if " " in said):  # else it is a file's name
            pattern = re.escape(message).replace("…", "[^']*")
            found[f"{pattern} *$" if message.endswith(":") else pattern] = command
    return found


def mend_of(said: str) -> str:
    """Return the command that the README has for what DVC said; fail unless it has just one."""
    commands = {command for pattern, command in mends().items() if re.search(pattern, said, re.MULTILINE)}
    assert len(commands) == 1, said
    return commands.pop()


def mended_repro(project: Project, environment: dict[str, str]) -> str | None:
    """Run `dvc repro` after a kill; return the command that was called for, if one was.

    DVC 3.67 writes two files of its own in place: a kill in these 0.1 s a stage leaves half of one.
    """
    done = subprocess.run(
        ["dvc", "repro"], cwd=project.root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    command = mend_of(done.stderr)
    project.call(project.root, *command.split())
    project.repro()
    return command


def check_kills(small, environment, folder, n_faults, stages, count, cache=None) -> None:
    """Kill `dvc repro` in fresh clones at seeded moments, and let it end: as an undisturbed one, or the test fails.

    Args:
        small: the project, reproduced undisturbed.
        environment: of the commands.
        folder: for the clones.
        n_faults: how many kills.
        stages: after the start of one of which the kill comes.
        count: the fixture; kills after which `dvc repro` ends alone are one kind, those that call for a command one.
        cache: a folder of DVC's cache for the clones, so that trainings come out of its run cache; None: no cache.
    """
    rng = random.Random(SEED)
    whole, lock = relative(small), small.read("dvc.lock")
    alone = count("dvc repro killed (-9); the next ends alone with the same bytes", "files")
    helped = count(
        "dvc repro killed (-9); the next, after the command that the README has for DVC's message", "files"
    )
    killed: list[str] = []
    while len(killed) < n_faults:
        project = clone_of(small, folder / str(len(killed)))
        if cache:
            shutil.copytree(cache, project.root / ".dvc/cache")
        stage = killed_repro(project, environment, rng.choice(stages), rng.uniform(0, LONGEST_WAIT))
        if stage:
            killed.append(stage)
            alone.injected += 1
            half = half_written(project, whole)
            alone.lost += len(half)
            assert half == []
            command = mended_repro(project, environment)
            faults = helped if command else alone
            if command:
                alone.injected -= 1
                helped.injected += 1
                helped.note += f"; `{command}`" if helped.note else f"`{command}`"
            found = relative(project)
            faults.lost += len(dict(whole.items() ^ found.items()))
            assert project.read("dvc.lock") == lock
            assert found == whole
            faults.survived += 1
            alone.note = ", ".join(f"{stage} {killed.count(stage)}" for stage in STAGES if stage in killed)
        shutil.rmtree(project.root, ignore_errors=True)  # a courier may still write there


def test_a_repro_killed_while_it_makes_data_ends_as_an_undisturbed_one(small, environment, tmp_path, count):
    check_kills(small, environment, tmp_path, FEW, STAGES[:5], count, small.root / ".dvc/cache")


@pytest.mark.slow
def test_a_repro_killed_at_any_moment_ends_as_an_undisturbed_one(small, environment, tmp_path, count):
    check_kills(small, environment, tmp_path, MANY, STAGES, count)


def test_each_message_of_the_readme_has_its_command():
    assert set(mends().values()) == {"git checkout dvc.lock", "rm .dvc/tmp/rwlock", "rm params.yaml"}
    assert len(mends()) == 6
    assert mend_of("ERROR: failed to reproduce 'load': \n") == "git checkout dvc.lock"
    locked = "ERROR: failed to reproduce 'a': Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure"
    assert mend_of(locked) == "rm .dvc/tmp/rwlock"


@pytest.mark.parametrize("n_faults", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_or_the_new_and_nothing_else_once_another_writes(n_faults, tmp_path, count):
    rng = random.Random(SEED)
    file, folder = tmp_path / "file", tmp_path / "folder"
    n_left = 0
    faults = count("writers of a file and a folder killed (-9)", "half-written files")
    for _ in range(n_faults // 5):
        writers = []
        for number in range(5):  # five at once, as each takes a while to start
            own = tmp_path / str(number)
            own.mkdir(exist_ok=True)
            writers.append(start_writer(own))
        for number, writer in enumerate(writers):
            writer.stdout.readline()  # it has written once
            time.sleep(rng.uniform(0, 0.03))
            writer.kill()
            writer.wait()
            writer.stdout.close()
            own = tmp_path / str(number)
            file, folder = own / "file", own / "folder"
            faults.injected += 1
            written = [file, *(folder / name for name in "ab" if folder.exists())]
            faults.lost += sum(not is_whole(path) for path in written)
            assert faults.lost == 0
            n_left += len(list(own.glob(".f*")))
            with files.replacing(file) as new:
                new.write_text("9\n" * 50_000)
            with files.replacing(folder) as new:
                new.mkdir()
                for name in "ab":
                    shutil.copy(file, new / name)
            assert sorted(path.name for path in own.iterdir()) == ["file", "folder"]
            faults.survived += 1
            faults.note = f"{n_left} of them within a write"
    assert n_left > 0  # else no kill came in the middle


def start_writer(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )


def is_whole(path: Path) -> bool:
    lines = path.read_text().split("\n")
    return len(lines) == 50_001 and lines[-1] == "" and len(set(lines[:-1])) == 1


def test_what_a_living_writer_writes_is_not_removed(tmp_path):
    path = tmp_path / "out"
    with files.replacing(path) as first:
        first.write_text("first")
        with files.replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_only_what_a_writer_leaves_is_removed(tmp_path):
    mine = tmp_path / ".out.d"
    mine.mkdir()
    other = tmp_path / ".output.abcd1234"
    other.mkdir()
    (tmp_path / ".out.abcd1234").mkdir()
    (tmp_path / ".out.linked__").symlink_to(other)
    with files.replacing(tmp_path / "out") as new:
        new.write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.d", ".out.linked__", ".output.abcd1234", "out"]
    assert list(other.iterdir()) == []


@pytest.fixture(scope="module")
def edited(small, tmp_path_factory) -> Project:
    """A copy of the small project for the tests of DVC's own files."""
    return copied(small, tmp_path_factory.mktemp("edited") / "project")


def edit(project: Project) -> None:
    """Change a comment in conf/, so that `dvc repro compose` has something to do."""
    with (project.root / "conf/config.yaml").open("a") as file:
        file.write("# a comment\n")


def rwlock(project: Project, pid: int) -> str:
    return f'{{"read": {{}}, "write": {{"{project.root}/params.yaml": {{"pid": {pid}, "cmd": "dvc repro"}}}}}}'


def test_the_locks_of_a_killed_dvc_stop_nothing(edited):
    with subprocess.Popen(["true"]) as process:
        process.wait()
    (edited.root / ".dvc/tmp/rwlock").write_text(rwlock(edited, process.pid))
    (edited.root / ".dvc/tmp/lock").write_text(f"{process.pid}\n")
    edit(edited)
    done = edited.dvc("repro", "compose")
    assert ran(done) == ["compose"]
    assert "had been killed. Auto removed it from the lock file" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("content", ["of another process", '{"write": {"/a', ""], ids=["pid in use", "cut", "empty"])
def test_a_rwlock_that_stops_dvc_is_named_and_its_removal_is_the_mend(edited, content):
    path = edited.root / ".dvc/tmp/rwlock"
    path.write_text(rwlock(edited, os.getpid()) if content == "of another process" else content)
    edit(edited)
    command = mend_of(edited.dvc("repro", "compose", code=FAILED).stderr)
    assert command == "rm .dvc/tmp/rwlock"
    edited.call(edited.root, *command.split())
    assert ran(edited.dvc("repro", "compose")) == ["compose"]


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"", b"    ou", b"      hash: md"], ids=["empty", "within a key", "within a value"])
def test_a_dvc_lock_cut_off_is_named_and_git_brings_the_earlier_back(edited, end):
    path = edited.root / "dvc.lock"
    path.write_bytes(path.read_bytes().partition(end)[0] + end if end else b"")
    command = mend_of(edited.dvc("repro", "compose", code=FAILED).stderr)
    assert command == "git checkout dvc.lock"
    edited.call(edited.root, *command.split())
    edited.dvc("repro", "compose")


@pytest.mark.slow
def test_a_dvc_lock_cut_off_after_a_stage_is_completed(edited):
    path = edited.root / "dvc.lock"
    edited.dvc("repro", "compose")
    lock = path.read_bytes()
    path.write_bytes(lock.partition(b"  evaluate:")[0])
    edited.dvc("repro", "compose")
    edited.repro()
    assert path.read_bytes() == lock
