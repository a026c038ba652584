"""How a worker is driven: commands as JSON lines on stdin, events as JSON lines on stdout.

commands: time · preload · start {clock} · readback {gateways} · stop · quit; end of file means quit.
events: up · time {clock} · preloaded · started · stats · drained · readback · error {message} · bye.

stdout belongs to the protocol alone: whatever else prints there is sent to stderr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
from gevent.fileobject import FileObject

from loadtests.errors import ControlError

STDIN, STDOUT, STDERR = 0, 1, 2


class Time(msgspec.Struct, tag_field="command", tag="time"):
    """Tell the time, on the clock that `Start` means: another machine's is another."""


class Start(msgspec.Struct, tag_field="command", tag="start"):
    """Set t = 0 to ``clock`` (CLOCK_MONOTONIC, s; may lie in the future) and begin the load."""

    clock: float


class Preload(msgspec.Struct, tag_field="command", tag="preload"):
    """Store the first keys."""


class ReadBackKeys(msgspec.Struct, tag_field="command", tag="readback"):
    """Read all acknowledged keys back through ``gateways``, those believed alive."""

    gateways: list[str]


class Stop(msgspec.Struct, tag_field="command", tag="stop"):
    """End the load now, and drain."""


class Quit(msgspec.Struct, tag_field="command", tag="quit"):
    """End at once."""


Command = Time | Start | Preload | ReadBackKeys | Stop | Quit
_decoder = msgspec.json.Decoder(Command)
_encoder = msgspec.json.Encoder()


def parse(line: bytes) -> Command:
    """One line of stdin.

    Raises:
        ControlError: it is no command.
    """
    try:
        command: Command = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ControlError(f"not a command: {line[:200]!r}: {error}") from error
    return command


class Control:
    """This process's stdin and stdout."""

    def __init__(self) -> None:
        self._out = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)

    def commands(self) -> Iterator[Command]:
        """Commands as they come, until the end of stdin. Cooperative. Raises ControlError for a malformed one."""
        with FileObject(STDIN, "rb", close=False) as lines:
            for line in lines:
                if line.strip():
                    yield parse(line)

    def tell(self, event: str, **fields: Any) -> None:
        """Send an event.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        os.write(self._out, _encoder.encode({"event": event, **fields}) + b"\n")
