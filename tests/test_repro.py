"""`dvc repro` and `dvc exp run` in real clones of the project: what runs, what stays, what a mistake leaves."""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from repro_project import FAILED, STAGES, Project, copied, errors, ran

from pipeline import summary
from pipeline.files import file_md5

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(small, tmp_path) -> Project:
    """A copy of the small clone, reproduced and committed, for one test."""
    return copied(small, tmp_path / "project")


@pytest.fixture(scope="module")
def rewidened(small, tmp_path_factory):
    """A copy of the small clone in which keras.units was edited and `dvc repro` called: the project, what it said."""
    project = copied(small, tmp_path_factory.mktemp("rewidened") / "project")
    project.edit("conf/keras/default.yaml", "units: 16", "units: 8")
    return project, project.repro()


def test_repro_makes_every_output(small):
    stages = yaml.safe_load(small.read("dvc.yaml"))["stages"]
    listed = [out for stage in stages.values() for out in [*stage.get("outs", []), *stage.get("metrics", [])]]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in listed]
    assert len(outs) > 10
    assert [out for out in outs if not (small.root / out).exists()] == []


def test_repro_changes_nothing_that_git_knows_but_params_and_lock(small):
    assert set(small.git_status().split()) <= {"M", "params.yaml", "dvc.lock"}


def test_a_second_repro_runs_nothing(small):
    again = small.repro()
    assert ran(again) == []
    assert re.findall(r"Stage '(\w+)' didn't change", again.stdout) == STAGES
    assert "up to date" in small.dvc("status").stdout


def test_both_trainings_are_finished_runs_with_test_metrics(small):
    runs = small.query("SELECT run_uuid, status FROM runs")
    assert [status for _, status in runs] == ["FINISHED", "FINISHED"]
    for run_id, _ in runs:
        keys = {key for (key,) in small.query(f"SELECT key FROM latest_metrics WHERE run_uuid = '{run_id}'")}
        assert {"loss", "val_accuracy", "test_accuracy", "test_f1"} <= keys
        artifacts = small.root / "mlartifacts" / run_id / "artifacts"
        ((lock_md5,),) = small.query(f"SELECT value FROM tags WHERE key = 'dvc.lock_md5' AND run_uuid = '{run_id}'")
        assert file_md5(artifacts / "dvc.lock") == lock_md5
        pictures = artifacts / "pictures"
        assert {"learning_curves.png", "confusion_matrix.png"} <= {path.name for path in pictures.iterdir()}


def test_metrics_show_names_both_nets_figures(small):
    files = small.json("metrics", "show")[""]["data"]
    keras, scratch = (files[f"data/reports/{net}_metrics.json"]["data"] for net in ("keras", "scratch"))
    assert {"test_accuracy", "test_loss", "train_test_gap"} <= keras.keys() & scratch.keys()
    assert "test_roc_auc" in scratch
    assert "test_roc_auc" not in keras
    for digit in range(10):
        per_class = files[f"data/reports/keras_per_class/{digit}.json"]["data"]
        assert per_class.keys() == {"test_precision", "test_recall", "test_f1"} <= keras.keys()
    assert max(map(len, small.dvc("metrics", "show").stdout.splitlines())) < 200


def test_plots_show_draws_learning_curves_and_confusion_matrices(project):
    plots = project.json("plots", "show")["data"]
    curves = plots["learning curves of the Keras net (loss)"][0]["content"]["data"]["values"]
    assert {(row["epoch"], row["field"]) for row in curves} == {
        (epoch, key) for epoch in ("1", "2") for key in ("loss", "val_loss")
    }
    matrix = plots["data/reports/scratch_predictions.csv"][0]["content"]
    assert len(matrix["data"]["values"]) == 100
    project.dvc("plots", "show")
    page = (project.root / "dvc_plots/index.html").read_text()
    for title in (
        "learning curves of the from-scratch net",
        "learning curves of the Keras net",
        "confusion matrix of the from-scratch net",
        "confusion matrix of the Keras net",
    ):
        assert title in page
    assert project.git_status() == ""  # the page is ignored


