"""The prepared dataset of a net: from data/, or where its file is missing, from DVC's cache."""

import json
import re

import numpy as np
import pytest

from pipeline import cache, files, paths, prepared
from pipeline.errors import DataError


@pytest.fixture
def choice(call, tmp_path, monkeypatch):
    """Stand in a DVC repository in which preprocess has run, and return the choice of a net."""
    call(tmp_path, "git", "init", "-q")
    call(tmp_path, "dvc", "init", "-q")
    monkeypatch.chdir(tmp_path)
    files.save_arrays(paths.prepared("mnist"), {"X_train": np.arange(6.0)})
    made = prepared.Choice("mnist", files.file_md5(paths.prepared("mnist")))
    paths.choice_file("keras").write_text(json.dumps({"dataset": made.dataset, "md5": made.md5}))
    return made


def test_a_net_trains_on_what_preprocess_has_chosen(choice):
    assert prepared.chosen("keras") == choice
    assert prepared.read(choice)["X_train"].tolist() == list(range(6))


def test_bytes_are_scaled_once():
    made = prepared.scaled({"X_val": np.uint8([[0, 51, 255]]), "Y_val": np.uint8([[0, 1]])})
    assert prepared.scaled(made)["X_val"] is made["X_val"]
    assert {str(array.dtype) for array in made.values()} == {"float32"}


def test_a_net_without_a_choice_says_how_to_get_one(choice):
    with pytest.raises(FileNotFoundError, match=r"data/prepared/scratch\.json: no such file; `dvc repro` makes it"):
        prepared.chosen("scratch")


def test_a_file_of_other_data_gives_way_to_the_cache(choice, tmp_path):
    cache.keep(prepared.read(choice), tmp_path)
    files.save_arrays(paths.prepared("mnist"), {"X_train": np.zeros(6)})
    assert prepared.read(choice)["X_train"].tolist() == list(range(6))


def test_a_missing_file_comes_from_the_cache(choice, tmp_path):
    cache.keep(prepared.read(choice), tmp_path)
    paths.prepared("mnist").unlink()
    assert prepared.read(choice)["X_train"].tolist() == list(range(6))
    assert not paths.prepared("mnist").exists()


def test_a_file_that_is_nowhere_is_named_with_its_md5(choice):
    paths.prepared("mnist").unlink()
    with pytest.raises(
        DataError,
        match=rf"^{re.escape(str(paths.prepared('mnist')))}: a file of md5 {choice.md5} is needed, .*; `dvc repro",
    ):
        prepared.read(choice)
