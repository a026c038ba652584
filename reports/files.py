"""Writing results: each to a temporary name beside its own and renamed, so that no reader ever sees half a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reports.errors import ReportWriteError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file as a whole.

    Raises:
        ReportWriteError: the disk is full, or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    replace_atomically(path, lambda temporary: temporary.write_bytes(data))


def replace_atomically(path: Path, make: Callable[[Path], Any]) -> None:
    """Have ``make`` write a file under a temporary name, and give it its own name. Raises as `write_atomically`."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        make(temporary)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ReportWriteError(f"{path}: cannot be written: {error.strerror or error}") from error
