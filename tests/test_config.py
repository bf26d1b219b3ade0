"""Settings: what is allowed passes unchanged; all else is refused in one line that says how to mend it."""

from dataclasses import FrozenInstanceError

import pytest
import yaml

from pipeline import compose, config
from pipeline.errors import SettingsError


@pytest.fixture
def composed() -> dict:
    return yaml.safe_load(compose.run())


def put(mapping: dict, key: str, value: object) -> dict:
    *sections, name = key.split(".")
    inner = mapping
    for section in sections:
        inner = inner[section]
    inner[name] = value
    return mapping


def test_params_survive_parsing(composed):
    settings = config.parse(composed)
    assert config.parse(config.to_dict(settings)) == settings
    assert settings.keras.units == (512,)
    assert settings.synthetic.random_state == 123


def test_settings_are_frozen(composed):
    with pytest.raises(FrozenInstanceError):
        config.parse(composed).seed = 1


def test_whole_numbers_become_floats_where_a_float_is_meant(composed):
    learning_rate = config.parse(put(composed, "scratch.learning_rate", 1)).scratch.learning_rate
    assert isinstance(learning_rate, float)


def test_zero_is_a_seed(composed):
    assert config.parse(put(composed, "seed", 0)).seed == 0


def test_several_layers_are_a_tuple(composed):
    assert config.parse(put(composed, "keras.units", [256, 128])).keras.units == (256, 128)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("keras.epochs", 0, "keras.epochs: a whole number ≥ 1 is needed, but got 0; see conf/keras/"),
        ("scratch.epochs", 1.5, "scratch.epochs: a whole number ≥ 1 is needed, but got 1.5; see conf/scratch/"),
        ("keras.batch_size", 0, "keras.batch_size: a whole number ≥ 1 is needed, but got 0"),
        ("keras.batch_size", "128", "keras.batch_size: a whole number ≥ 1 is needed, but got '128'"),
        ("keras.batch_size", True, "keras.batch_size: a whole number ≥ 1 is needed, but got True"),
        ("scratch.learning_rate", 0, "scratch.learning_rate: a finite number > 0 is needed, but got 0"),
        ("scratch.learning_rate", -0.1, "scratch.learning_rate: a finite number > 0 is needed, but got -0.1"),
        ("keras.learning_rate", float("nan"), "keras.learning_rate: a finite number > 0 is needed, but got nan"),
        ("keras.learning_rate", float("inf"), "keras.learning_rate: a finite number > 0 is needed, but got inf"),
        ("keras.learning_rate", None, "keras.learning_rate: a finite number > 0 is needed, but got None"),
        ("preprocess.validation_fraction", 1, "preprocess.validation_fraction: a number in [0, 1) is needed"),
        ("preprocess.validation_fraction", -0.1, "preprocess.validation_fraction: a number in [0, 1) is needed"),
        ("keras.dropout", 1.0, "keras.dropout: a number in [0, 1) is needed, but got 1.0"),
        ("keras.l2", -1, "keras.l2: a finite number ≥ 0 is needed, but got -1"),
        ("scratch.activation", "gelu", "scratch.activation: one of tanh, sigmoid, relu is needed, but got 'gelu'"),
        ("keras.optimizer", "lion", "keras.optimizer: one of rmsprop, adam, sgd is needed, but got 'lion'"),
        ("scratch.dataset", "iris", "scratch.dataset: one of mnist, synthetic is needed, but got 'iris'"),
        ("net", "linear", "net: one of scratch, keras is needed, but got 'linear'; see conf/config.yaml"),
        ("seed", -1, "seed: a whole number from 0 to 4294967295 is needed, but got -1; see conf/config.yaml"),
        ("keras.units", [], "keras.units: a whole number ≥ 1, or a list of them is needed, but got []"),
        ("keras.units", [64, 0], "keras.units: a whole number ≥ 1, or a list of them is needed, but got [64, 0]"),
        ("keras.unit", 64, "keras.unit: unknown key (did you mean units?); see conf/keras/"),
        ("sed", 1, "sed: unknown key (did you mean seed?); see conf/config.yaml"),
        ("keras", 3, "keras: a section of settings is needed, but got 3"),
        ("synthetic.n_train", 5000, "synthetic.n_train: less than n_samples (5000) is needed, but got 5000"),
        ("synthetic.n_redundant", 1, "synthetic.n_features: at least n_informative + n_redundant (21) is needed"),
        ("mnist.train_csv", "a.csv", "mnist.train_csv and mnist.test_csv go together"),
        ("mnist.source", "csv", "mnist.source: csv needs mnist.train_csv and mnist.test_csv"),
        ("mnist.label_column", "y", "mnist.label_column: null is needed where no CSVs are named, but got 'y'"),
        ("keras", None, "keras: a section of settings is needed, but got None"),
        ("synthetic", {}, "synthetic: keys are missing: n_samples, n_features, n_informative, n_redundant, "),
    ],
)
def test_bad_setting_is_one_line(composed, key, value, message):
    with pytest.raises(SettingsError) as caught:
        config.parse(put(composed, key, value))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(message)


