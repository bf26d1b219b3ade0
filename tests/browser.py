"""Chromium without a window, told what to do over a pair of pipes: it needs no driver, no port and no package."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"),
    # where there is no network, it would look up its maker's hosts all the same
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--no-first-run"),
)
ANSWER_SECONDS = 60.0  # for one command; a page that is busy may take a while on a loaded machine
# MLflow opens its assistant beside the first page that a browser sees
NO_ASSISTANT = 'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")'


class Page:
    """One page of a running Chromium; every wait is bounded."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._received = b""
        self._n_sent = 0
        self._session: dict[str, str] = {}

    def attach(self, width: int, height: int) -> None:
        """Take the first tab, at this size in pixels."""
        targets = self.send("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]}
        self.send("Page.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.addScriptToEvaluateOnNewDocument", source=NO_ASSISTANT)

    def send(self, method: str, **params: Any) -> Any:
        """Send a command of the DevTools protocol, and return its result."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._n_sent:
            pass  # an event
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._answers], [], [], ANSWER_SECONDS)[0], f"no answer in {ANSWER_SECONDS} s"
            more = os.read(self._answers, 1 << 16)
            assert more, "Chromium has ended"
            self._received += more
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def goto(self, address: str) -> None:
        """Load a page anew, also where only what follows its # differs."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 30.0) -> Any:
        """Return the value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}\n{self.text[-2000:]}"
            time.sleep(0.1)
        return value

    def wait_for_text(self, *texts: str, seconds: float = 30.0) -> None:
        """Return as soon as all these texts are on the page."""
        self.wait_for(f"{json.dumps(texts)}.every(text => document.body?.innerText.includes(text))", seconds)

    @property
    def text(self) -> str:
        """Return what a reader of the page sees."""
        return str(self.evaluate("document.body?.innerText ?? ''"))

    def screenshot(self, path: Path) -> None:
        """Write the page as it is shown to a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def open_page(profile: Path, width: int = 1400, height: int = 1600) -> Iterator[Page]:
    """Yield a page of a Chromium of its own, with a profile in an empty folder; at the end all of it is killed."""
    in_commands, out_commands = os.pipe()
    in_answers, out_answers = os.pipe()
    to_fds_3_and_4 = ("bash", "-c", f'exec "$@" 3<&{in_commands} 4>&{out_answers}', "bash")  # where it looks for them
    own = (f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank")
    process = subprocess.Popen(
        [*to_fds_3_and_4, str(CHROMIUM), *FLAGS, *own],
        pass_fds=(in_commands, out_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(in_commands)
    os.close(out_answers)
    try:
        page = Page(out_commands, in_answers)
        page.attach(width, height)
        yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(out_commands)
        os.close(in_answers)
