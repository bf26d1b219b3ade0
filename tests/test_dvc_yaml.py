"""dvc.yaml says of each stage just what its code reads: modules, sections of the settings, files."""

import ast
import hashlib
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES: dict = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def module_file(name: str) -> Path | None:
    """Return the file of a module of the project, from the root, or None if it is none."""
    path = Path(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / file).is_file():
            return file
    return None


@cache
def imports(file: Path) -> frozenset[Path]:
    """Return the project's modules that `file` names in imports, wherever they stand, and their packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    packages = {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
    found = {module_file(name) for name in packages if name.split(".")[0] == "pipeline"}
    return frozenset(path for path in found if path)


def reached(file: Path) -> set[Path]:
    """Return `file` and every module that it imports, directly or not; of a package inside pipeline/, all of it."""
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imports(path)
            if path.parent != Path("pipeline"):
                waiting += [sibling.relative_to(ROOT) for sibling in (ROOT / path.parent).glob("*.py")]
    return seen


def stage_file(stage: str) -> Path:
    return Path("pipeline", f"{stage}.py")


def listed_code(stage: str) -> set[Path]:
    """Return the code files that dvc.yaml lists; a folder stands for all in it."""
    code = [Path(dep) for dep in STAGES[stage]["deps"] if dep.startswith("pipeline")]
    files = {file.relative_to(ROOT) for path in code for file in (ROOT / path).glob("*.py")}
    return {path for path in code if path.suffix == ".py"} | files


def settings_read(file: Path) -> set[str]:
    """Return the settings that a stage's `main` reads: `mnist.max_csv_bytes`, or `mnist` where it hands all on."""
    text = (ROOT / file).read_text()
    main = text[text.index("def main()") :]
    read = set(re.findall(r"(?:settings|load_params\(\))\.(\w+(?:\.\w+)?)", main))
    whole = {name for name in read if "." not in name}
    return {name for name in read if name in whole or name.split(".")[0] not in whole | {"tracking"}}


def test_there_are_the_eight_stages():
    assert list(STAGES) == [
        "compose",
        "fetch",
        "load",
        "synthesize",
        "preprocess",
        "train_scratch",
        "train_keras",
        "evaluate",
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_module_of_its_name(stage):
    assert STAGES[stage]["cmd"] == f"python -m pipeline.{stage}"
    assert (ROOT / stage_file(stage)).is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_each_module_that_it_imports(stage):
    assert sorted(listed_code(stage)) == sorted(reached(stage_file(stage)))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("compose", "evaluate")])
def test_a_stage_lists_the_params_that_it_reads(stage):
    read = settings_read(stage_file(stage))
    if stage == "preprocess":  # settings.section(net).dataset
        read = read - {"section"} | {"scratch.dataset", "keras.dataset"}
    assert set(STAGES[stage].get("params", [])) == read


@pytest.mark.parametrize(
    ("package", "place"),
    [("mlflow", "tracking/"), ("keras", "train_keras.py"), ("tensorflow", "train_keras.py")],
)
def test_a_large_package_is_imported_in_one_place_alone(package, place):
    line = re.compile(rf"^ *(import|from) {package}\b", re.MULTILINE)
    files = (ROOT / "pipeline").rglob("*.py")
    found = [str(file.relative_to(ROOT / "pipeline")) for file in files if line.search(file.read_text())]
    assert found
    assert [file for file in found if not file.startswith(place)] == []


def test_no_stage_depends_on_the_tracking_settings():
    params = [param for stage in STAGES.values() for param in stage.get("params", [])]
    assert not [param for param in params if param.startswith("tracking")]


def md5_of(path: Path) -> str:
    """Return DVC's md5 of a file, or of a folder's files that git knows."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=path, capture_output=True, text=True, check=True)
    names = sorted(name for name in listed.stdout.split("\0") if name)
    content = [{"md5": md5_of(path / name), "relpath": name} for name in names]
    return hashlib.md5(json.dumps(content).encode()).hexdigest() + ".dir"


@pytest.mark.parametrize("stage", STAGES)
def test_the_committed_lock_is_of_this_code(stage):
    """Otherwise `dvc repro` in a fresh clone would change dvc.lock; `dvc repro` here mends it."""
    deps = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"][stage]["deps"]
    of_code = {dep["path"]: dep["md5"] for dep in deps if not dep["path"].startswith("data")}
    assert of_code == {path: md5_of(ROOT / path) for path in of_code}
