"""Finding and removing what a session left in an engine: containers, then volumes, then networks.

Everything goes by the session's label. What cannot be removed is said, and the rest is removed all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import requests
from docker.errors import APIError, DockerException, NotFound

from harness.containers import labels
from harness.containers.engine import Engine, may_pass, translated
from harness.errors import EngineFailed

# What takes long is the kernel's taking namespaces and links apart, which waits, and takes many at once as easily as one: of 200
# containers, eight at a time took 3 s each.
REMOVERS = 24
TRIES = 5
IN_PROGRESS = 409  # the engine removes it already
STILL_JOINED = "active endpoints"  # what a busy engine says for a moment after the last container has gone
PAUSE = 0.3  # s
LOOK_AGAIN = 0.5  # s between two looks, for what the engine is still making
MOST_LOOKS = 20
TIMES = 2  # that the same things are removed in vain


@dataclass
class Remains:
    """What carries one session's label."""

    labels: Mapping[str, str]
    containers: list[str] = field(default_factory=list)  # Toxiproxy's first
    volumes: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.containers)} containers, {len(self.volumes)} volumes, {len(self.networks)} networks"

    def __bool__(self) -> bool:
        return bool(self.containers or self.volumes or self.networks)

    def names(self) -> set[str]:
        """All of it, whatever it is."""
        return {*self.containers, *self.volumes, *self.networks}


@dataclass
class Removal:
    """What has been done about one session: what is gone, and what could not be removed, and why."""

    gone: Remains = field(default_factory=lambda: Remains({}))
    trouble: list[str] = field(default_factory=list)


def find(engine: Engine, session_id: str | None = None) -> dict[str, Remains]:
    """What there is of each session, or of one. Raises EngineFailed."""
    wanted = labels.SESSION if session_id is None else f"{labels.SESSION}={session_id}"
    filters = {"label": [wanted]}
    found: dict[str, Remains] = {}

    def remains(its: Mapping[str, str]) -> Remains:
        one = found.setdefault(its[labels.SESSION], Remains(its))
        one.labels = max(one.labels, its, key=labels.expires)  # a load worker's may be over long after a node's
        return one

    with translated("listing what sessions left"):
        for one in engine.api.containers(all=True, filters=filters):
            # For each that leaves a network, Docker reads the machine's whole table of tracked connections for those of its
            # address. One end of nearly all is Toxiproxy's: once that has gone, the table is short for all others.
            containers = remains(one["Labels"]).containers
            first = one["Labels"].get(labels.MEMBER) == labels.TOXIPROXY
            containers.insert(0 if first else len(containers), one["Id"])
        for one in engine.api.volumes(filters=filters)["Volumes"] or []:
            remains(one["Labels"]).volumes.append(one["Name"])
        for one in engine.api.networks(filters=filters):
            remains(one["Labels"]).networks.append(one["Id"])
    return found


def dead_sessions(engine: Engine, state: Path, is_alive: Callable[[str], bool]) -> dict[str, Remains]:
    """Sessions that nobody looks after any more.

    One that was noted in ``state`` on this machine is dead if its lock says so; any other if it `is_over`.
    """
    now = time.time()
    return {
        name: remains
        for name, remains in find(engine).items()
        if (not is_alive(name) if labels.is_ours(remains.labels, state) else is_over(remains, now))
    }


def is_over(remains: Remains, now: float) -> bool:
    """Whether a session's time is over, and nobody on this machine holds its lock all the same."""
    return labels.has_expired(remains.labels, now) and not labels.is_held(remains.labels)


def sweep_abandoned(engine: Engine, tell: Callable[[str], None]) -> None:
    """Remove sessions that are over (`is_over`), as each start does; what cannot be removed is said. Raises EngineFailed."""
    now = time.time()
    for name, remains in find(engine).items():
        if is_over(remains, now):
            tell(f"removing what the expired session {name} left: {remains}")
            for text in remove_session(engine, name).trouble:
                tell(f"  {text}")