def test_exp_show_tabulates_metrics_and_params(small):
    (table,) = csv.DictReader(small.dvc("exp", "show", "--csv").stdout.splitlines()[:2])
    assert table["keras.units"] == "16"
    assert float(table["data/reports/keras_metrics.json:test_accuracy"]) > 0.3


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("conf/keras/default.yaml", "# The lesson's Keras MLP", "# Our Keras MLP"),
        ("conf/tracking/local.yaml", "experiment: neural-nets", "experiment: others"),
    ],
)
def test_a_comment_or_a_tracking_setting_runs_compose_alone(project, file, old, new):
    data = project.bytes_of("data")
    project.edit(file, old, new)
    assert ran(project.repro()) == ["compose"]
    assert project.bytes_of("data") == data
    assert ran(project.repro()) == []


def test_an_edited_key_is_told_and_runs_the_stages_that_read_it(rewidened):
    project, done = rewidened
    assert "keras.units: 16 → 8" in done.stderr.splitlines()
    assert ran(done) == ["compose", "train_keras", "evaluate"]
    assert "(None, 8)" in (project.root / "data/runs/keras/summary.txt").read_text()
    assert project.n_runs() == 3


def test_metrics_and_plots_diff_set_two_commits_side_by_side(rewidened):
    project, _ = rewidened
    changed = project.json("metrics", "diff")
    loss = changed["data/reports/keras_metrics.json"]["test_loss"]
    assert loss["diff"] == loss["new"] - loss["old"] != 0
    assert "data/reports/scratch_metrics.json" not in changed
    curves = project.json("plots", "diff")["data"]["learning curves of the Keras net (loss)"]
    values = curves[0]["content"]["data"]["values"]
    assert {(row["rev"], row["epoch"]) for row in values} == {
        (rev, epoch) for rev in ("HEAD", "workspace") for epoch in ("1", "2")
    }
    by_rev = [[row["loss"] for row in values if row["rev"] == rev and row["loss"]] for rev in ("HEAD", "workspace")]
    assert by_rev[0] != by_rev[1]


def test_earlier_settings_bring_the_earlier_training_back(rewidened, small, tmp_path):
    project = copied(rewidened[0], tmp_path / "project")
    project.edit("conf/keras/default.yaml", "units: 8", "units: 16")
    done = project.repro()
    assert ran(done) == ["compose"]
    assert "Stage 'train_keras' is cached" in done.stdout
    for folder in ("data/runs", "data/reports"):
        assert [*project.bytes_of(folder).values()] == [*small.bytes_of(folder).values()]
    assert project.n_runs() == 3


@pytest.mark.slow
def test_another_dataset_retrains_its_net_alone(project):
    project.edit("conf/scratch/default.yaml", "dataset: synthetic", "dataset: mnist")
    assert ran(project.repro()) == ["compose", "preprocess", "train_scratch", "evaluate"]
    assert json.loads(project.read("data/runs/scratch/net.json"))["activations"] == ["tanh", "softmax"]
    assert ran(project.repro()) == []


def test_the_other_datasets_settings_do_not_retrain_a_net(project):
    project.edit("conf/synthetic/lesson.yaml", "n_train: 200", "n_train: 150")
    assert ran(project.dvc("repro", "preprocess")) == ["compose", "synthesize", "preprocess"]
    status = project.json("status")
    assert status["train_scratch"] == [{"changed deps": {"data/prepared/scratch.json": "modified"}}]
    assert "train_keras" not in status


def test_deleted_data_and_cache_come_again_to_the_byte(project):
    lock = project.read("dvc.lock")
    shutil.rmtree(project.root / "data")
    shutil.rmtree(project.root / ".dvc/cache")
    assert set(STAGES[1:]) <= set(ran(project.repro()))
    assert project.read("dvc.lock") == lock
    assert project.git_status() == ""


def test_an_experiments_override_outlives_compose(project):
    done = project.dvc("exp", "run", "--name", "narrow", "-S", "keras.units=8", "compose")
    assert "experiment: keras.units: 16 → 8" in done.stderr.splitlines()
    assert project.params()["keras"]["units"] == 8
    rows = {row["Experiment"]: row for row in csv.DictReader(project.dvc("exp", "show", "--csv").stdout.splitlines())}
    assert rows["narrow"]["keras.units"] == "8"
    listed = project.call(project.root, "python", "-m", "pipeline.experiments", env={"COLUMNS": "100"}).stdout
    assert max(map(len, listed.splitlines())) <= 100
    heads, titles = listed.split("\n")[1:3]
    assert re.findall(r"\S+", heads) == ["scratch", "scratch", "scratch", "keras", "keras", "keras"]
    assert re.findall(r"\S+", titles) == ["experiment", *["acc.", "loss", "gap"] * 2, "keras.units"]
    (narrow,) = [line.split() for line in listed.splitlines() if line.split()[:1] == ["narrow"]]
    assert narrow[-1] == "8"


