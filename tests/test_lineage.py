"""Lineage: the code as it is, with every change, and nothing in the checkout touched by asking."""

import hashlib
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import yaml

from pipeline import compose, config, lineage


def git(root, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit of a text, a binary and an ignored file."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "code.py").write_text("x = 1\n")
    (root / "Grüße.txt").write_text("a\n")
    (root / "image.bin").write_bytes(bytes(range(256)))
    (root / ".gitignore").write_text("ignored/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_a_clean_checkout_has_no_diff(checkout):
    code = lineage.read_code(checkout)
    assert code.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert code.diff == ""


def test_the_diff_makes_the_tree_again(checkout, tmp_path):
    (checkout / "code.py").write_bytes(b"x = 2  # \xff is no UTF-8\n")
    (checkout / "Grüße.txt").unlink()
    (checkout / "image.bin").write_bytes(bytes(range(255, -1, -1)))
    (checkout / "new module.py").write_text("y = 3\n")
    (checkout / "ignored").mkdir()
    (checkout / "ignored/noise").write_text("noise")
    git(checkout, "add", "image.bin")
    before = git(checkout, "status", "--porcelain")
    diff = lineage.read_code(checkout).diff
    assert git(checkout, "status", "--porcelain") == before

    again = tmp_path / "again"
    git(checkout, "worktree", "add", "-q", "--detach", str(again), "HEAD")
    patch = tmp_path / "patch"
    patch.write_text(diff, encoding="utf-8", errors="surrogateescape")
    git(again, "apply", "--binary", str(patch))
    names = sorted(path.name for path in again.iterdir() if path.name != ".git")
    assert names == [".gitignore", "code.py", "image.bin", "new module.py"]
    for name in names:
        assert (again / name).read_bytes() == (checkout / name).read_bytes()


def test_an_edit_of_which_time_and_size_tell_nothing_is_seen(checkout):
    """As in a copy of the project that `dvc exp run --temp` has made: git itself does not see it there."""
    file = checkout / "code.py"
    git(checkout, "config", "core.trustctime", "false")
    os.utime(file, (1e9, 1e9))
    git(checkout, "update-index", "--refresh")
    file.write_text("x = 7\n")
    os.utime(file, (1e9, 1e9))
    assert git(checkout, "status", "--porcelain") == ""
    assert "+x = 7" in lineage.read_code(checkout).diff


def test_large_untracked_files_are_data_unless_they_stand_where_code_does(checkout):
    for name in ("data.csv", "pipeline/nn/start.npy"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"0" * (lineage.LARGEST_UNTRACKED + 1))
    code = lineage.read_code(checkout)
    assert (code.diff, code.left_out, code.unread) == ("", ("pipeline/nn/start.npy (over 1 MiB)",), ())


def test_many_untracked_files_are_taken_smallest_first_up_to_a_limit(checkout, monkeypatch):
    monkeypatch.setattr(lineage, "MOST_UNTRACKED", 10)
    (checkout / "a.txt").write_text("1234567\n")
    (checkout / "z.txt").write_text("x\n")
    assert lineage.read_code(checkout).unread == ()
    (checkout / "y.txt").write_text("y\n")
    code = lineage.read_code(checkout)
    assert code.unread == (f"a.txt ({lineage.MANY})",)
    assert "b/z.txt" in code.diff
    assert "b/y.txt" in code.diff
    assert "a.txt" not in code.diff


def test_a_file_with_a_password_in_an_address_is_left_out_and_named(checkout):
    (checkout / "code.py").write_text("STORE = 'postgresql://ann:secret@db/x'\n")
    (checkout / "Grüße.txt").write_text("b\n")
    (checkout / "conf").mkdir()
    (checkout / "conf/new study.yaml").write_text("storage: postgresql://ann:secret@db/x\n")
    code = lineage.read_code(checkout)
    assert code.left_out == (f"conf/new study.yaml ({lineage.SECRET})",)
    assert code.unread == (f"code.py ({lineage.SECRET})",)
    assert "Grüße.txt" in code.diff
    assert "secret" not in code.diff
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "by mistake")
    (checkout / "code.py").write_text("x = 1\n")  # the line that goes stands in a diff, too
    assert lineage.read_code(checkout).unread == (f"code.py ({lineage.SECRET})",)


def test_of_a_file_that_became_a_link_the_diff_has_both_parts_or_none(checkout):
    (checkout / "code.py").write_text("STORE = 'postgresql://ann:secret@db/x'\n")
    git(checkout, "commit", "-q", "-a", "-m", "by mistake")
    (checkout / "code.py").unlink()
    (checkout / "code.py").symlink_to("image.bin")
    assert lineage.read_code(checkout).diff == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.context", "0"),
        ("diff.interHunkContext", "9"),
        ("diff.orderFile", "missing"),
        ("diff.external", "false"),
        ("diff.loud.textconv", "tr a-z A-Z <"),
        ("color.ui", "always"),
    ],
)
def test_users_own_diff_settings_change_no_diff(checkout, key, value):
    lines = ["x = 1\n", *(f"y = {i}\n" for i in range(12)), "z = 1\n"]
    (checkout / "code.py").write_text("".join(lines))
    git(checkout, "commit", "-q", "-a", "-m", "longer")
    (checkout / "code.py").write_text("".join(["x = 2\n", *lines[1:-1], "z = 2\n"]))
    (checkout / ".git/info/attributes").write_text("*.py diff=loud\n")
    before = lineage.read_code(checkout)
    assert before.diff.count("@@ -") == 2
    git(checkout, "config", key, value)
    assert lineage.read_code(checkout) == before