def test_early_stopping_needs_validation_rows(composed):
    put(composed, "preprocess.validation_fraction", 0)
    with pytest.raises(SettingsError, match=r"keras.early_stopping: null is needed where .* but got 3"):
        config.parse(put(composed, "keras.early_stopping", 3))


def test_missing_key_is_named(composed):
    del composed["scratch"]["epochs"]
    with pytest.raises(SettingsError, match=r"^scratch.epochs: this key is missing; see conf/scratch/$"):
        config.parse(composed)


def test_a_misspelt_key_is_one_mistake(composed):
    composed["scratch"]["n_hiden"] = composed["scratch"].pop("n_hidden")
    with pytest.raises(SettingsError, match=r"^scratch.n_hiden: unknown key \(did you mean n_hidden\?\)\S* see \S+$"):
        config.parse(composed)


@pytest.mark.parametrize(
    "uri", ["http://ann:secret@host:5000", "postgresql://ann:secret@db/x", "https://host?t=secret"]
)
def test_an_address_with_a_password_is_refused_and_not_repeated(composed, uri):
    with pytest.raises(
        SettingsError, match=r"^tracking\.uri: an address without user.* MLFLOW_TRACKING_URI"
    ) as caught:
        config.parse(put(composed, "tracking.uri", uri))
    assert "secret" not in str(caught.value)


def test_csvs_are_named_for_a_source_that_reads_them(composed):
    for key in ("train_csv", "test_csv"):
        put(composed, f"mnist.{key}", "a.csv")
    put(composed, "mnist.source", "digits")
    with pytest.raises(SettingsError, match=r"^mnist\.source: auto or csv is needed .* but got digits"):
        config.parse(composed)


def test_all_mistakes_are_told_at_once(composed):
    put(composed, "keras.epochs", 0)
    put(composed, "scratch.epochs", 0)
    with pytest.raises(SettingsError) as caught:
        config.parse(composed)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "3\n", ""])
def test_params_that_are_no_mapping_are_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="is needed, but"):
        config.load_params(path)


def test_yaml_builds_no_objects(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(SettingsError, match="YAML is needed"):
        config.load_params(path)


def test_a_value_is_shown_in_a_moment_however_large_it_is():
    value: list = ["x"] * 10
    for _ in range(12):
        value = [value] * 10
    assert len(config.shown(value)) == config.MAX_SHOWN + 1
    assert config.shown("x" * 10**7) == f"'{'x' * (config.MAX_SHOWN - 1)}…"


def test_an_asterisk_is_no_alias(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 2 * 3  # *b\nb: '*b'\nc: &c 1\n")
    assert config.read_yaml(path) == {"a": "2 * 3", "b": "*b", "c": 1}


def test_missing_params_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro compose"):
        config.load_params(tmp_path / "params.yaml")
