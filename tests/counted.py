"""The table of faults at the end of a test run: how many were injected, how many survived, what was lost."""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import pytest

FAULTS = "faults"


@dataclass
class Faults:
    """What a test counts while it injects faults of one kind; it stands in the table even if the test fails.

    Attributes:
        kind: what is done, and to what.
        unit: what could be lost; empty: nothing that can be counted.
        injected: how many so far.
        survived: how many of them did no harm.
        lost: how many units, as measured.
        note: what else was measured.
    """

    kind: str
    unit: str
    injected: int = 0
    survived: int = 0
    lost: int = 0
    note: str = ""


@pytest.fixture
def count(request) -> Iterator[Callable[[str, str], Faults]]:
    """Return a function that begins a count: its kind, and the unit of what could be lost."""
    begun: list[Faults] = []

    def begin(kind: str, unit: str) -> Faults:
        begun.append(Faults(kind, unit))
        return begun[-1]

    yield begin
    request.node.user_properties.extend((FAULTS, astuple(faults)) for faults in begun)


def table(reports: list[Any]) -> list[str]:
    """Return the lines of the table, a line a kind.

    Args:
        reports: of all tests, those of their teardowns among them, which have the counts.
    """
    totals: dict[tuple[str, str], list[int]] = {}
    notes: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        if getattr(report, "when", None) == "teardown":
            for _, (kind, unit, *numbers, note) in (own for own in report.user_properties if own[0] == FAULTS):
                before = totals.setdefault((kind, unit), [0, 0, 0])
                totals[kind, unit] = [sum(pair) for pair in zip(before, numbers, strict=True)]
                notes.setdefault((kind, unit), []).extend([note] if note else [])
    lines = [
        f"{injected:8}{survived:10}  {f'{lost} {unit}' if unit else '-':22}{'; '.join([kind, *notes[kind, unit]])}"
        for (kind, unit), (injected, survived, lost) in totals.items()
    ]
    return [f"injected  survived  {'lost':22}kind of fault", *lines] if lines else []


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table; pytest-xdist brings the reports of its workers here, too."""
    lines = table([report for reports in terminalreporter.stats.values() for report in reports])
    if lines:
        terminalreporter.section(FAULTS)
    for line in lines:
        terminalreporter.line(line)
