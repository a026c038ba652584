"""Sleeping until a moment, to a few dozen microseconds, without holding up other greenlets.

gevent's own timers go through epoll's timeout, which counts whole milliseconds: every arrival would be sent 0.8 ms late
on average, and every latency measured that much too long. A timer descriptor (timerfd_create(2)) has no such grain,
and epoll reports it like any other descriptor. Python has it from 3.13 on, so it is called through ctypes. Elsewhere
than on Linux the millisecond stays.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

import gevent

CLOCK_MONOTONIC = 1  # <time.h>
TFD_TIMER_ABSTIME = 1  # <sys/timerfd.h>; the flags of timerfd_create are those of open(2)
READ = 1  # gevent's event mask


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Alarm:
    """One sleeper's timer. A greenlet that is killed while it sleeps leaves it usable; `close` it in the end."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._watcher: Any = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            self._fd = descriptor if descriptor >= 0 else None  # out of descriptors: the millisecond will do

    def sleep_until(self, moment: float) -> bool:
        """Sleep until ``moment`` (CLOCK_MONOTONIC, s); False if it was past already."""
        slept = False
        while (left := moment - time.monotonic()) > 0:
            if self._fd is None:
                gevent.sleep(left)
            else:
                self._wait(self._fd, moment)
            slept = True
        return slept

    def close(self) -> None:
        """Give the descriptor back."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _wait(self, descriptor: int, moment: float) -> None:
        seconds, nanoseconds = divmod(int(moment * 1e9) + 1, 10**9)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(seconds, nanoseconds))
        hub: Any = gevent.get_hub()
        if self._watcher is None:
            self._watcher = hub.loop.io(descriptor, READ)
        self._libc.timerfd_settime(descriptor, TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
        hub.wait(self._watcher)
        os.read(descriptor, 8)  # it stays readable otherwise
