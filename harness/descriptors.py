"""How many files this process, and so what it starts, may have open: as many as are needed, as far as that is allowed.

Many machines allow 1,024 by a soft limit that every process may raise to the hard one; the hard one a process may raise that has
CAP_SYS_RESOURCE, as root has. Toxiproxy of a large cluster needs tens of thousands (links.py).
"""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

NR_OPEN = Path("/proc/sys/fs/nr_open")
NR_OPEN_DEFAULT = 1_048_576  # the kernel's own, where it does not tell


def most() -> int:
    """How many files the kernel lets any process have open, whoever asks."""
    try:
        return int(NR_OPEN.read_text())
    except (OSError, ValueError):
        return NR_OPEN_DEFAULT


def hard() -> int:
    """How many files this process may have open at the most, as it is."""
    return min(most(), limit) if (limit := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) >= 0 else most()


def allow(needed: int) -> int:
    """Raise this process's limit so that it may have ``needed`` files open, as far as can be; how many it may have then.

    The soft limit goes up to the hard one in any case: no process is better off for less.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finite = hard != resource.RLIM_INFINITY
    wanted = min(needed, most())
    if finite and hard < wanted:
        with suppress(OSError, ValueError):  # that takes a privilege, which may be missing
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    if (full := hard if finite else max(soft, most())) != soft:
        with suppress(OSError, ValueError):  # the kernel of a Mac allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (full, hard))
            return full
    return soft
