"""What everything of ours carries in an engine: whose it is, and until when.

kadstorm.session   the session's name; cleanup goes by it alone
kadstorm.host      the machine of the harness, since an engine may serve several
kadstorm.state     the folder in which the session is noted there: its lock says whether the session lives
kadstorm.owner     the harness's process, for people
kadstorm.expires   Unix time after which it is over, whatever has become of its harness
kadstorm.member    the member's name, or `toxiproxy`
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

SESSION, HOST, STATE = "kadstorm.session", "kadstorm.host", "kadstorm.state"
OWNER, EXPIRES, MEMBER = "kadstorm.owner", "kadstorm.expires", "kadstorm.member"


def of_session(session_id: str, state: Path, lasts: float) -> dict[str, str]:
    """The labels of one session, from now on."""
    return {
        SESSION: session_id,
        HOST: platform.node(),
        STATE: str(state),
        OWNER: str(os.getpid()),
        EXPIRES: str(int(time.time() + lasts)),
    }


def is_ours(labels: Mapping[str, str], state: Path) -> bool:
    """Whether a session that is noted in ``state`` on this machine made it: then its lock says whether it lives."""
    return labels.get(HOST) == platform.node() and labels.get(STATE) == str(state)


def has_expired(labels: Mapping[str, str], now: float) -> bool:
    """Whether its time is over; what has no readable time has none."""
    try:
        return int(labels[EXPIRES]) < now
    except (KeyError, ValueError):
        return False
