"""The benchmarks: the cheap parts run, the columns of a stage add up, and nothing is left in the environment."""

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import data, measure, nets
from bench.__main__ import table
from bench.stage import Clock
from pipeline import compose, config, paths

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the project's settings and small CSVs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / config.PARAMS_FILE).write_text(compose.run(ROOT / "conf"))
    paths.TRAIN_CSV.parent.mkdir(parents=True)
    head = ",".join(["label", *(f"{i}x{j}" for i in range(28) for j in range(28))])
    paths.TRAIN_CSV.write_text(
        "\n".join([head, *(",".join(map(str, [i % 10] + [i] * 784)) for i in range(50))]) + "\n"
    )
    return tmp_path


def test_the_csv_is_read_in_three_ways(project):
    found = data.csv_to_arrays(1)
    assert {"pipeline, s", "pandas, s", "bytes, s", "pipeline / pandas", "pipeline / bytes"} == found.keys()
    assert all(value > 0 for value in found.values())
    assert table("csv", found).row_count == 5


def test_a_from_scratch_step_stands_beside_one_that_computes_as_little(project, monkeypatch):
    monkeypatch.setattr(nets, "PASSES", 1)
    found = nets.scratch_steps(1)
    assert {"step / plain step", "training / plain loop", "training, shuffled / MLPClassifier"} <= found.keys()
    assert found["step / plain step"] == pytest.approx(found["step, µs"] / found["plain step, µs"])


def test_the_parts_of_a_stage_add_up_and_each_moment_counts_once():
    clock = Clock("imports", "tracking")
    load = clock.around("imports", lambda: time.sleep(0.02))

    @contextmanager
    def run():
        load()  # by tracking: a part of it
        yield
        time.sleep(0.02)

    start = time.perf_counter()
    load()
    with clock.around("tracking", run)():
        time.sleep(0.05)  # work
    whole = time.perf_counter() - start
    assert clock.seconds["imports"] >= 0.02
    assert clock.seconds["tracking"] >= 0.04
    assert whole - sum(clock.seconds.values()) >= 0.05


def test_a_stage_is_split_into_what_it_waits_for(project):
    (project / "conf").symlink_to(ROOT / "conf")
    (project / config.PARAMS_FILE).unlink()
    command = [sys.executable, "-m", "bench.stage", "compose", "split.json"]
    wall = measure.process(command, project, {"PYTHONPATH": str(ROOT)})
    parts, peak = json.loads((project / "split.json").read_text())
    assert parts.keys() == {"imports, s", "tracking, s", "work, s"}
    assert parts["imports, s"] > 0 < parts["work, s"]
    assert sum(parts.values()) < wall
    assert peak > 10


def test_what_a_failing_process_says_is_shown():
    with pytest.raises(RuntimeError, match="exit code 1\nno such net"):
        measure.output([sys.executable, "-c", "raise SystemExit('no such net')"], Path())
