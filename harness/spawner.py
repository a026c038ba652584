"""Starting child processes so that none of them outlives the harness, whatever happens to it.

Rules:
- All children are started by one long-lived thread: Linux sends the parent-death signal when the *thread* that spawned
  a child ends, not when the process does.
- Each child leads a process group of its own: a Ctrl-C on the terminal reaches the harness alone, which then decides.
- Each child carries the session's name in its environment, by which `cleanup` finds what is left of a dead session.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

from harness.errors import HarnessError

SESSION_VARIABLE = "KADSTORM_SESSION"
SHELL_SIGNALS, MOST_SIGNALS = 128, 64  # where shells begin to count signals, and how many Linux has
LEASH = Path(__file__).with_name("leash.py")


class Spawn(Protocol):
    """How the parts of a session start their processes."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        stdin: int | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | Path | None = None,
        leashed: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start ``argv``; ``name`` appears in errors. ``stderr`` may be the path of a log, which is appended to."""
        ...


class Spawner:
    """The one thread that starts all children of a session."""

    def __init__(self, session_id: str) -> None:
        self._environment = os.environ | {SESSION_VARIABLE: session_id, "PYTHONUNBUFFERED": "1"}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kadstorm-spawner")

    def __call__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        stdin: int | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | Path | None = None,
        leashed: bool = True,
    ) -> subprocess.Popen[bytes]:
        """See `Spawn`. ``leashed=False`` is for commands that watch their parent themselves.

        Raises:
            HarnessError: the command cannot be started (not found, not executable, out of processes).
        """
        command = [*self._leash(), *argv] if leashed else list(argv)
        try:
            return self._thread.submit(self._start, command, stdin, stdout, stderr).result()
        except OSError as error:
            raise HarnessError(f"{name}: cannot start {argv[0]}: {error.strerror or error}") from error

    def close(self) -> None:
        """End the thread. Children that still live receive their parent-death signal, so end them first."""
        self._thread.shutdown(wait=True)

    @staticmethod
    def _leash() -> list[str]:
        return [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]

    def _start(
        self,
        command: list[str],
        stdin: int | None,
        stdout: int | IO[bytes] | None,
        stderr: int | IO[bytes] | Path | None,
    ) -> subprocess.Popen[bytes]:
        if isinstance(stderr, Path):
            with stderr.open("ab") as log:
                return self._start(command, stdin, stdout, log)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stderr if stdout is None else stdout,
            stderr=stderr,
            env=self._environment,
            process_group=0,
        )


def tail(log: Path, lines: int = 10) -> str:
    """The last ``lines`` of a log, for an error message; a note if there are none."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def describe_exit(code: int | None) -> str:
    """An exit code as people say it: ``exit code 3``, ``killed by SIGKILL``, ``still running``.

    Signal N is -N, as `subprocess` has it, or 128 + N, as shells and containers do.
    """
    if code is None:
        return "still running"
    if SHELL_SIGNALS < code <= SHELL_SIGNALS + MOST_SIGNALS:
        code = SHELL_SIGNALS - code
    if code >= 0:
        return f"exit code {code}"
    import signal

    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
