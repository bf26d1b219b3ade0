"""What a stage has done by its courier, which has mlflow at hand: importing it takes two seconds."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.config import Settings, parse, to_dict
from pipeline.tracking import store
from pipeline.tracking.pages import shown_at
from pipeline.tracking.registry import promote
from pipeline.tracking.sender import sender

CALLS: dict[str, Callable[..., Any]] = {"promote": promote, "shown_at": shown_at}

log = logging.getLogger(__name__)


def call(name: str, settings: Settings, *arguments: Any) -> Any:
    """Return what a function of CALLS returns; it runs in the courier, or here where that is gone.

    What it logs is logged here. Of a store of which this process has said that it cannot be reached, it says no more.

    Args:
        name: a key of CALLS.
        settings: all settings.
        arguments: its others, such as JSON knows.
    """
    order = {
        "call": name,
        "settings": to_dict(replace(settings, tracking=replace(settings.tracking, uri=None))),
        "uri": store.tracking_uri(settings),
        "arguments": arguments,
        "away": store.told_away(),
    }
    answer = sender().ask(order)
    if answer is None:
        return CALLS[name](settings, *arguments)
    for level, text in answer["log"]:
        log.log(level, "%s", text)
    return answer["result"]


def answer_to(order: dict[str, Any]) -> dict[str, Any]:
    """Return, in the courier, the result of a call, and what was logged in it, as pairs of level and text."""
    settings = parse(order["settings"])
    settings = replace(settings, tracking=replace(settings.tracking, uri=order["uri"]))
    store.note_away(order["away"])
    with heard() as lines:
        result = CALLS[order["call"]](settings, *order["arguments"])
    return {"result": result, "log": lines}


@contextlib.contextmanager
def heard() -> Iterator[list[tuple[int, str]]]:
    """Yield a list to which level and text of each line are added that this project logs in the block."""
    lines: list[tuple[int, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelno, record.getMessage()))

    project, listener = logging.getLogger("pipeline"), Listener(logging.INFO)
    before, disabled = project.level, logging.root.manager.disable
    logging.disable(logging.NOTSET)
    project.setLevel(logging.INFO)
    project.addHandler(listener)
    try:
        yield lines
    finally:
        project.removeHandler(listener)
        project.setLevel(before)
        logging.disable(disabled)
