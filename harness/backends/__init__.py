"""Where nodes run: a backend starts, stops and freezes members, and knows nothing of what they say to each other.

One file each; found by the entry-point group ``kadstorm.backends``. What a backend cannot do it leaves out of
``powers``, and the experiment is refused before anything starts.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from harness.spawner import Spawn
from harness.targets import ImageRecipe, Place, Preload
from harness.toxiproxy.control import ToxiproxyControl
from harness.transfers import Dial

ProcessState = Literal["running", "paused", "dead"]
Power = Literal["kill", "stop", "pause", "restart", "cpus", "memory"]  # the last two: limits
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Ground:
    """What a backend is given: whose session it is, where that keeps its files, and what its members may use up."""

    session_id: str
    host: str  # the session's loopback address
    state: Path  # where the session is noted
    run_dir: Path
    toxiproxy: Path  # the server's binary
    spawn: Spawn
    recipe: Callable[[], ImageRecipe]  # of the target's image, for backends that need one
    limits: Mapping[str, Any] = field(default_factory=dict)  # `cpus` as a number of them, `memory` in bytes
    lasts: float = 3600.0  # s after which the session is over, whatever has become of it


@dataclass(frozen=True)
class Quarters:
    """Where load workers have to be, if from here they would measure the way to the members instead of the members."""

    network: str  # a container's, on which members can be dialled at their own addresses
    keeper: str  # HOST:PORT of the session's lease there
    addresses: tuple[str, ...]  # one for each worker


@dataclass(frozen=True)
class Layout:
    """Where members are for each other, and for clients: there, too, or on the session's address at the same ports."""

    place: Place
    proxy_host: str  # where Toxiproxy's links listen
    hosts: Mapping[str, str]  # member -> its own address
    callers: tuple[str, ...] = ()  # the only networks from which members take connections; () is any
    dial: Dial = socket.create_connection  # how the harness reaches links
    quarters: Quarters | None = None  # None: load workers may be on this machine
    direct: bool = False  # clients on this machine dial members at their own addresses

    def client_host(self, member: str, session_host: str) -> str:
        """Where clients on this machine dial a member."""
        return self.hosts[member] if self.direct else session_host


HERE = Layout("process", "", {})


class Toxiproxy(Protocol):
    """The life of one Toxiproxy server. ``control`` is valid once `start` has returned."""

    control: ToxiproxyControl

    def start(self) -> str:
        """Start it and wait until its API answers; returns its version. Raises ToxiproxyFailed, with the end of its log."""
        ...

    def alive(self) -> bool:
        """Whether it runs."""
        ...

    def exit(self) -> str:
        """How it ended, for people; empty while it lives."""
        ...

    def wait(self) -> None:
        """Return when it has ended."""
        ...

    def restart(self) -> str:
        """Kill what is left of it and start it anew, without its links; returns its version. Raises as `start` does."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


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
    address: str = ""  # its own address, where the backend gives it one
    port: int = 0  # where it listens; 0: nowhere
    keeps_data: bool = False  # it has a folder for data, which outlives it
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

    @classmethod
    def prepare(cls, toxiproxy: Path, recipe: Callable[[], ImageRecipe], needs: Collection[Power], tell: Tell) -> None:
        """See that the machine can do this, before any run: engine, images, what the plans need to be done to members.

        ``tell`` hears of what takes long.

        Raises:
            HarnessError: it cannot; the text says what to do.
        """
        ...

    @classmethod
    def on(cls, ground: Ground) -> Self:
        """The backend of one session."""
        ...

    def lay_out(self, names: Sequence[str]) -> Layout:
        """Give every member that the plan will ever have its address. Called once, before anything starts."""
        ...

    def allow_descriptors(self, needed: int) -> int:
        """Have Toxiproxy, once it is started, be allowed to open ``needed`` files; how many it may, which can be fewer."""
        ...

    def toxiproxy(self, log: Path) -> Toxiproxy:
        """The session's Toxiproxy, not started yet."""
        ...

    def data_dir(self, name: str) -> str:
        """The folder of a member's data, as the member sees it."""
        ...

    def erase(self, name: str) -> None:
        """Remove the data of a member that is not running."""
        ...

    def ahead(self, specs: Sequence[MemberSpec]) -> None:
        """Begin, in the background, with what can be done for members before their first step. `start` is to follow.

        They take that once `start` is called for one of them, and not before. Toxiproxy has to run by then. What fails is raised
        by `start`.
        """
        ...

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