@pytest.mark.slow
def test_queued_experiments_are_tracked_with_the_others(project):
    before = {path: project.read(path) for path in ("params.yaml", "dvc.lock")}
    project.dvc("exp", "run", "--queue", "-S", "scratch.n_hidden=3,4")
    assert project.n_runs() == 2
    project.dvc("exp", "run", "--run-all")
    assert {path: project.read(path) for path in before} == before
    found = project.query("SELECT run_uuid, value FROM params WHERE key = 'n_hidden' AND value IN ('3', '4')")
    assert {value for _, value in found} == {"3", "4"}
    assert project.n_runs() == 4
    for run_id, _ in found:
        assert project.query(f"SELECT status FROM runs WHERE run_uuid = '{run_id}'") == [("FINISHED",)]


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy_is_tracked_with_the_others(project):
    before = {path: project.read(path) for path in ("params.yaml", "dvc.lock")}
    done = project.dvc("exp", "run", "--temp", "--name", "away", "-S", "scratch.n_hidden=3")
    assert "train_scratch" in ran(done)
    assert {path: project.read(path) for path in before} == before
    found = project.query("SELECT run_uuid FROM params WHERE key = 'n_hidden' AND value = '3'")
    assert len(found) == 1
    assert project.n_runs() == 3
    (status,) = project.query(f"SELECT status FROM runs WHERE run_uuid = '{found[0][0]}'")
    assert status == ("FINISHED",)


def test_a_named_experiment_composes(project):
    project.dvc("exp", "run", "-S", "experiment=quick", "compose")
    assert project.params()["keras"]["units"] == 64
    assert project.params()["scratch"]["epochs"] == 50


def test_an_unknown_named_experiment_is_refused(project):
    done = project.dvc("exp", "run", "-S", "experiment=quikc", "compose", code=FAILED)
    assert "quikc" in done.stderr


def test_a_refused_experiment_leaves_the_params_of_conf(project):
    before = project.read("params.yaml")
    done = project.dvc("exp", "run", "-S", "keras.epochs=0", code=FAILED)
    assert "keras.epochs: a whole number ≥ 1 is needed, but got 0; see conf/keras/" in done.stderr
    assert project.read("params.yaml") == before
    assert ran(project.repro()) == []


@pytest.mark.slow
def test_a_pull_without_the_prepared_data_still_trains(project, tmp_path):
    project.dvc("remote", "add", "-d", "store", str(tmp_path / "remote"))
    project.dvc("push")
    project.edit("conf/keras/default.yaml", "units: 16", "units: 8")
    shutil.rmtree(project.root / "data")
    shutil.rmtree(project.root / ".dvc/cache")
    done = project.dvc("repro", "--pull", "--allow-missing")
    assert ran(done) == ["compose", "train_keras", "evaluate"]
    assert not (project.root / "data/prepared/mnist.npz").exists()


def test_params_edited_by_hand_are_refused_and_kept(project):
    project.edit("params.yaml", "units: 16", "units: 64")
    edited = project.read("params.yaml")
    done = project.repro(FAILED)
    (line,) = errors(done)
    assert "keras.units: 16 → 64" in line
    assert "conf/keras/" in line
    assert ran(done) == ["compose"]
    assert project.read("params.yaml") == edited


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "conf/keras/default.yaml",
            "activation: relu",
            "activation: swish",
            "keras.activation: one of relu, tanh, sigmoid is needed, but got 'swish'; see conf/keras/",
        ),
        (
            "conf/scratch/default.yaml",
            "n_hidden: 10",
            "n_hiden: 10",
            "scratch.n_hiden: unknown key (did you mean n_hidden?); see conf/scratch/",
        ),
    ],
)
def test_a_bad_setting_fails_in_compose_before_any_data_is_touched(project, file, old, new, message):
    before = project.bytes_of("data"), project.read("params.yaml"), project.read("dvc.lock")
    project.edit(file, old, new)
    done = project.repro(FAILED)
    assert errors(done) == [f"error: {message}"]
    assert ran(done) == ["compose"]
    assert (project.bytes_of("data"), project.read("params.yaml"), project.read("dvc.lock")) == before


