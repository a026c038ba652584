"""What all tests share: those that need a container engine are skipped without one, or fail where one must be.

``KADSTORM_NEEDS_DOCKER=1`` (CI sets it) turns the skip into a failure, as it does with every other skip of such a test.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import cache

import pytest
from hypothesis import settings

# Hypothesis' deadline is a time in which an example must end: a busy machine breaks it, and no defect.
settings.register_profile("kadstorm", deadline=None)
settings.load_profile("kadstorm")


@cache
def why_no_engine() -> str:
    """Empty if a container engine answers."""
    from harness.containers import engine
    from harness.errors import EngineUnavailable

    try:
        engine.connect().close()
    except EngineUnavailable as error:
        return str(error)
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker") is not None and why_no_engine():
        pytest.skip(why_no_engine())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    needed = item.get_closest_marker("docker") is not None and os.environ.get("KADSTORM_NEEDS_DOCKER")
    if needed and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"KADSTORM_NEEDS_DOCKER is set, and this test was not run: {why}"
    return report
