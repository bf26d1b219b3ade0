"""What the tests of faults share: each counts the faults that it injects, see tests/counted.py."""

from collections.abc import Callable, Iterator

import pytest
from counted import Faults, count

__all__ = ["count"]

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and not report.skipped:
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def count_one(request, count) -> Iterator[Callable[[str, str], Faults]]:
    """Return a function that counts a test as one fault, survived if the test passes; one that is skipped as none."""
    begun: list[Faults] = []

    def begin(kind: str, unit: str) -> Faults:
        begun.append(count(kind, unit))
        return begun[-1]

    yield begin
    for faults in begun:
        faults.injected = PASSED in request.node.stash
        faults.survived = request.node.stash.get(PASSED, False)
