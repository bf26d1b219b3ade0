"""Stage compose in real DVC repositories: what `dvc repro` and `dvc exp run` make of an edited conf/."""

import hashlib

import pytest
import yaml

from pipeline import compose
from pipeline.config import parse
from pipeline.errors import SettingsError


@pytest.fixture
def params(tmp_path):
    """A params.yaml that compose has written, and the dvc.lock that DVC then writes."""
    path = tmp_path / "params.yaml"
    path.write_text(compose.run())
    return path


def lock_as_dvc_does(params):
    md5 = hashlib.md5(params.read_bytes(), usedforsecurity=False).hexdigest()
    outs = [{"path": "params.yaml", "hash": "md5", "md5": md5}]
    lock = params.with_name("dvc.lock")
    lock.write_text(yaml.safe_dump({"stages": {"compose": {"outs": outs}}}))
    return lock


def options():
    """Return each group with each of its options, as an override: `keras=deep`."""
    for folder in sorted(path for path in compose.CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        yield from (f"{folder.name}={path.stem}" for path in sorted(folder.glob("*.yaml")))


@pytest.mark.parametrize("override", list(options()))
def test_every_config_composes_into_valid_settings(override):
    parse(yaml.safe_load(compose.run(overrides=[override])))


def test_composes_to_the_bytes_that_dvc_writes(tmp_path):
    from dvc.utils.hydra import compose_and_dump

    written = tmp_path / "params.yaml"
    overrides = ["keras=deep", "experiment=lesson", "seed=3"]
    compose_and_dump(written, str(compose.CONF.absolute()), None, "config", "", overrides)
    assert written.read_text() == compose.run(overrides=overrides)


def test_params_in_git_are_what_conf_composes_to():
    assert compose.run() == compose.PARAMS_FILE.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("keras.unit=3", r"Could not override 'keras\.unit': no such key \(did you mean keras\.units\?\)$"),
        ("kears=deep", r"Could not override 'kears': no such key \(did you mean keras\?\)$"),
        ("keras=wide", r"Could not find 'keras/wide'; available options in 'keras': deep, default$"),
        ("experiment=quikc", r"; available options in 'experiment': .* \(did you mean quick\?\)$"),
        ("keras.units=[1", r"no viable alternative at input '\[1'$"),
        ("foo", r"'foo': key=value is needed$"),
        ("scratch=null", "Config group override must be a string or a list"),
    ],
)
def test_what_hydra_cannot_compose_is_one_line(override, message):
    with pytest.raises(SettingsError, match=message) as caught:
        compose.run(overrides=[override])
    assert len(str(caught.value).splitlines()) == 1


def test_a_changed_key_is_logged_old_to_new(params, caplog):
    lock = lock_as_dvc_does(params)
    caplog.set_level("INFO")
    compose.write(compose.run(overrides=["keras.units=64"]), params, lock)
    assert "keras.units: 512 → 64" in caplog.messages
    assert yaml.safe_load(params.read_text())["keras"]["units"] == 64


def test_a_changed_address_shows_no_password():
    lines = compose.changes({"tracking": {"uri": None}}, {"tracking": {"uri": "http://ann:secret@host"}})
    assert lines == ["tracking.uri: None → http://host"]


def test_a_first_params_file_is_written(tmp_path):
    params = tmp_path / "params.yaml"
    compose.write(compose.run(), params, tmp_path / "dvc.lock")
    assert params.read_text() == compose.run()


def test_an_edit_by_hand_is_refused_and_kept(params):
    lock = lock_as_dvc_does(params)
    edited = params.read_text().replace("units: 512", "units: 64")
    params.write_text(edited)
    with pytest.raises(SettingsError, match=r"keras\.units: 512 → 64\. Set them in conf/keras/"):
        compose.write(compose.run(), params, lock)
    assert params.read_text() == edited


def test_an_edit_by_hand_without_a_lock_is_refused_too(params, tmp_path):
    params.write_text(params.read_text().replace("seed: 0", "seed: 7"))
    with pytest.raises(SettingsError, match=r"seed: 0 → 7\. Set them in conf/config\.yaml"):
        compose.write(compose.run(), params, tmp_path / "dvc.lock")


def test_an_edit_by_hand_that_conf_agrees_with_passes(params, tmp_path):
    compose.write(compose.run(), params, tmp_path / "dvc.lock")
    assert params.read_text() == compose.run()


def test_stages_refuse_to_start_from_their_own_output():
    settings = parse(yaml.safe_load(compose.run(overrides=["keras.warm_start=true"])))
    with pytest.raises(SettingsError, match=r"keras\.warm_start: false is needed in `dvc repro`"):
        compose.check_stages(settings)
