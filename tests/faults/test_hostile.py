"""Files and settings made to do harm: nothing in them is run, and none takes the memory or writes elsewhere."""

import ast
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from pipeline import compose, files, paths, prepared, preprocess, trained
from pipeline.config import TEXT, Settings
from pipeline.errors import DataError, SettingsError
from pipeline.tracking.store import check_uri

ROOT = Path(__file__).resolve().parents[2]
MORE_MEMORY = 64  # MB that a refused file may take beyond what a small one does
LIMIT = 10**7  # bytes; as a user may set it
TINY = ("net=scratch", "synthetic.n_samples=300", "synthetic.n_train=200", "scratch.epochs=1")


@dataclass
class Touch:
    """What, if it is ever unpickled, makes a file."""

    path: str

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty project that this test stands in, with the params.yaml of conf/."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(compose.run(ROOT / "conf"))
    return tmp_path


@pytest.fixture(autouse=True)
def counted(count_one) -> None:
    count_one("hostile files and settings: nothing of them run, no memory taken, nothing written elsewhere", "")


def hostile_npz(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, X=np.zeros(3), y=np.array([Touch("hacked")], dtype=object))


# ------------------------------------------------------------------------------- pickles


def test_a_pickle_among_a_stage_s_arrays_is_refused_in_one_line_and_not_run(place):
    hostile_npz(paths.loaded("mnist"))
    with pytest.raises(SystemExit) as ended:
        preprocess.main()
    assert ended.value.code.startswith(
        "error: data/loaded/mnist.npz: an .npz archive of plain arrays is needed, but "
    )
    assert len(ended.value.code.splitlines()) == 1
    assert not Path("hacked").exists()
    assert not paths.PREPARED.exists()
    np.load(paths.loaded("mnist"), allow_pickle=True)["y"]  # it would have been
    assert Path("hacked").exists()


def test_a_pickle_among_weights_is_refused_and_not_run(place):
    net = trained.Trained("scratch", "mnist", ("tanh",), {"W1": np.eye(2)}, {"loss": [0.5]}, "")
    trained.save(net, paths.RUNS / "scratch")
    hostile_npz(paths.RUNS / "scratch/weights.npz")
    with pytest.raises(
        DataError, match=r"data/runs/scratch/weights\.npz: an \.npz archive of plain arrays is needed"
    ):
        trained.load(paths.RUNS / "scratch")
    assert not Path("hacked").exists()


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # importing mlflow.pyfunc 3.17
def test_a_pickle_among_a_logged_model_s_weights_is_refused_and_not_run(place):
    from mlflow.pyfunc import PythonModelContext

    from pipeline.tracking.scratch_model import ScratchModel

    hostile_npz(Path("weights.npz"))
    context = PythonModelContext({"weights": "weights.npz"}, {"activation": "tanh"})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        ScratchModel().load_context(context)
    assert not Path("hacked").exists()


DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "eval", "exec", "system", "load_model"}
UNSAFE_YAML = {"load", "load_all", "full_load", "unsafe_load", "Loader", "FullLoader", "UnsafeLoader"}


def dangers(path: Path) -> list[str]:
    """Return what of a module could run what a file says."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name.split(".")[0] for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
        if isinstance(node, ast.Call):
            names.append(getattr(node.func, "attr", getattr(node.func, "id", "")))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "yaml" and node.attr in UNSAFE_YAML:
            found.append(f"{path.name}: yaml.{node.attr}")
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell", "safe_mode"):
            is_safe = getattr(node.value, "value", None) is (node.arg == "safe_mode")
            found += [] if is_safe else [f"{path.name}: {node.arg}"]
        found += [f"{path.name}: {name}" for name in names if name in DANGEROUS]
    return found


def test_no_module_unpickles_or_evaluates_or_loads_a_keras_archive():
    modules = [path for folder in ("pipeline", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 30
    assert [danger for path in modules for danger in dangers(path)] == []


LAMBDA = """
import warnings

warnings.simplefilter("ignore")
import mlflow.keras, mlflow.pyfunc
import keras
from pathlib import Path

run = lambda x: Path("hacked").touch() or x
model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(run, output_shape=(2,)), keras.layers.Dense(1)])
mlflow.keras.save_model(model, "model")
Path("hacked").unlink(missing_ok=True)
for load in (mlflow.keras.load_model, mlflow.pyfunc.load_model):
    try:
        load("model")
    except Exception as error:
        print(str(error).replace("\\n", " "))
    else:
        print("loaded")
