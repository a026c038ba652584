"""What all tests share: those that need a container engine are skipped without one, or fail where one must be.

``KADSTORM_NEEDS_DOCKER=1`` (CI sets it) turns the skip into a failure.
"""

from __future__ import annotations

import os
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
    if item.get_closest_marker("docker") is None or not why_no_engine():
        return
    if os.environ.get("KADSTORM_NEEDS_DOCKER"):
        pytest.fail(f"KADSTORM_NEEDS_DOCKER is set, and {why_no_engine()}", pytrace=False)
    pytest.skip(why_no_engine())