def test_a_broken_csv_fails_in_fetch_and_the_earlier_data_stay(project):
    broken = project.root / "mine.csv"
    broken.write_text("label,1x1\n5,256\n")
    raw = project.bytes_of("data/raw")
    for key, value in (("source", "digits"), ("train_csv", "null"), ("test_csv", "null")):
        file = "digits" if key == "source" else "full"
        project.edit(
            f"conf/mnist/{file}.yaml", f"\n{key}: {value}", f"\n{key}: {'csv' if key == 'source' else broken}"
        )
    done = project.repro(FAILED)
    (line,) = errors(done)
    assert str(broken) in line
    assert ran(done) == ["compose", "fetch"]
    assert project.bytes_of("data/raw") == raw


def test_a_diverging_training_is_one_line_and_a_failed_run(project):
    before = project.bytes_of("data")
    project.edit("conf/scratch/default.yaml", "activation: tanh", "activation: relu")
    project.edit("conf/scratch/default.yaml", "learning_rate: 0.01", "learning_rate: 1.0e+200")
    project.edit("conf/scratch/default.yaml", "epochs: 4", "epochs: 9")
    done = project.repro(FAILED)
    (line,) = errors(done)
    assert re.search(r"scratch: epoch 1 of 9: .* no longer finite", line)
    assert "learning_rate 1e+200" in line
    (run,) = project.query("SELECT run_uuid FROM runs WHERE status = 'FAILED'")
    ((error,),) = project.query(f"SELECT value FROM tags WHERE key = 'error' AND run_uuid = '{run[0]}'")
    assert error == f"TrainingError: {line.removeprefix('error: ')}"
    assert project.bytes_of("data") == before  # the earlier net stays
    assert ran(project.dvc("repro", "--dry")) == ["train_scratch"]


def readme_table() -> dict[str, list[float]]:
    """Return the figures of each net that the README promises."""
    rows = re.findall(r"^│ (\w+) +│ \w+ +│(.*)│$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return {net: [float(figure) for figure in figures.split("│")] for net, figures in rows}


def make_repro(project: Project):
    """Call `make repro` in a clone that shares this project's .venv, and see that it installs nothing."""
    (project.root / ".venv").symlink_to(ROOT / ".venv")
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copystat(ROOT / name, project.root / name)  # a copy would be newer than what is installed
    assert "pip install" not in project.call(project.root, "make", "-n", "repro").stdout
    done = project.call(project.root, "make", "repro")
    for net, dataset in (("scratch", "synthetic"), ("keras", "mnist")):
        assert re.search(rf"│ {net} +│ {dataset} +│ 0\.9", done.stdout)


def test_a_fresh_clone_reproduces_the_lessons_figures_on_mnist(clone, call, tmp_path):
    project = Project(clone(tmp_path / "fresh"), call)
    locked = yaml.safe_load(project.read("dvc.lock")) if (project.root / "dvc.lock").exists() else None
    fetch = call(project.root, "sh", "-c", f"dvc repro fetch 2>&1 || test $? -eq {FAILED}")
    if "MNIST could not be had" in fetch.stdout:
        reason = next(line for line in fetch.stdout.splitlines() if "MNIST could not be had" in line)
        (pytest.fail if os.environ.get("MNIST") == "required" else pytest.skip)(reason)
    if Path(sys.prefix) == ROOT / ".venv" and (ROOT / ".venv/installed").exists():  # as under `make test`
        make_repro(project)
    else:
        project.repro()

    metrics = project.json("metrics", "show")[""]["data"]
    assert metrics["data/reports/keras_metrics.json"]["data"]["test_accuracy"] >= 0.978
    assert metrics["data/reports/scratch_metrics.json"]["data"]["test_accuracy"] >= 0.94
    layers = (project.root / "data/runs/keras/summary.txt").read_text()
    assert all(figure in layers for figure in ("401,920", "5,130", "407,050"))
    assert ran(project.repro()) == []
    assert project.git_status() in ("", " M dvc.lock\n")  # another machine has other last bits in its weights
    if locked:
        now = yaml.safe_load(project.read("dvc.lock"))
        for stage in ("compose", "fetch", "load"):
            assert now["stages"][stage]["outs"] == locked["stages"][stage]["outs"]
    same_bits = locked and now["stages"]["evaluate"]["outs"] == locked["stages"]["evaluate"]["outs"]
    promised = readme_table()
    assert promised.keys() == {"scratch", "keras"}
    for net, figures in promised.items():
        found = metrics[f"data/reports/{net}_metrics.json"]["data"]
        assert figures == pytest.approx([found[name] for name in summary.COLUMNS], abs=1e-4 if same_bits else 5e-3)