def test_the_length_of_a_diffs_context_is_not_the_environments(checkout, monkeypatch):
    (checkout / "code.py").write_text("x = 1\nx = 2\n")
    before = lineage.read_code(checkout)
    monkeypatch.setenv("GIT_DIFF_OPTS", "-u0")
    assert lineage.read_code(checkout) == before


@pytest.mark.parametrize("commits", [0, 1])
def test_a_repository_within_the_checkout_is_named_and_left_out(checkout, commits):
    inner = checkout / "pipeline/other"
    inner.mkdir(parents=True)
    git(inner, "init", "-q")
    (inner / "a.py").write_text("a = 1\n")
    for _ in range(commits):
        git(inner, "add", "-A")
        git(inner, "commit", "-q", "-m", "inner")
    (checkout / "code.py").write_text("x = 2\n")
    code = lineage.read_code(checkout)
    assert code.left_out == ("pipeline/other/ (a git repository of its own)",)
    assert "+x = 2" in code.diff
    assert "pipeline/other" not in code.diff


def test_a_file_that_vanishes_meanwhile_is_no_change(checkout, monkeypatch):
    (checkout / "new.py").write_text("y = 1\n")
    listed = lineage._git

    def with_another(root, *arguments, **given):
        names = listed(root, *arguments, **given)
        return names + "gone.py\0" if "--others" in arguments else names

    monkeypatch.setattr(lineage, "_git", with_another)
    code = lineage.read_code(checkout)
    assert "b/new.py" in code.diff
    assert (code.left_out, code.unread) == ((), ())


def test_where_git_makes_no_diff_the_commit_is_known_and_why(checkout):
    tree = git(checkout, "rev-parse", "HEAD^{tree}").strip()
    (checkout / ".git/objects" / tree[:2] / tree[2:]).unlink()
    code = lineage.read_code(checkout)
    assert code.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert code.diff == ""
    assert code.left_out == ("every change (error: bad tree object HEAD)",)


def test_a_dvc_lock_with_a_secret_is_named_and_only_its_digest_kept(checkout):
    settings = config.parse(yaml.safe_load(compose.run()))
    lock = "url: https://ann:secret@host/x\n"
    tags = lineage.origin(settings, lineage.Code("abc", "", lock=lock), [])
    assert tags["git.left_out_unread"] == f"dvc.lock ({lineage.SECRET})"
    assert tags["git.dirty"] == "false"
    assert tags["dvc.lock_md5"] == hashlib.md5(lock.encode()).hexdigest()


def test_of_many_left_out_files_the_first_are_named():
    assert lineage.named([f"{i}.py" for i in range(12)]).endswith("8.py, 9.py and 2 more")


@pytest.mark.parametrize(
    "name", ["dvc.lock", "params.yaml", "conf/tracking/team.yaml", ".dvc/config", ".env", "bench/.env.local"]
)
def test_what_trains_nothing_and_may_hold_a_password_is_no_code(checkout, name):
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("uri: http://ann:secret@host\n")
    code = lineage.read_code(checkout)
    assert (code.diff, code.left_out) == ("", ())
    git(checkout, "add", "-A")
    assert lineage.read_code(checkout) == code


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert lineage.read_code(tmp_path) == lineage.Code("none", "")


def test_overrides_are_what_the_committed_params_do_not_have(checkout):
    params = checkout / "params.yaml"
    params.write_text("seed: 0\nkeras:\n  units: 512\ntracking:\n  uri: null\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "params")
    assert lineage.overrides(checkout) == []
    params.write_text("seed: 0\nkeras:\n  units: [64, 32]\ntracking:\n  uri: sqlite:////x\n")
    assert lineage.overrides(checkout) == ["keras.units=[64, 32]"]


def test_settings_digest_sees_every_setting_but_tracking():
    settings = config.parse(yaml.safe_load(compose.run()))
    digest = lineage.settings_sha256(settings)
    assert lineage.settings_sha256(replace(settings, seed=1)) != digest
    assert lineage.settings_sha256(replace(settings, keras=replace(settings.keras, l2=0.5))) != digest
    elsewhere = replace(settings.tracking, experiment="other")
    assert lineage.settings_sha256(replace(settings, tracking=elsewhere)) == digest


def test_tags_name_bytes_code_settings_and_machine():
    settings = config.parse(yaml.safe_load(compose.run()))
    data = {"X_train": np.zeros((8, 2)), "X_val": np.zeros((0, 2)), "X_test": np.zeros((3, 2))}
    inputs = lineage.inputs_of("synthetic", data, "0" * 32)
    assert inputs.n_rows == {"training": 8, "testing": 3}
    tags = lineage.tags(
        settings,
        "keras",
        inputs,
        lineage.Code("abc", "diff", ("a.py", "b.py"), "stages: {}\n"),
        ["seed=1", "tracking.uri=http://a:b@c"],
    )
    assert tags["git.commit"] == "abc"
    assert tags["git.dirty"] == "true"
    assert tags["data.md5"] == "0" * 32
    assert tags["overrides"] == "seed=1"
    assert "initial.md5" not in tags
    assert {"cpu", "cpus", "threads", "python", "numpy", "tensorflow", "settings_sha256"} <= tags.keys()
    assert tags["git.left_out"] == "a.py, b.py"
    assert tags["dvc.lock_md5"] == hashlib.md5(b"stages: {}\n").hexdigest()


def test_the_threads_are_those_that_a_training_takes(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert lineage.threads_of("keras") == lineage.machine()["cpus"]
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert lineage.threads_of("keras") == "3"
    assert lineage.threads_of("scratch") == "1"
