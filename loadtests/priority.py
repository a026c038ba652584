"""Lets the generator run before the system that it measures, where the machine allows it.

A worker that shares a full machine with the nodes is woken late: by tens of milliseconds on two cores with fifty
containers, whatever its niceness, since each group of processes has its own. That delay is in what it sends and, as an
answer is timed when it is read, in the latencies that it reports. A worker sleeps nearly always, so the real-time class
takes next to nothing from the nodes.
"""

from __future__ import annotations

import os


def run_first(workers: int) -> bool:
    """Put the calling thread into the real-time class, not its children; whether that was done.

    It takes root's rights (or RLIMIT_RTPRIO). Where the ``workers`` of this load would leave no core to the nodes, nothing
    is changed: workers at their limit would starve what they measure.
    """
    if not hasattr(os, "sched_setscheduler") or workers >= len(os.sched_getaffinity(0)):
        return False
    lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, lowest)
    except OSError:  # not permitted, or not on this kernel
        return False
    return True
