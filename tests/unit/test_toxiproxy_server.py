"""What a Toxiproxy server of this machine is started with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from harness.errors import HarnessError
from harness.toxiproxy.server import ToxiproxyServer


def environment_of_server(tmp_path: Path) -> dict[str, str]:
    """The variables that its command sets."""
    commands: list[list[str]] = []

    def spawn(command: list[str], **_: object) -> subprocess.Popen[bytes]:
        commands.append(command)
        raise HarnessError("far enough")

    server = ToxiproxyServer(Path("/toxiproxy-server"), "127.0.0.1", 8474, log=tmp_path / "log", spawn=spawn)
    with pytest.raises(HarnessError, match="far enough"):
        server.start()
    (command,) = commands
    assert command[0] == "env"
    return dict(word.split("=", 1) for word in command[1 : command.index("/toxiproxy-server")])


def test_it_collects_garbage_rarely_as_long_as_its_heap_is_a_part_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOGC", "GOMEMLIMIT"):
        monkeypatch.delenv(name, raising=False)
    told = environment_of_server(tmp_path)
    assert told["LOG_LEVEL"] == "error"
    assert int(told["GOGC"]) > 100, "more rarely than by default"
    assert int(told["GOMEMLIMIT"]) <= psutil.virtual_memory().total / 2


def test_whoever_has_set_how_go_collects_garbage_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOGC", "50")
    monkeypatch.setenv("GOMEMLIMIT", "1GiB")
    told = environment_of_server(tmp_path)
    assert (told["GOGC"], told["GOMEMLIMIT"]) == ("50", "1GiB")
