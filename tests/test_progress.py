"""What a training shows: a log line an epoch where nobody watches, a bar in a terminal."""

import io
import logging
import sys

import pytest

from pipeline.progress import each, progress


class Terminal(io.StringIO):
    """A stderr that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_off_a_terminal_each_epoch_is_one_log_line(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("keras", 2) as show:
        show(0, {"loss": 0.25, "accuracy": 0.9})
        show(1, {"loss": 0.125, "accuracy": 1.0})
    assert caplog.messages == [
        "keras epoch 1/2  loss 0.2500  accuracy 0.9000",
        "keras epoch 2/2  loss 0.1250  accuracy 1.0000",
    ]
    assert sys.stderr.getvalue() == ""


def test_in_a_terminal_a_bar_counts_the_epochs_and_nothing_is_logged(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("scratch", 3) as show:
        for epoch in range(3):
            show(epoch, {"loss": 0.5 / (epoch + 1)})
    drawn = sys.stderr.getvalue()
    assert "scratch" in drawn
    assert "3/3" in drawn
    assert "loss 0.1667" in drawn
    assert caplog.messages == []


def test_a_bar_shows_how_far_a_failed_training_came(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ArithmeticError), progress("scratch", 5) as show:
        show(0, {"loss": 0.5})
        show(1, {"loss": 9e99})
        raise ArithmeticError
    assert "2/5" in sys.stderr.getvalue()
    assert "loss 9e+99" in sys.stderr.getvalue()


def test_each_calls_all_callbacks_in_turn():
    seen = []
    both = each(lambda *epoch: seen.append(("first", *epoch)), lambda *epoch: seen.append(("second", *epoch)))
    both(4, {"loss": 1.0})
    assert seen == [("first", 4, {"loss": 1.0}), ("second", 4, {"loss": 1.0})]
