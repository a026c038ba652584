"""Vega and what belongs to it, for charts on a page that makes no network request: from what vl-convert carries.

Putting it together takes a second of one core and holds the interpreter's lock, so it is done in a process of its own,
while this one reads and judges.
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Self

PROGRAM = "import sys, vl_convert; sys.stdout.write(vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;'))"
LONGEST = 60.0  # s


class Bundle:
    """The JavaScript, in the making from `with` on."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-X", "utf8", "-c", PROGRAM]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._text: str | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def text(self) -> str:
        """The JavaScript, once it is there. Empty if it could not be made: then a page has its static charts only."""
        if self._text is None:
            try:
                said, _ = self._process.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                said = b""
            self._text = said.decode() if self._process.returncode == 0 else ""
        return self._text
