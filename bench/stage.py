"""`python -m bench.stage STAGE FILE`: run one stage; write to FILE how long it imported and tracked, and its peak.

An import within an import counts once, as does tracking that imports; what is left of the stage's time is its work.
"""

import builtins
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Clock:
    """Adds up the time spent in calls of wrapped functions, a call within a call once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


def main() -> None:
    """Run the stage with both clocks."""
    name, file = sys.argv[1], Path(sys.argv[2])
    start = time.perf_counter()
    imports, tracking = Clock(), Clock()
    builtins.__import__ = imports.around(builtins.__import__)
    stage = importlib.import_module(f"pipeline.{name}")
    before = imports.seconds
    _clock_tracking(tracking)
    stage.main()
    split = {
        "imports, s": imports.seconds,
        "tracking, s": tracking.seconds,
        "work, s": time.perf_counter() - start - max(imports.seconds, before) - tracking.seconds,
    }
    file.write_text(json.dumps(split | {"peak, MB": _peak_mb()}), encoding="utf-8")


def _peak_mb() -> float:
    """Return the largest resident set of this process, in 10⁶ bytes; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def _clock_tracking(clock: Clock) -> None:
    """Time whatever a stage calls of pipeline.tracking."""
    package = sys.modules.get("pipeline.tracking")
    if package is None:
        return
    run = package.Run
    for method in [name for name in vars(run) if callable(getattr(run, name)) and not name.startswith("_")]:
        setattr(run, method, clock.around(getattr(run, method)))


if __name__ == "__main__":
    main()
