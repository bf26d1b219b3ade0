"""`python -m trainer`: a training in a process of its own, as `pipeline.train` is one, but small and slowed down.

It takes JSON on its command line: the store's address, the epochs, the seconds that each takes longer, the epoch in
which it dies, how many runs it makes, a file that it waits for before each ends, whether it leaves the end to the
courier, and how many rows it trains on. It prints, as JSON, what became of the last one.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROBABLY_DONE = 500.0  # seconds


def start(environment: dict[str, str], **given: Any) -> "subprocess.Popen[str]":
    """Start a training in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", json.dumps(given)],
        env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[dict[str, Any], list[str]]:
    """Return what a training printed and the lines of its log, once it has ended with exit code 0."""
    out, err = process.communicate(timeout=PROBABLY_DONE)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out), err.splitlines()


def main(
    uri: str,
    *,
    epochs: int = 200,
    pause: float = 0.0,
    dies_in: int | None = None,
    n_runs: int = 1,
    until: str = "",
    leave: bool = False,
    n_rows: int = 40,
) -> None:
    """Train, and print what became of the last run."""
    import yaml
    from tracked import CODE, DATA_MD5, rows

    from pipeline import compose, tracking, train_scratch, trained
    from pipeline.config import parse
    from pipeline.lineage import inputs_of

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    overrides = ["net=scratch", "scratch.dataset=mnist", f"scratch.epochs={epochs}"]
    os.environ["MLFLOW_TRACKING_URI"] = uri  # which may hold a password, as tracking.uri may not
    settings = parse(yaml.safe_load(compose.run(ROOT / "conf", overrides)))
    data = rows(n_rows)
    for _ in range(n_runs):
        started = time.monotonic()
        with (
            tracking.start_run(settings, "scratch", inputs_of("mnist", data, DATA_MD5), code=CODE) as run,
            tempfile.TemporaryDirectory() as folder,
        ):

            def on_epoch_end(epoch: int, metrics: dict[str, float]) -> None:
                run.on_epoch_end(epoch, metrics)
                time.sleep(pause)
                while until and epoch == epochs - 1 and not Path(until).exists():
                    time.sleep(0.05)
                if epoch == dies_in:
                    os.killpg(0, signal.SIGKILL)

            began, worked = time.monotonic(), time.process_time()
            result = train_scratch.run(settings.scratch, data, settings.seed, on_epoch_end)
            seconds, processor_seconds = time.monotonic() - began, time.process_time() - worked
            trained.save(result, Path(folder, "net"))
            run.log_trained(result, Path(folder, "net"), settings, example=data["X_test"][:2])
            run.log_report({"test_accuracy": 0.75}, {"curve": b"png"}, {"0": {"test_f1": 0.5}})
            if leave:
                run.leave()
    said = {
        "record_id": run.record_id,
        "run_id": run.run_id,
        "weights_sha256": result.weights_sha256,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "seconds_with_its_record": time.monotonic() - started,
        "history": result.history,
        "imported_mlflow": "mlflow" in sys.modules,
    }
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
