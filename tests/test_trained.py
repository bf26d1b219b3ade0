"""A trained net as a folder: what goes in comes out, to the byte, or is refused."""

import json

import numpy as np
import pytest

from pipeline import trained
from pipeline.errors import DataError
from pipeline.files import arrays_sha256, save_arrays
from pipeline.trained import Trained

RNG = np.random.default_rng(0)
NET = Trained(
    net="keras",
    dataset="mnist",
    activations=("relu", "softmax"),
    weights={
        "dense/kernel": RNG.normal(size=(5, 4)).astype(np.float32),
        "dense/bias": RNG.normal(size=4).astype(np.float32),
        "dense_1/kernel": RNG.normal(size=(4, 3)).astype(np.float32),
        "dense_1/bias": np.array([1e-45, -0.0, 3.4e38], dtype=np.float32),
    },
    history={"loss": [2 / 3, 1e-17], "accuracy": [0.1, 1.0], "val_loss": [0.7, 1e300], "val_accuracy": [0.5, 0.25]},
    summary="dense (5, 4) – 20\n",
)
UNVALIDATED = Trained(
    "scratch", "synthetic", ("tanh", "sigmoid"), {"W1": np.eye(2)}, {"loss": [0.5], "accuracy": [0.75]}, "one\n"
)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("net", [NET, UNVALIDATED], ids=["with validation", "without"])
def test_what_is_saved_is_loaded(net, tmp_path):
    trained.save(net, tmp_path / "net")
    loaded = trained.load(tmp_path / "net")
    for field in ("net", "dataset", "activations", "history", "summary"):
        assert getattr(loaded, field) == getattr(net, field)
    assert list(loaded.weights) == list(net.weights)
    for name, array in net.weights.items():
        assert loaded.weights[name].dtype == array.dtype
        assert loaded.weights[name].tobytes() == array.tobytes()
    assert loaded.weights_sha256 == net.weights_sha256


def test_equal_nets_give_equal_bytes(tmp_path):
    for name in ("one", "other"):
        trained.save(NET, tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_nothing_but_the_four_files_is_left(tmp_path):
    trained.save(UNVALIDATED, tmp_path / "net")
    trained.save(NET, tmp_path / "net")
    assert sorted(content(tmp_path / "net")) == ["history.csv", "net.json", "summary.txt", "weights.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    assert trained.load(tmp_path / "net").net == "keras"


def test_a_run_without_validation_has_empty_val_columns(tmp_path):
    trained.save(UNVALIDATED, tmp_path / "net")
    assert (tmp_path / "net/history.csv").read_text() == "epoch,loss,accuracy,val_loss,val_accuracy\n1,0.5,0.75,,\n"


def test_history_counts_epochs_from_1(tmp_path):
    trained.save(NET, tmp_path / "net")
    rows = (tmp_path / "net/history.csv").read_text().splitlines()
    assert rows[1] == "1,0.6666666666666666,0.1,0.7,0.5"
    assert rows[2].startswith("2,1e-17,")
    assert NET.n_epochs == len(rows) - 1


def test_weights_of_another_net_are_refused(tmp_path):
    trained.save(NET, tmp_path / "net")
    changed = NET.weights | {"dense/bias": np.nextafter(NET.weights["dense/bias"], np.float32(9))}
    save_arrays(tmp_path / "net/weights.npz", changed)
    with pytest.raises(DataError, match=r"net/weights\.npz: not the weights that net\.json names"):
        trained.load(tmp_path / "net")


def test_cut_off_weights_are_refused(tmp_path):
    trained.save(NET, tmp_path / "net")
    weights = tmp_path / "net/weights.npz"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"weights\.npz"):
        trained.load(tmp_path / "net")


@pytest.mark.parametrize("missing", ["net.json", "weights.npz", "history.csv", "summary.txt"])
def test_a_missing_file_is_named(missing, tmp_path):
    trained.save(NET, tmp_path / "net")
    (tmp_path / "net" / missing).unlink()
    with pytest.raises(FileNotFoundError) as error:
        trained.load(tmp_path / "net")
    assert str(tmp_path / "net") in str(error.value)


def test_net_json_names_the_weights_by_their_digest(tmp_path):
    trained.save(NET, tmp_path / "net")
    described = json.loads((tmp_path / "net/net.json").read_text())
    assert described["weights_sha256"] == NET.weights_sha256 == arrays_sha256(NET.weights)
