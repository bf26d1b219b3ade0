"""The processes of this machine, from /proc: not every image has `ps`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process that lives: its id, and those of its parent and of its group."""

    pid: int
    parent: int
    group: int


def living() -> Iterator[Process]:
    """Yield the processes that live; one that has ended and that nobody has reaped does not."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = file.read_text().rpartition(")")[2].split()[:3]
            if state != "Z":
                yield Process(int(file.parent.name), int(parent), int(group))
