"""What this machine can do, what it cannot, and how to mend that. Starts nothing and changes nothing."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from harness.errors import ToxiproxyUnavailable
from harness.session import Lock, recorded_sessions, state_dir
from harness.toxiproxy import binary

State = Literal["ok", "warn", "fail"]

OWN_SITES = 64  # up to so many nodes each is a site of its own (docs/experiments.md)
SHARED_SITES = 16
NODE_BYTES = 30 * 2**20  # resident memory of one node process
LINK_BYTES = 15 * 2**10  # of one proxy in Toxiproxy
LOAD_BYTES = 200 * 2**20  # of one load worker with Locust and Arrow
DESCRIPTORS_PER_CONNECTION = 2  # in Toxiproxy: the caller's side and the destination's
POOL = 16  # connections that a node keeps open


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty if there is nothing to mend."""

    what: str
    state: State
    said: str
    remedy: str = ""


def examine(nodes: int) -> Iterator[Finding]:
    """Look at everything that a run of ``nodes`` nodes needs, one finding at a time."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _platform,
        _toxiproxy,
        _loopback,
        lambda: _descriptors(nodes),
        lambda: _memory(nodes),
        _state,
        _dead_sessions,
        _docker,
    ]
    for check in checks:
        yield check()


def sites_of(nodes: int) -> int:
    """Sites that so many nodes have by default."""
    return nodes if nodes <= OWN_SITES else SHARED_SITES


def descriptors_needed(nodes: int) -> int:
    """File descriptors of Toxiproxy, the hungriest process: a listener per link, two per connection."""
    return sites_of(nodes) * nodes + nodes * min(POOL, nodes) * DESCRIPTORS_PER_CONNECTION + 64


def memory_needed(nodes: int) -> int:
    """Bytes for nodes, links and one load worker."""
    return nodes * NODE_BYTES + sites_of(nodes) * nodes * LINK_BYTES + LOAD_BYTES


def _python() -> Finding:
    said = f"{platform.python_version()} at {sys.executable}"
    return Finding("Python", "ok", said)


def _platform() -> Finding:
    if platform.system() == "Linux":
        return Finding("platform", "ok", f"Linux {platform.release()}, {os.cpu_count()} CPUs")
    return Finding(
        "platform",
        "warn",
        platform.platform(),
        "Linux is the platform of Kadstorm; here, two runs at once share 127.0.0.1 and nothing dies with a killed harness",
    )


def _toxiproxy() -> Finding:
    try:
        found = binary.find_ready(os.environ.get("KADSTORM_TOXIPROXY"))
    except ToxiproxyUnavailable as error:
        return Finding("Toxiproxy", "fail", str(error), "correct KADSTORM_TOXIPROXY or --toxiproxy")
    if found is not None:
        return Finding("Toxiproxy", "ok", str(found))
    if shutil.which("go"):
        return Finding("Toxiproxy", "ok", "not here yet; the first run builds it with Go (about a minute, once)")
    return Finding(
        "Toxiproxy",
        "warn",
        "not here; the first run will try to download a release",
        "if that is refused: install Go, or put toxiproxy-server 2.5 or newer on the PATH",
    )


def _loopback() -> Finding:
    host = "127.20.1.1" if sys.platform == "linux" else "127.0.0.1"
    try:
        with socket.create_server((host, 0)):
            return Finding("loopback", "ok", f"addresses such as {host} can be used")
    except OSError as error:
        return Finding(
            "loopback",
            "fail",
            f"{host}: {error.strerror}",
            "bring the loopback interface up: ip link set lo up",
        )


def _descriptors(nodes: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors_needed(nodes)
    said = f"{needed} needed for {nodes} nodes, {soft} allowed"
    if needed <= soft:
        return Finding("file descriptors", "ok", said)
    if hard == resource.RLIM_INFINITY or needed <= hard:
        return Finding("file descriptors", "fail", said, f"ulimit -n {needed}")
    return Finding(
        "file descriptors",
        "fail",
        f"{said} ({hard} at most)",
        "raise the hard limit, or take fewer nodes or cluster.sites",
    )


def _memory(nodes: int) -> Finding:
    needed, there = memory_needed(nodes), psutil.virtual_memory().available
    said = f"about {_gib(needed)} needed for {nodes} nodes, {_gib(there)} available"
    if needed <= there:
        return Finding("memory", "ok", said)
    return Finding("memory", "fail", said, "take fewer nodes")


def _state() -> Finding:
    folder = state_dir()
    probe = Lock(folder / "doctor.lock")
    try:
        free = probe.acquire()
    except OSError as error:
        return Finding(
            "state folder",
            "fail",
            f"{folder}: {error.strerror}",
            "set KADSTORM_STATE to a folder that can be written",
        )
    probe.release()
    return Finding("state folder", "ok", str(folder) + ("" if free else " (another doctor is looking)"))


def _dead_sessions() -> Finding:
    dead = [folder.name for folder, _ in recorded_sessions(state_dir()) if _is_dead(folder)]
    if dead:
        return Finding("dead sessions", "warn", ", ".join(dead), "kadstorm cleanup")
    return Finding("dead sessions", "ok", "none")


def _is_dead(folder: Path) -> bool:
    lock = Lock(folder / "lock")
    if not lock.acquire():
        return False
    lock.release()
    return True


def _docker() -> Finding:
    import docker  # a quarter of a second of import, for this one finding

    try:
        client = docker.from_env(version="auto", timeout=5)
    except docker.errors.DockerException as error:
        return Finding(
            "Docker",
            "warn",
            f"no engine answers ({_first_line(error)})",
            "none is needed: experiments run on processes",
        )
    with client:
        version = client.version()
    return Finding("Docker", "ok", f"engine {version['Version']}, API {version['ApiVersion']}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
