"""The table that `make repro` ends with."""

import json
import sys
from pathlib import Path

import pytest

from pipeline import summary

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {"test_accuracy": 0.98125, "test_loss": 0.0685, "test_f1": 0.9809, "train_test_gap": 0.017}


def write(root, net, dataset):
    for path, content in (
        (f"data/reports/{net}_metrics.json", FIGURES),
        (f"data/runs/{net}/net.json", {"dataset": dataset}),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content))


@pytest.fixture
def shown(call, tmp_path):
    """Return a function that calls `python -m pipeline.summary` in tmp_path."""
    env = {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return lambda code=0: call(tmp_path, sys.executable, "-m", "pipeline.summary", code=code, env=env)


def test_a_row_a_net_with_its_dataset_and_figures():
    table = summary.run({"scratch": FIGURES, "keras": FIGURES}, {"scratch": "synthetic", "keras": "mnist"})
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0] == ("scratch", "synthetic", "0.9812", "0.0685", "0.9809", "0.0170")
    assert rows[1][:2] == ("keras", "mnist")


def test_it_prints_the_table_and_where_to_look_next(tmp_path, shown):
    write(tmp_path, "scratch", "synthetic")
    write(tmp_path, "keras", "mnist")
    said = shown().stdout
    assert "test accuracy" in said
    assert "synthetic" in said
    assert "0.9812" in said
    for command in (
        "dvc metrics show",
        "dvc plots show",
        "make ui",
        "python -m pipeline.train",
        "data/reports/pictures/",
    ):
        assert command in said


def test_without_results_it_says_how_to_make_them(tmp_path, shown):
    write(tmp_path, "scratch", "synthetic")
    done = shown(code=1)
    assert done.stderr == "error: data/reports/keras_metrics.json: no such file; `dvc repro` makes it\n"
    assert done.stdout == ""
