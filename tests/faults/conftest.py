"""What the tests of faults share: each says how many it injected, and the run ends with a table of them."""

from collections.abc import Callable

import pytest


@pytest.fixture
def count(record_property) -> Callable[..., None]:
    """Return a function that notes what a test did: the kind of fault, how many, how many survived, what was lost."""

    def note(kind: str, injected: int, survived: int, lost: str) -> None:
        record_property("faults", (kind, injected, survived, lost))

    return note


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    calls = [report for report in reports if getattr(report, "when", None) == "call" and not report.skipped]
    notes = [(report, note) for report in calls for name, note in report.user_properties if name == "faults"]
    totals: dict[tuple[str, str], list[int]] = {}
    for report, (kind, injected, survived, lost) in notes:
        total = totals.setdefault((kind, lost), [0, 0])
        total[0] += survived if report.passed else 0
        total[1] += injected
    if totals:
        terminalreporter.section("faults")
    for (kind, lost), (survived, injected) in totals.items():
        terminalreporter.line(f"{survived:6} of {injected:6} survived; lost: {lost:12} {kind}")
