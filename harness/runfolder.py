"""Making run folders, and never writing into one that is there already."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError, RunFolderExists
from harness.records import LOAD_LOGS_DIR, NODE_LOGS_DIR, OPERATIONS_DIR

RUNS = Path("runs")


def new_run_dir(name: str, parent: Path = RUNS) -> Path:
    """Make ``<parent>/<UTC time>-<name>``, with a number behind it if two runs start within one second.

    Raises:
        HarnessError: it cannot be made.
    """
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    for number in itertools.count(1):
        folder = parent / (f"{stamp}-{slug}" if number == 1 else f"{stamp}-{slug}-{number}")
        with suppress(FileExistsError), _translated(folder):
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return make_run_dir(folder)
    raise AssertionError("unreachable")


def make_run_dir(folder: Path) -> Path:
    """Make the folder and its subfolders.

    Raises:
        RunFolderExists: something is there that is not an empty folder.
        HarnessError: it cannot be made.
    """
    with _translated(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderExists(
                f"{folder} exists already and is not empty: name another folder with --out, or remove it; "
                "nothing was overwritten"
            )
        for inside in (NODE_LOGS_DIR, OPERATIONS_DIR, LOAD_LOGS_DIR):
            (folder / inside).mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise HarnessError(f"{folder}: cannot make the run folder: {error.strerror}") from error
