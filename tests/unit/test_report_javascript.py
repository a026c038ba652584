"""The charts' JavaScript: made once, kept, and never used by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports import javascript
from reports.javascript import ENDING, Bundle


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is not there yet, and a program that makes a bundle in no time."""
    monkeypatch.setattr(javascript, "PROGRAM", "print('made', end='')")
    return tmp_path / "deep" / "vega.js"


def test_a_bundle_is_made_once_and_then_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bundle(cache) as bundle:
        assert bundle.text() == "made"
    monkeypatch.setattr(javascript, "PROGRAM", "raise SystemExit(1)")
    with Bundle(cache) as bundle:
        assert bundle.text() == "made"


@pytest.mark.parametrize("kept", ["", "half of it", f"whole but for its end{ENDING[:-1]}"])
def test_half_a_bundle_is_made_anew(cache: Path, kept: str) -> None:
    cache.parent.mkdir()
    cache.write_text(kept)
    with Bundle(cache) as bundle:
        assert bundle.text() == "made"
    assert cache.read_text() == f"made{ENDING}"


def test_a_bundle_that_cannot_be_made_is_none_and_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(javascript, "PROGRAM", "raise SystemExit(1)")
    with Bundle(cache) as bundle:
        assert bundle.text() == ""
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(cache: Path) -> None:
    cache.parent.write_text("a file where a folder should be")
    with Bundle(cache) as bundle:
        assert bundle.text() == "made"
