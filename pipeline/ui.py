"""`make ui`: MLflow's UI on the project's store, for this machine alone."""

import logging
import os
import sys

from pipeline import tracking
from pipeline.command import command
from pipeline.config import load_params

PORT = "5000"

log = logging.getLogger(__name__)


@command
def main() -> None:
    """Become `mlflow server` on 127.0.0.1; the port is the first argument, else 5000."""
    settings = load_params()
    port = sys.argv[1] if len(sys.argv) > 1 else PORT
    experiment_id = tracking.open_store(settings)
    log.info("http://127.0.0.1:%s/#/experiments/%s  (Ctrl-C ends it)", port, experiment_id)
    uri = tracking.tracking_uri(settings)
    arguments = ["server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


if __name__ == "__main__":
    main()
