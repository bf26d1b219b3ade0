"""The locks, the Makefile and .ci/run: what a fresh clone leans on."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ["requirements.txt", "requirements-test.txt", "requirements-cluster.txt"]
OWN = "experiment-pipeline"  # an extra that names others
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+) \\\n(?P<hashes>(?:    --hash=.*\n)+)", re.MULTILINE)


def pins(*locks: str) -> dict[str, str]:
    """Return the version of each package that the locks pin."""
    return {pin["name"]: pin["version"] for lock in locks for pin in PIN.finditer((ROOT / lock).read_text())}


def declared(extra: str | None = None) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = [Requirement(line) for line in lines]
    others = [
        one
        for requirement in found
        if requirement.name == OWN
        for extra in requirement.extras
        for one in declared(extra)
    ]
    return [requirement for requirement in found if requirement.name != OWN] + others


def make(folder: Path, *arguments: str) -> str:
    # a make above this one (`make test`) would speak through these
    env = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the files that `make setup` reads, and no .venv."""
    for name in ["Makefile", "pyproject.toml", *LOCKS]:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_comments_pins_and_sha256_hashes_only(lock: str) -> None:
    text = (ROOT / lock).read_text()
    left = [line for line in PIN.sub("", text).splitlines() if not line.startswith("#")]
    assert left == []
    hashes = [line for pin in PIN.finditer(text) for line in pin["hashes"].splitlines()]
    odd = [line for line in hashes if not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)]
    assert odd == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_address_and_no_path(lock: str) -> None:
    assert not re.search(r"://|--index|--extra-index|--find-links|--trusted-host|@|/", (ROOT / lock).read_text())


@pytest.mark.parametrize(("extra", "n_locks"), [(None, 1), ("test", 2), ("cluster", 3)])
def test_each_declared_dependency_is_locked_at_a_version_it_admits(extra: str | None, n_locks: int) -> None:
    locked = pins(*LOCKS[:n_locks])
    for requirement in declared(extra):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), str(requirement)


@pytest.mark.parametrize("n", range(1, len(LOCKS)))
def test_lock_of_an_extra_holds_only_what_comes_on_top(n: int) -> None:
    assert pins(*LOCKS[:n]).keys().isdisjoint(pins(LOCKS[n]))


def test_what_is_for_a_team_is_locked_for_its_tests_alone() -> None:
    assert {"ray", "psycopg", "dvc-s3", "moto"} <= pins(LOCKS[2]).keys()


def test_torch_is_not_locked() -> None:
    assert "torch" not in pins(*LOCKS)


def test_the_code_runs_from_a_checkout_alone() -> None:
    """A copy of pipeline/ in site-packages would hide the checkout's, and a node that has one is refused."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"] == []
    pages = [page for name in ("conf", "docs", "pipeline") for page in (ROOT / name).rglob("*.*")]
    told = [
        page for page in pages if page.suffix in (".md", ".py", ".yaml") and "pip install '.[" in page.read_text()
    ]
    assert told == []


def test_make_alone_lists_the_targets() -> None:
    listed = re.findall(r"^make ([a-z-]+) +\S", make(ROOT), re.MULTILINE)
    assert {
        "setup",
        "repro",
        "test",
        "test-slow",
        "test-cluster",
        "test-cluster-short",
        "lint",
        "format",
        "experiments",
        "ui",
        "lock",
        "clean",
    } <= set(listed)
    assert make(ROOT, "help") == make(ROOT)


def test_fresh_clone_installs_with_hashes_before_it_runs_the_pipeline(clone: Path) -> None:
    said = make(clone, "-n", "repro", "PYTHON=python3.11")
    assert said.index("venv --clear .venv") < said.index("--require-hashes") < said.index("dvc repro")


@pytest.mark.parametrize("target", ["repro", "test", "test-cluster", "test-cluster-short"])
def test_second_call_installs_nothing(clone: Path, target: str) -> None:
    (clone / ".venv/bin").mkdir(parents=True)
    for made in [".venv/bin/python3.11", *(f".venv/installed{extra}" for extra in ("", "-test", "-cluster"))]:
        (clone / made).touch()
    said = make(clone, "-n", target)
    assert "pip install" not in said
    assert "venv --clear" not in said


def test_changed_lock_is_installed_again(clone: Path) -> None:
    (clone / ".venv/bin").mkdir(parents=True)
    for made in [".venv/bin/python3.11", ".venv/installed"]:
        (clone / made).touch()
    later = (clone / ".venv/installed").stat().st_mtime + 1
    os.utime(clone / "requirements.txt", (later, later))
    said = make(clone, "-n", "repro")
    assert "--require-hashes" in said
    assert "venv --clear" not in said


def test_wrong_python_is_one_clear_line(clone: Path) -> None:
    tools = clone / "tools"  # a PATH without a Python in it
    tools.mkdir()
    for tool in ["make", "sh"]:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        ["make", "setup"], cwd=clone, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.11 is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_ci_runs_the_tests_and_those_of_a_teams_set_up() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    for target in ("test", "test-cluster"):
        assert f"make {target} </dev/null" in script.read_text()