def remove_session(engine: Engine, session_id: str, *, empty_looks: int = 1) -> Removal:
    """Remove all of it, looking until so many looks in a row find nothing. Raises EngineFailed if not even one look is to be had.

    An engine goes on with what it was asked, also when the harness that asked has been killed: what it was making then is in
    no list yet, which a second empty look, `LOOK_AGAIN` later, tells from nothing.
    """
    removal, empty, unchanged, before = Removal(), 0, 0, set[str]()
    for count in range(MOST_LOOKS):
        if empty:
            time.sleep(LOOK_AGAIN)
        try:
            left = find(engine, session_id).get(session_id) or Remains({})
        except EngineFailed as error:
            if not count:
                raise
            removal.trouble.append(str(error))
            return removal
        empty = 0 if left else empty + 1
        unchanged = unchanged + 1 if left.names() == before else 0
        if empty >= empty_looks or (left and unchanged >= TIMES):
            break
        removal.trouble = _remove(engine, left, removal.gone)
        before = left.names()
    removal.trouble = (removal.trouble or [f"still there: {left}"]) if left else []
    return removal


def _remove(engine: Engine, remains: Remains, gone: Remains) -> list[str]:
    """Remove it and note in ``gone`` what is; what could not be removed, and why."""
    api = engine.api
    crowd = Crowd([] if engine.is_podman else [*remains.networks])
    steps: list[tuple[str, list[str], list[str], Callable[[str], Any]]] = [
        ("container", remains.containers, gone.containers, lambda id_: _remove_container(engine, id_, crowd)),
        ("volume", remains.volumes, gone.volumes, lambda name: api.remove_volume(name, force=True)),
        # one that a foreign container uses is named, and left
        ("network", remains.networks, gone.networks, lambda id_: _remove_network(engine, id_)),
    ]
    trouble: list[str] = []
    with ThreadPoolExecutor(REMOVERS) as pool:
        for what, names, done, remove in steps:
            said = list(pool.map(lambda name, what=what, remove=remove: _attempt(what, name, remove), names))
            trouble += [text for text in said if text]
            done += [name for name, text in zip(names, said, strict=True) if not text and name not in done]
    return trouble


@dataclass(frozen=True)
class Crowd:
    """Networks that many are about to leave, and whose turn it is.

    Docker 20.10 loses count now and then of those on a network where several leave it at once (of 50 containers, one time in
    five), and cannot remove it before it has been restarted itself. Podman does not count.
    """

    networks: list[str]  # emptied if the engine does not answer: no container is to wait for that again
    turn: Lock = field(default_factory=Lock)


def _remove_container(engine: Engine, id_: str, crowd: Crowd) -> None:
    with crowd.turn:
        try:
            for network in crowd.networks:
                with suppress(APIError):  # it is not on it, or has gone: whatever is wrong, its removal says
                    engine.api.disconnect_container_from_network(id_, network, force=True)
        except (DockerException, requests.RequestException):
            crowd.networks.clear()
    engine.api.remove_container(id_, force=True, v=True)


def _remove_network(engine: Engine, id_: str) -> None:
    """Podman would take a network from under who is on it, and leave its bridge to nobody; Docker refuses by itself."""
    if engine.is_podman and (there := engine.api.inspect_network(id_).get("Containers")):
        names = ", ".join(sorted(str(one.get("Name") or "?") for one in there.values()))
        raise DockerException(f"other containers are on it: {names}")
    engine.api.remove_network(id_)


def _settles(error: Exception) -> bool:
    """Whether the engine is likely to take the same request a moment later."""
    if not isinstance(error, APIError):
        return False
    return error.status_code == IN_PROGRESS or STILL_JOINED in str(error.explanation)


def _attempt(what: str, name: str, remove: Callable[[str], Any]) -> str:
    """Remove one thing; empty, or why it is still there."""
    error: Exception | None = None
    for attempt in range(TRIES):
        try:
            remove(name)
        except NotFound:
            return ""
        except (DockerException, requests.RequestException) as failure:
            error = failure
            if not may_pass(failure) and not _settles(failure):
                break
            time.sleep(PAUSE * (attempt + 1))  # the engine is at it: all there is to do is to ask again
            continue
        return ""
    said = str(error.explanation if isinstance(error, APIError) else error)
    if STILL_JOINED in said:
        said += "; if no container is on it (`docker network inspect`), the engine has lost count, and its restart mends that"
    return f"{what} {name[:12]} could not be removed: {said}"
