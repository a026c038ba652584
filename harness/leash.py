"""Run a command that must not outlive the process that started it: ``python -I -S leash.py PARENT_PID COMMAND…``.

The parent-death signal is set here and survives the `exec`, so that the command itself (Toxiproxy, Locust, a node of
another target) needs to know nothing of it. A preexec_fn could do the same without a process of its own, but is not safe
in a harness with threads. The file imports nothing of Kadstorm and runs without site-packages: it costs about 20 ms.

Elsewhere than on Linux there is no such signal; the command is then run as it is, and `kadstorm cleanup` finds what
remains by the session's name in its environment.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was set
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  that is the point


if __name__ == "__main__":
    main(sys.argv[1:])
