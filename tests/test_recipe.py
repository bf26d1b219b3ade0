"""Settings of other code, fitted to this one's."""

import pytest

from pipeline.config import to_dict
from pipeline.errors import SettingsError
from pipeline.recipe import fitted_settings


def test_settings_of_other_code_are_fitted_to_this_codes_keys_and_that_is_said(settings_of, caplog):
    own = settings_of("keras.units=7", "seed=5", "tracking.experiment=own")
    plain = to_dict(settings_of("keras.units=[8,4]", "scratch.epochs=9", "tracking.experiment=other"))
    del plain["scratch"]["shuffle"], plain["seed"]
    plain["scratch"] |= {"momentum": 0.9}
    plain["ghost"] = {"walks": True}
    fitted = fitted_settings(plain, own)
    assert fitted.keras.units == (8, 4)
    assert (fitted.scratch.epochs, fitted.scratch.shuffle) == (9, own.scratch.shuffle)
    assert (fitted.seed, fitted.tracking) == (5, own.tracking)
    assert caplog.messages == [
        f"seed=5, scratch.shuffle={own.scratch.shuffle}: new since the run, so as in params.yaml",
        "scratch.momentum=0.9, ghost.walks=True: no longer known, so left out",
    ]


def test_a_setting_that_this_code_does_not_allow_any_more_is_refused(settings_of):
    plain = to_dict(settings_of())
    plain["scratch"]["activation"] = "swish"
    with pytest.raises(SettingsError, match=r"^scratch\.activation: one of tanh, sigmoid, relu is needed"):
        fitted_settings(plain, settings_of())
