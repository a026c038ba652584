"""Vega and what belongs to it, for charts on a page that makes no network request: from what vl-convert carries.

Putting it together takes a second of one core and holds the interpreter's lock, so it is done in a process of its own,
while this one reads and judges; and once per version of vl-convert, since it is kept in the user's cache. A cache that
cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

import platformdirs

from reports.errors import ReportWriteError
from reports.files import write_atomically

PROGRAM = "import sys, vl_convert; sys.stdout.write(vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;'))"
LONGEST = 60.0  # s
ENDING = "\n//# kadstorm: whole\n"  # what a cached bundle ends with, so that half of one is never used


class Bundle:
    """The JavaScript, in the making from `with` on."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cached = cache if cache is not None else cache_file()
        self._process: subprocess.Popen[bytes] | None = None
        self._text: str | None = None

    def __enter__(self) -> Self:
        self._text = _read(self._cached)
        if self._text is None:
            command = [sys.executable, "-P", "-X", "utf8", "-c", PROGRAM]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def text(self) -> str:
        """The JavaScript, once it is there. Empty if it could not be made: then a page has its static charts only."""
        if self._text is None:
            self._text = self._made()
            if self._text:
                _keep(self._cached, self._text)
        return self._text

    def _made(self) -> str:
        assert self._process is not None
        try:
            said, _ = self._process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return ""
        return said.decode() if self._process.returncode == 0 else ""


def cache_file() -> Path:
    """Where the bundle of the installed vl-convert is kept."""
    try:
        made_by = version("vl-convert-python")
    except PackageNotFoundError:
        made_by = "unknown"
    return Path(platformdirs.user_cache_dir("kadstorm")) / f"vega-{made_by}.js"


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
        if text.endswith(ENDING):
            return text.removesuffix(ENDING)
    return None


def _keep(path: Path, text: str) -> None:
    with contextlib.suppress(OSError, ReportWriteError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text + ENDING)
