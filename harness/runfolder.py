"""Making run folders with what is known when a run begins, and never writing into one that is there already."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError, RunFolderExists
from harness.plan import save_plan
from harness.records import EXPERIMENT_FILE, LOAD_LOGS_DIR, NODE_LOGS_DIR, OPERATIONS_DIR, PLAN_FILE, Plan

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


def write_inputs(folder: Path, text: str, plan: Plan) -> None:
    """Write a run's experiment, as its author wrote it, and its plan. Raises HarnessError."""
    try:
        (folder / EXPERIMENT_FILE).write_text(text)
    except OSError as error:
        raise HarnessError(f"{folder}: cannot write there: {error.strerror}") from error
    save_plan(plan, folder / PLAN_FILE)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise HarnessError(f"{folder}: cannot make the run folder: {error.strerror}") from error
