"""What everything of ours carries in an engine: whose it is, and until when.

kadstorm.session   the session's name; cleanup goes by it alone
kadstorm.host      the machine of the harness, since an engine may serve several
kadstorm.state     the folder in which the session is noted there: its lock says whether the session lives
kadstorm.owner     the harness's process, for people
kadstorm.expires   Unix time after which it is over, unless its lock is held on this machine; the last one of a session holds
kadstorm.member    the member's name, or `toxiproxy`
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

from harness.session import Lock

SESSION, HOST, STATE = "kadstorm.session", "kadstorm.host", "kadstorm.state"
OWNER, EXPIRES, MEMBER = "kadstorm.owner", "kadstorm.expires", "kadstorm.member"
TOXIPROXY = "toxiproxy"  # as a member


def of_session(session_id: str, state: Path, lasts: float) -> dict[str, str]:
    """The labels of one session, from now on."""
    return {
        SESSION: session_id,
        HOST: platform.node(),
        STATE: str(state.resolve()),
        OWNER: str(os.getpid()),
        EXPIRES: str(int(time.time() + lasts)),
    }


def is_ours(labels: Mapping[str, str], state: Path) -> bool:
    """Whether a session that is noted in ``state`` on this machine made it: then its lock says whether it lives."""
    noted = _state_here(labels)
    return noted is not None and noted == state.resolve()


def is_held(labels: Mapping[str, str]) -> bool:
    """Whether somebody on this machine holds the lock of the session that made it, in whichever state folder."""
    noted = _state_here(labels)
    return noted is not None and Lock(noted / "sessions" / labels.get(SESSION, "?") / "lock").is_held()


def expires(labels: Mapping[str, str]) -> float:
    """The Unix time when its time is over; what has no readable time has all of it."""
    try:
        return int(labels[EXPIRES])
    except (KeyError, ValueError):
        return math.inf


def has_expired(labels: Mapping[str, str], now: float) -> bool:
    """Whether its time is over."""
    return expires(labels) < now


def _state_here(labels: Mapping[str, str]) -> Path | None:
    """The state folder that it names, links followed; None for another machine's, or a relative one, which may be anywhere."""
    noted = Path(labels.get(STATE, ""))
    return noted.resolve() if labels.get(HOST) == platform.node() and noted.is_absolute() else None
