from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import compose, dataset, fetch, files, mnist_csv, paths, preprocess, synthesize
from pipeline.config import Settings, parse

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def settings() -> Settings:
    return parse(yaml.safe_load(compose.run(CONF, ["mnist=digits"])))


def assert_equal(got: files.Arrays, expected: files.Arrays) -> None:
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


def test_synthetic_is_what_the_stages_write(settings: Settings) -> None:
    expected = preprocess.run(settings.preprocess, settings.seed, synthesize.run(settings.synthetic))
    assert_equal(dataset.make(settings, "synthetic"), expected)
    assert expected["X_val"].shape == (400, 20)


def test_overridden_settings_take_effect(settings: Settings) -> None:
    synthetic = replace(settings.synthetic, n_samples=50, n_train=40)
    made = dataset.make(replace(settings, synthetic=synthetic), "synthetic")
    assert (len(made["X_train"]), len(made["X_val"]), len(made["X_test"])) == (36, 4, 10)


def test_digits_are_made_in_memory(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = preprocess.run(settings.preprocess, settings.seed, fetch.small_digits())
    assert_equal(dataset.make(settings, "mnist"), expected)
    assert not list(tmp_path.iterdir())


def test_raw_files_that_the_settings_would_fetch_spare_the_download(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = fetch.small_digits()
    for path, part in ((paths.TRAIN_CSV, "train"), (paths.TEST_CSV, "test")):
        path.parent.mkdir(parents=True, exist_ok=True)
        mnist_csv.write(path, raw[f"X_{part}"], raw[f"y_{part}"])
    digests = {path: fetch.file_sha256(path) for path in fetch.CSV_SHA256}
    monkeypatch.setattr(fetch, "CSV_SHA256", digests)  # as if these were MNIST's
    monkeypatch.setattr(fetch, "DOWNLOADS", {})
    auto = replace(settings, mnist=replace(settings.mnist, source="auto"))
    assert_equal(dataset.make(auto, "mnist"), preprocess.run(settings.preprocess, settings.seed, raw))
