"""A browser for the tests of pages: Chromium through Playwright. Without one they are skipped, and say why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reports
from tests.unit.test_report_files import storm

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: that of KADSTORM_CHROMIUM, or one on the path."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
    )
    found = os.environ.get("KADSTORM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on the path: apt-get install chromium (or set KADSTORM_CHROMIUM)")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a storm with three faults."""
    folder = storm(tmp_path_factory.mktemp("storm"))
    reports.write(folder)
    return folder / "report.html"
