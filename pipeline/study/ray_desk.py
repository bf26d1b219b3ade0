"""The desk of a grid whose jobs are on a Ray cluster, see desk.py: they reach it through Ray, wherever they are."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import lineage
from pipeline.config import Settings
from pipeline.study import signature
from pipeline.study.desk import NET, Done, Own
from pipeline.study.on_ray import check_same
from pipeline.study.trial import Outcome, Row


class Far:
    """The desk of a grid whose job runs on a node, see `desk.Desk`: it is asked through Ray."""

    def __init__(self, sweep_id: str) -> None:
        import ray

        self._clerk: Any = ray.get_actor(sweep_id)
        self._node: str = ray.util.get_node_ip_address()
        logging.getLogger().addHandler(_Teller(self._clerk, self._node))

    def inputs(self, settings: Settings) -> tuple[str | None, str | None]:
        """Return the md5s of the data and of the first weights, which are to be brought.

        Raises:
            SettingsError: this node, which may have come later, has other code than the machine of the grid.
        """
        check_same(self._node, str(lineage.ROOT), signature.checkout(), _got(self._clerk.checkout.remote()))
        md5s: tuple[str, str | None] = _got(self._clerk.inputs.remote(settings))
        return md5s

    def reused(self, settings: Settings, key: str, overrides: Sequence[str]) -> Outcome | None:
        """Return the outcome of the earlier training of that key, if its net is still there and in the same store."""
        found: Outcome | None = self._ask("reused", settings, key, overrides)
        return found

    def ended(self, folder: str) -> Outcome | None:
        """Return how a job of this sweep has ended, by its folder's name, if it has: its node died afterwards."""
        found: Outcome | None = self._ask("ended", folder)
        return found

    def keep(self, done: Done, folder: Path) -> list[Row]:
        """Send how a job ended, and the net that it has trained."""
        net = folder / NET
        files = {path.name: path.read_bytes() for path in net.iterdir()} if net.is_dir() else None
        rows: list[Row] = self._ask("keep", replace(done, net=files), folder)
        return rows

    def _ask(self, question: str, *given: Any) -> Any:
        return _got(self._clerk.answer.remote(question, *given))


def _got(answer: Any) -> Any:
    """Return an answer; another thread waits for it, as Ray gives away the CPU of a job whose main thread waits."""
    import ray

    with ThreadPoolExecutor(1) as waiting:
        return waiting.submit(ray.get, answer).result()


class _Teller(logging.Handler):
    """Sends warnings to where the grid was started."""

    def __init__(self, clerk: Any, node: str) -> None:
        super().__init__(logging.WARNING)
        self._clerk = clerk
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        self._clerk.hear.remote(f"{self._node}: {record.getMessage()}")


class _Clerk:
    """The process on this machine that answers for the desk."""

    def __init__(self, folder: str, own: Own, checkout: Mapping[str, str]) -> None:
        os.chdir(folder)
        self._own = own
        self._checkout = dict(checkout)
        self._heard: list[str] = []

    def answer(self, question: str, *given: Any) -> Any:
        """Return what the desk answers."""
        return getattr(self._own, question)(*given)

    def checkout(self) -> dict[str, str]:
        """Return what a node must have: what this machine had when the grid was started; see `signature.checkout`."""
        return self._checkout

    def inputs(self, settings: Settings) -> tuple[str, str | None]:
        """Return the md5s of what a training reads, once it can be brought."""
        from pipeline.study import inputs

        return inputs.offer(settings)

    def hear(self, text: str) -> None:
        """Take a warning."""
        self._heard.append(text)

    def heard(self) -> list[str]:
        """Return the warnings since the last call."""
        told, self._heard = self._heard, []
        return told


@contextlib.contextmanager
def desk_here(own: Own) -> Iterator[Callable[[], list[str]]]:
    """Let a grid's jobs ask and tell this machine's desk; yield what returns the warnings since its last call."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(_Clerk).options(name=own.sweep_id, num_cpus=0, scheduling_strategy=here)
    clerk = made.remote(str(Path.cwd()), own, signature.checkout())

    def news() -> list[str]:
        heard: list[str] = ray.get(clerk.heard.remote())
        return heard

    yield news
