"""What an engine cannot do to a container, though it takes the order: freeze it, or hold it to a limit.

That is what control groups are for, and a rootless engine has them only of version 2. Without them Docker answers the order to
freeze with an error, in the middle of a run, and both Docker and Podman take limits and forget them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from harness.backends import Power
from harness.containers.engine import Engine, translated
from harness.errors import EngineFailed

ASKED_BY = {"pause": "the fault `pause`", "cpus": "`cluster.limits.cpus`", "memory": "`cluster.limits.memory`"}
REMEDY = (
    "leave that out, or take an engine of root's, or start its machine with control groups of version 2 "
    "(kernel option systemd.unified_cgroup_hierarchy=1) and delegate them to its user (docs/containers.md)"
)


def check(engine: Engine, needs: Collection[Power]) -> None:
    """See that the engine can do what is needed. Raises EngineFailed, with what it cannot and what to do."""
    if missing := sorted(lacking(engine) & set(needs)):
        asked = ", ".join(ASKED_BY[power] for power in missing)
        raise EngineFailed(f"the engine at {engine.url} can do nothing for {asked}: {why(engine)}. Either {REMEDY}")


def lacking(engine: Engine) -> frozenset[Power]:
    """Of `pause`, `cpus` and `memory`, what it cannot do. Raises EngineFailed."""
    info = _info(engine)
    if _groupless(info):
        return frozenset(("pause", "cpus", "memory"))
    found: set[Power] = set()
    if not info.get("MemoryLimit", True):
        found.add("memory")
    if not info.get("CpuCfsQuota", True):
        found.add("cpus")
    return frozenset(found)


def why(engine: Engine) -> str:
    """The reason, for people. Raises EngineFailed."""
    info = _info(engine)
    if _groupless(info):
        if info.get("CgroupVersion") == "2":
            return "it is rootless, and its user was delegated no control groups"
        return "it is rootless, and such have no control groups of version 1, which its machine has"
    return "its machine gives it no control group for that"


def memory(engine: Engine) -> int:
    """How many bytes its machine has; 0 if it does not say. Raises EngineFailed."""
    return int(_info(engine).get("MemTotal") or 0)


def _info(engine: Engine) -> Mapping[str, Any]:
    with translated("asking the engine what it can do"):
        return dict(engine.api.info())


def _groupless(info: Mapping[str, Any]) -> bool:
    """Docker says so; Podman says only that it is rootless."""
    rootless = info.get("Rootless") or "name=rootless" in (info.get("SecurityOptions") or ())
    return info.get("CgroupDriver") == "none" or bool(rootless and info.get("CgroupVersion") == "1")