print(Path("hacked").exists())
"""


@pytest.mark.slow
def test_a_keras_archive_with_a_lambda_is_refused_by_what_loads_our_models(call, tmp_path):
    said = call(tmp_path, sys.executable, "-c", LAMBDA).stdout.splitlines()
    assert len(said) == 3
    assert all("Lambda" in line and "safe_mode" in line for line in said[:2]), said
    assert said[2] == "False"


# ------------------------------------------------------------------------------- memory


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def long_row(path: Path) -> None:
    path.write_bytes(b"label,1x1\n5,0\n" + b"1," * 2_000_000)
    os.truncate(path, 999_999_999)


def long_first_row(path: Path) -> None:
    path.write_bytes(b"1," * 2_000_000)
    os.truncate(path, 999_999_999)


def bomb_of_a_row(path: Path) -> None:
    path.write_bytes(gzip.compress(b"1," * 50_000_000, 1) * 100)  # 10 GB


def bomb_of_rows(path: Path) -> None:
    path.write_bytes(gzip.compress(b"5,0,0,0,0\n" * 1_000_000, 1) * 100)  # 1 GB


def bomb_of_blank_lines(path: Path) -> None:
    path.write_bytes(b"5,0,0,0,0\n" + b"\n" * LIMIT)


MEASURED = """
import atexit, re, runpy, sys
from pathlib import Path

@atexit.register
def measure():  # unlike ru_maxrss, it does not begin with what the parent has
    Path("peak").write_text(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


def peak_memory(folder: Path, environment: dict[str, str], stage: str = "fetch") -> tuple[float, int, str]:
    """Return what a stage took at most, in MB, its exit code, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, f"pipeline.{stage}"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return int((folder / "peak").read_text()) / 1024, done.returncode, done.stderr


@pytest.fixture(scope="module")
def small_memory(tmp_path_factory, environment) -> float:
    """What stage fetch takes for a small CSV, in MB."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "good.csv").write_text("5,0,0,0,0\n")
    write_params(folder, "good.csv")
    took, code, said = peak_memory(folder, environment)
    assert code == 0, said
    return took


def write_params(folder: Path, train: str) -> None:
    overrides = ["mnist.source=csv", f"mnist.train_csv={train}", "mnist.test_csv=good.csv"]
    limit = [f"mnist.max_csv_bytes={LIMIT}"] if "rows" in train or "lines" in train else []
    (folder / "params.yaml").write_text(compose.run(ROOT / "conf", overrides + limit))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (huge, "at most 1,000,000,000 bytes are read, but it has 10,737,418,240; raise mnist.max_csv_bytes"),
        (long_row, "line 3: at most 1,048,576 bytes are needed, but it goes on"),
        (long_first_row, "line 1: at most 1,048,576 bytes are needed, but it goes on"),
        (bomb_of_a_row, "line 1: at most 1,048,576 bytes are needed, but it goes on"),
        (
            bomb_of_rows,
            "at most 10,000,000 bytes are read, but it has more by line 1000001; raise mnist.max_csv_bytes",
        ),
        (bomb_of_blank_lines, "at most 10,000,000 bytes are read, but it has 10,000,010; raise mnist.max_csv_bytes"),
    ],
)
def test_a_csv_made_to_fill_the_memory_is_refused_before_it_does(make, says, tmp_path, environment, small_memory):
    make(tmp_path / f"{make.__name__}.csv")
    write_params(tmp_path, f"{make.__name__}.csv")
    took, code, said = peak_memory(tmp_path, environment)
    assert (code, said.count("\n")) == (1, 1), said
    assert says in said
    assert took < small_memory + MORE_MEMORY
    assert not (tmp_path / "data").exists()


def test_a_raw_csv_of_10_gb_is_refused_by_stage_load(tmp_path, environment, small_memory):
    write_params(tmp_path, "good.csv")
    (tmp_path / "data/raw").mkdir(parents=True)
    huge(tmp_path / paths.TRAIN_CSV)
    took, code, said = peak_memory(tmp_path, environment, "load")
    assert (code, said.count("\n")) == (1, 1)
    assert "at most 1,000,000,000 bytes are read" in said
    assert took < small_memory + MORE_MEMORY
    assert not (tmp_path / "data/loaded").exists()


# ------------------------------------------------------------------------------- paths


