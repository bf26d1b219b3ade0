"""`python -m bench.stage STAGE FILE`: run one stage; write to FILE how long it imported and tracked, and its peak.

Each moment counts once: an import by tracking as tracking, since the stage waits for it, and what is neither as work.
"""

import builtins
import importlib
import inspect
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any


class Clock:
    """Adds up the main thread's seconds in wrapped functions, by kind; a call within a call is a part of that."""

    def __init__(self, *kinds: str) -> None:
        self.seconds = dict.fromkeys(kinds, 0.0)
        self._runs = False

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._runs or threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            self._runs = True
            start = time.perf_counter()
            try:
                found = function(*args, **kwargs)
            finally:
                self._runs = False
                self.seconds[kind] += time.perf_counter() - start
            return Around(found, self, kind) if isinstance(found, AbstractContextManager) else found

        return timed


class Around(AbstractContextManager[Any]):
    """A context whose beginning and end are timed, and not what is done within it."""

    def __init__(self, context: AbstractContextManager[Any], clock: Clock, kind: str) -> None:
        self.context = context
        self._enter = clock.around(kind, context.__enter__)
        self._exit = clock.around(kind, context.__exit__)

    def __enter__(self) -> Any:
        """Begin."""
        found = self._enter()
        return found.context if isinstance(found, Around) else found  # a run, which is a context, too

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        """End."""
        return self._exit(kind, error, trace)


def main() -> None:
    """Run the stage under the clock."""
    start = time.perf_counter()
    name, file = sys.argv[1], Path(sys.argv[2])
    clock = Clock("imports, s", "tracking, s")
    builtins.__import__ = clock.around("imports, s", builtins.__import__)
    stage = clock.around("imports, s", importlib.import_module)(f"pipeline.{name}")
    _time_tracking(clock)
    stage.main()
    work = time.perf_counter() - start - sum(clock.seconds.values())
    file.write_text(json.dumps([clock.seconds | {"work, s": work}, _peak_mb()]), encoding="utf-8")


def _peak_mb() -> float:
    """Return the largest resident set of this process, in 10⁶ bytes; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def _time_tracking(clock: Clock) -> None:
    """Time whatever a stage calls of pipeline.tracking: its functions, and the methods of a run."""
    package = sys.modules.get("pipeline.tracking")
    if package is None:
        return
    for owner in (package, package.Run):
        for name, value in list(vars(owner).items()):
            if inspect.isfunction(value) and not name.startswith("_"):
                setattr(owner, name, clock.around("tracking, s", value))


if __name__ == "__main__":
    main()
