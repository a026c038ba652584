"""The journal: `events.jsonl`, one object a line, on its way to the disk before `write` returns.

A line goes out in one `write` on an unbuffered file, so that a harness killed at any moment leaves at most one broken
line, the last one.
"""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from harness.errors import HarnessError
from harness.records import Event


class Journal:
    """Appends events to a new file. Not thread-safe: `Events` serialises its calls."""

    def __init__(self, path: Path) -> None:
        """Raises HarnessError if the file exists or cannot be made."""
        self._path = path
        self._encoder = msgspec.json.Encoder()
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise HarnessError(f"{path}: cannot make the journal: {error.strerror}") from error

    def write(self, event: Event) -> None:
        """Raises HarnessError if the disk is full or the file is gone."""
        try:
            line = self._encoder.encode(event) + b"\n"
            if self._file.write(line) != len(line):  # a disk that fills up takes a part and says nothing
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise HarnessError(f"{self._path}: cannot write the journal: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; further writes raise."""
        self._file.close()
