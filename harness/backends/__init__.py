"""Where nodes run: a backend starts, stops and freezes members, and knows nothing of what they say to each other.

One file each; found by the entry-point group ``kadstorm.backends``. What a backend cannot do it leaves out of
``powers``, and the experiment is refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

ProcessState = Literal["running", "paused", "dead"]
Power = Literal["kill", "stop", "pause", "restart"]


@dataclass(frozen=True)
class Preload:
    """Code that all members of a cluster have in common, so that a backend may load it once for all of them.

    ``main`` is the path (`module:function`) of a function that takes command-line arguments and returns an exit code;
    ``modules`` are imported beside it if they are there.
    """

    main: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmStart:
    """How to start a member from loaded code: the preload's function is called with ``arguments``."""

    preload: Preload
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class MemberSpec:
    """How to start one member: its command, where its standard error goes, and a faster way to the same, if any."""

    name: str
    command: tuple[str, ...]
    log: Path
    watches_parent: bool  # the command ends by itself when the process that started it does
    warm: WarmStart | None = None


@dataclass(frozen=True)
class Exit:
    """A member ended. ``asked`` is false if nobody wanted that; ``how`` is for people (`exit code 3`)."""

    name: str
    asked: bool
    how: str


class Backend(Protocol):
    """Members as processes of some kind. All methods are thread-safe; errors are `MemberFailed`, naming the member."""

    powers: frozenset[Power]

    def start(self, specs: Sequence[MemberSpec], *, deadline: float) -> None:
        """Start members side by side; returns when each has said that it serves.

        ``deadline`` is a monotonic time. Raises MemberFailed with the exit code and the end of the log.
        """
        ...

    def stop(self, name: str, *, grace: float) -> None:
        """Ask a member to leave, and make it after ``grace`` seconds. Returns when it is gone."""
        ...

    def kill(self, name: str) -> None:
        """End a member at once. Returns when it is gone."""
        ...

    def pause(self, name: str) -> None:
        """Freeze a member; its connections stay open."""
        ...

    def resume(self, name: str) -> None:
        """Let a frozen member go on."""
        ...

    def state(self, name: str) -> ProcessState:
        """What the machine says about the member now, not what was asked of it."""
        ...

    def on_exit(self, listener: Callable[[Exit], None]) -> None:
        """Tell ``listener`` each end of a member, from a thread of the backend."""
        ...

    def close(self) -> None:
        """End all members and release everything."""
        ...
