"""The life of one Toxiproxy server: started with its session, awaited, watched, ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import tenacity

from harness.errors import ToxiproxyFailed
from harness.spawner import Spawn, describe_exit, tail
from harness.toxiproxy.control import ToxiproxyControl

START_DEADLINE = 10.0  # s until its API answers
# At "warn" it writes a line for each of the tens of thousands of connections that end.
ENVIRONMENT = {"LOG_LEVEL": "error"}
# Go collects garbage whenever that has doubled the heap, by default. Here most of it is connections that stay, so that a quarter
# of Toxiproxy's time went into looking at them again and again while 300 nodes joined. Whoever has set these keeps them.
COLLECT_AFTER = 400  # % of what is in use
HEAP_SHARE = 4  # of the machine's memory: one part in so many is the heap's before it is collected more often again
STOP_GRACE = 2.0  # s between SIGTERM and SIGKILL


def environment(memory: int) -> dict[str, str]:
    """The variables that a server runs with on a machine of so many bytes of memory; 0: nobody knows how many."""
    heap = {"GOGC": str(COLLECT_AFTER), "GOMEMLIMIT": str(memory // HEAP_SHARE)} if memory else {}
    return ENVIRONMENT | {name: os.environ.get(name, value) for name, value in heap.items()}


def await_api(control: ToxiproxyControl, alive: Callable[[], bool]) -> str:
    """Wait until a server's API answers, as long as it is ``alive``; its version. Raises ToxiproxyFailed."""
    until_it_answers = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, ToxiproxyFailed) and alive()),
        wait=tenacity.wait_exponential(multiplier=0.01, max=0.2),
        stop=tenacity.stop_after_delay(START_DEADLINE),
        reraise=True,
    )
    return until_it_answers(control.version)


class ToxiproxyServer:
    """One server on a loopback address. ``control`` is valid once `start` has returned."""

    def __init__(self, binary: Path, host: str, port: int, *, log: Path, spawn: Spawn) -> None:
        self._binary, self._log, self._spawn = binary, log, spawn
        self.host, self.port = host, port
        self.control = ToxiproxyControl(host, port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it and wait until its API answers; returns its version.

        Raises:
            ToxiproxyFailed: it ended or did not answer in time; the text has the end of its log.
            HarnessError: the binary cannot be run.
        """
        self._process = self._spawn(
            [
                *("env", *(f"{name}={value}" for name, value in environment(psutil.virtual_memory().total).items())),
                *(str(self._binary), "-host", self.host, "-port", str(self.port)),
            ],
            name="toxiproxy",
            stderr=self._log,
        )
        try:
            return await_api(self.control, self.alive)
        except ToxiproxyFailed as error:
            raise ToxiproxyFailed(
                f"Toxiproxy ({self._binary}) did not start on {self.host}:{self.port}: {self.exit() or error}. "
                f"The end of {self._log}:\n{tail(self._log)}"
            ) from error

    def alive(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def exit(self) -> str:
        """How it ended, for people; empty while it lives."""
        return "" if self._process is None or self.alive() else describe_exit(self._process.returncode)

    def wait(self) -> None:
        """Return when the process has ended."""
        if self._process is not None:
            self._process.wait()

    def restart(self) -> str:
        """Kill what is left of it and start it anew, without its links; returns its version. Raises as `start` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return self.start()

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL for one that does not go."""
        self.control.close()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