def free_texts(cls: type, prefix: str = "") -> set[str]:
    """Return the settings that may be any text."""
    found = set()
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if is_dataclass(hint):
            found |= free_texts(hint, f"{prefix}{name}.")
        elif TEXT.says in get_args(hint)[1].says:
            found.add(prefix + name)
    return found


def test_of_all_settings_these_alone_are_free_texts_and_none_names_an_output():
    assert len(fields(Settings)) > 5
    read = {"mnist.train_csv", "mnist.test_csv"}
    names = {"mnist.label_column", "tracking.experiment"}
    assert free_texts(Settings) == read | names  # tracking.uri must be an address


def tree(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.slow
def test_a_training_with_hostile_texts_writes_nothing_outside_the_project(clone, call, tmp_path):
    project = clone(tmp_path / "above/project")
    before = tree(tmp_path)
    for experiment in (str(tmp_path / "escaped"), "../../$(touch escaped)/a\x1b[2J\nb"):
        call(
            *(project, sys.executable, "-m", "pipeline.train", *TINY),
            f'tracking.experiment="{experiment}"',
            env={"PIPELINE_RECORDS": ""},
        )
    written = {path.relative_to(tmp_path) for path in tree(tmp_path).items() - before.items() for path in path[:1]}
    outside = [path for path in written if not path.is_relative_to("above/project")]
    assert outside == []
    tops = {path.parts[2] for path in written if "__pycache__" not in path.parts}
    assert {top for top in tops if not top.startswith("mlflow.db")} <= {"outputs", "records", "mlartifacts", "data"}


def test_in_the_terminal_a_store_that_is_none_is_refused_in_one_line(call, tmp_path):
    arguments = [*TINY, "tracking.uri='../\x1b[2J'", f"hydra.run.dir={tmp_path}"]
    (line,) = call(ROOT, sys.executable, "-m", "pipeline.train", *arguments, code=1).stderr.splitlines()
    assert line.startswith("error: tracking.uri: an address like ")
    assert line.isprintable()


@pytest.mark.parametrize(
    "uri", ["../x", "file:///etc", "ftp://x", "sqlite:///", "/etc/passwd", "sqlite:////etc/passwd"]
)
def test_a_store_that_is_none_is_refused(uri):
    with pytest.raises(SettingsError, match=r"^tracking\.uri: "):
        check_uri(uri)


def test_a_stage_runs_nothing_that_conf_tells_hydra_to_run(place):
    shutil.copytree(ROOT / "conf", "conf")
    Path("params.yaml").unlink()
    text = Path("conf/config.yaml").read_text()
    callback = "hydra:\n  callbacks: {x: {_target_: subprocess.run, args: [touch, hacked]}}\n"
    Path("conf/config.yaml").write_text(text.replace("hydra:\n", callback))
    compose.main()
    assert Path("params.yaml").is_file()
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"dataset": "../../../etc/passwd", "md5": "0" * 32},
        {"dataset": "mnist"},
        {"dataset": ["mnist"], "md5": "0" * 32},
        ["mnist"],
        None,
    ],
)
def test_a_choice_of_a_dataset_that_is_none_is_refused_in_one_line(place, content):
    paths.PREPARED.mkdir(parents=True)
    paths.choice_file("keras").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"^data/prepared/keras\.json: .*; `dvc checkout` mends it$"):
        prepared.chosen("keras")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("net.json", b"{"),
        ("net.json", b"\xff"),
        ("net.json", b"[]"),
        ("net.json", b'{"net": "../keras"}'),
        ("net.json", b'{"net": "keras", "dataset": "../mnist"}'),
        ("history.csv", b""),
        ("history.csv", b"epoch,loss\n1,x\n"),
        ("summary.txt", b"\xff"),
        ("weights.npz", b"PK"),
    ],
)
def test_a_trained_net_with_a_broken_file_is_refused_in_one_line(place, name, content):
    folder = paths.RUNS / "keras"
    trained.save(trained.Trained("keras", "mnist", ("relu",), {"W": np.eye(2)}, {"loss": [0.5]}, ""), folder)
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=r"^data/runs/keras") as caught:
        trained.load(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_link_in_the_place_of_an_output_is_replaced_and_not_followed(place):
    other = place / "other"
    other.write_text("other")
    (place / "out").symlink_to(other)
    with files.replacing(place / "out") as new:
        new.write_text("new")
    assert (other.read_text(), (place / "out").read_text()) == ("other", "new")
    shutil.rmtree(place, ignore_errors=True)
