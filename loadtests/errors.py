"""Everything that loadtests/ raises, in one tree; whose fault it is decides what a worker does.

    LoadError
    ├── ConfigError        exit code 2: the configuration is wrong; nothing was started
    ├── RecordError        exit code 1: the operations file cannot be written (any more)
    ├── ControlError       exit code 1: a command that cannot be understood, or that comes out of turn
    ├── NothingStored      exit code 3: not one of the first keys was acknowledged; there is nothing to look up
    └── ClientFailure      an operation got no usable answer: becomes a row, never ends a worker
        ├── NoAnswer           outcome timeout
        ├── Refused            outcome refused: the gateway could not be connected to
        ├── ConnectionLost     outcome error: the connection broke while waiting
        └── BadAnswer          outcome error: the gateway answered, but not what its protocol allows

Clients (`client.py`, and those of other targets) translate their own errors into the last branch, once.
"""

from __future__ import annotations

from typing import ClassVar

from harness.records import Outcome


class LoadError(Exception):
    """Base of all errors that loadtests/ raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(LoadError):
    """A configuration or command line that cannot be run; the text names the option and what was expected."""

    exit_code = 2


class RecordError(LoadError):
    """The operations file cannot be opened or written."""


class ControlError(LoadError):
    """A command on stdin is malformed, unknown, or not allowed now."""


class NothingStored(LoadError):
    """Not one of the first keys was acknowledged: no gateway can be reached, or they are of another cluster."""

    exit_code = 3


class ClientFailure(LoadError):
    """An operation without a usable answer. ``gateway_failed``: its gateway is to be left alone for a while."""

    outcome: ClassVar[Outcome] = "error"
    gateway_failed: ClassVar[bool] = True


class NoAnswer(ClientFailure):
    """No answer in time. The gateway may be frozen, so it counts as failed."""

    outcome = "timeout"


class Refused(ClientFailure):
    """The gateway could not be connected to."""

    outcome = "refused"


class ConnectionLost(ClientFailure):
    """The connection broke before the answer came."""


class BadAnswer(ClientFailure):
    """The gateway lives and answers, but with a refusal or with something that cannot be understood."""

    gateway_failed = False
