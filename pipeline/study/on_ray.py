"""A Ray cluster that a sweep is on: its nodes are asked here; ray_workers.py and ray_desk.py do the rest.

Only these three modules import ray. On a node `pipeline` is that node's own checkout: where `import pipeline` leads
in the Python that runs `ray start`. Settings go to the nodes, and lines and outcomes come back; no data, no code and
no secret travel through Ray.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from pipeline import lineage
from pipeline.address import redact
from pipeline.compose import changes
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.study import signature
from pipeline.tracking.store import ON_NODE

REACH_SECONDS = 10.0  # for a cluster that is named to answer
GONE = object()  # a node


@contextlib.contextmanager
def cluster(settings: Settings, given: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[None]:
    """Be part of a Ray cluster, all of whose nodes have this checkout's code.

    Args:
        settings: those of tracking are read.
        given: what `ray.init` takes; its address is auto, null or host:port.
        variables: for the environment of all that runs there; nothing secret, as Ray's logs show them.

    Raises:
        SettingsError: it cannot be reached, or a node has other code or libraries.
    """
    if find_spec("ray") is None:
        raise SettingsError("ray: the package is needed, but it is not here: `make setup-cluster` installs it")
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else each start warns of it
    address = given.get("address")
    _check_reachable(address)
    runtime = dict(given.get("runtime_env") or {})
    runtime["env_vars"] = {**runtime.get("env_vars", {}), **_shared(settings), **variables}
    options = {"log_to_driver": False, "logging_level": logging.ERROR, **given, "runtime_env": runtime}
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise SettingsError(f"Ray: a cluster at {address} is needed, but {redact(reason)}") from None
    ray._private.worker._worker_logs_enabled = False  # else it tells of a dead node on stdout
    try:
        _check_nodes()
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise SettingsError where nobody answers; Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), REACH_SECONDS).close()
        except OSError as error:
            reason = error.strerror or "no answer in time"
            raise SettingsError(
                f"Ray: a cluster at {address} is needed, but: {reason}; `ray start --head` starts one"
            ) from None


def _shared(settings: Settings) -> dict[str, str]:
    """Return the environment that nodes share with this process: where runs go, if conf/ does not say it.

    Raises:
        SettingsError: runs would go to a file, of which each node has its own.
    """
    from pipeline import tracking

    uri = tracking.tracking_uri(settings)
    if uri.startswith("sqlite"):
        raise SettingsError(
            f"tracking.uri: a server that every node reaches (http://…) is needed on a cluster, but got {uri}"
        )
    return {ON_NODE: "ray", "MLFLOW_TRACKING_URI": redact(uri)}


def _check_nodes() -> None:
    """Raise SettingsError where a node has other code than this one, or other libraries, or none."""
    wanted = signature.checkout()
    for node, found in everywhere(_checkout):
        if isinstance(found, Exception):
            raise SettingsError(
                f"Ray: the same code as here is needed on every node, but on {node} {one_line_of(found)}; start ray "
                "there from the .venv of a checkout of this commit"
            )
        root, theirs = found
        check_same(node, root, theirs, wanted)


def check_same(node: str, root: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise SettingsError where a node's checkout, at `root`, is not as wanted, see `signature.checkout`."""
    differing = "; ".join(changes(dict(wanted), dict(found)))
    if differing:
        raise SettingsError(
            f"Ray: the same code as here is needed on every node, but on {node}, in {root}, there is {differing}; "
            "check out this commit there, `make setup`, and start ray again"
        )


def _checkout() -> tuple[str, dict[str, str]]:
    return str(lineage.ROOT), signature.checkout()


def everywhere(function: Callable[..., Any], *arguments: Any) -> list[tuple[str, Any]]:
    """Return for each node that trains its address, and what a function of the project returns there, or raises.

    A node that dies meanwhile is left out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(function).options(num_cpus=0, scheduling_strategy=place)
            asked.append((node, task.remote(*arguments)))
    answers = [(node, _answer(ref, node["NodeID"])) for node, ref in asked]
    return [(node["NodeManagerAddress"], answer) for node, answer in answers if answer is not GONE]


def is_up(address: str) -> bool:
    """Return whether a node of that address is part of the cluster."""
    import ray

    return any(node["Alive"] and node["NodeManagerAddress"] == address for node in ray.nodes())


def _answer(ref: Any, node_id: str) -> Any:
    """Return what a node has answered; GONE: it has died."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:  # what the function has raised there
        return error.cause or error
    except Exception as error:  # Ray's own
        is_there = any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes())
        return error if is_there and not isinstance(error, ray.exceptions.NodeDiedError) else GONE


def one_line_of(error: BaseException) -> str:
    """Return the last line of an error's text: of Ray's, which hold a traceback, the one that says what it was."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return redact(lines[-1].strip())
