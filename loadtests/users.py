"""Locust's users: what it spawns, counts and stops. They bring the operations of a `Workload` to life.

Importing this imports Locust, which monkey-patches the process: only load workers and `locust` itself do.

- Open model: one `OpenUser` per worker sends the arrivals, each a greenlet of its own.
- Closed model: each `ClosedUser` waits for its answer, thinks, and goes on. An operation is due when the user has
  finished thinking; users start spread over one think time, so that they do not go in step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar

import gevent
from locust import User, tag, task
from locust.event import EventHook
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from loadtests.alarm import Alarm
from loadtests.recorder import Operation
from loadtests.workload import Workload

# Operations of a user who does not think before Locust has its turn: to end and begin a task costs it as much as half of our
# own part of an operation.
IN_A_ROW = 16


class LoadUser(User):
    """What both models share. One workload per process, set before users are spawned; while ``idle`` there is none, as
    its test could not start, and users leave at once."""

    abstract = True
    workload: ClassVar[Workload]
    idle: ClassVar[bool] = False


class OpenUser(LoadUser):
    """Sends what is due, when it is due. Its operations outlive it: `Workload.drain` waits for them."""

    @tag("store", "lookup")
    @task
    def send(self) -> None:
        """Send all arrivals of this worker, once; a second user of this class would double the rate, so it leaves."""
        if not self.idle and self.workload.enrol() == self.workload.config.index:
            self.workload.send_arrivals()
        raise StopUser

    def stop(self, force: bool = False) -> bool:
        """Stop at once: nothing is in flight in this greenlet."""
        stopped: bool = super().stop(force=True)
        return stopped


class ClosedUser(LoadUser):
    """One client: asks, waits for the answer, thinks."""

    def on_start(self) -> None:
        """Take a number, and start at that number's share of the first think time."""
        if self.idle:
            return
        workload = self.workload
        self.number = workload.enrol()
        everyone = workload.options.users or 1
        share = workload.options.think_s * (self.number % everyone) / everyone
        self.due = max(workload.clock + share, time.monotonic())  # those that a shape adds later begin when they come
        with closing(Alarm()) as alarm:
            alarm.sleep_until(min(self.due, workload.end))

    def wait_time(self) -> float:
        """Seconds of thinking between two operations."""
        return self.workload.options.think_s

    @tag("store", "lookup")
    @task
    def operate(self) -> None:
        """One operation, or IN_A_ROW where there is no thinking between them, unless the load is over."""
        if self.idle:
            raise StopUser
        think = self.wait_time()
        if think:
            gevent.sleep(0)  # a kill may be on its way to whoever was thinking: it must not strike in an operation
        for _ in range(IN_A_ROW):
            if self.due >= self.workload.end:
                raise StopUser
            operation = self.workload.operate_next(self.due, self.number)
            self.due = operation.finished + think
            # Who is refused at once must let others have their turn, and whoever is to leave leaves now.
            if think or operation.outcome != "ok" or self._state == LOCUST_STATE_STOPPING:
                return


# What Locust's -T and -E may have taken away before we could say that tags choose kinds of operations here.
TASKS_OF: dict[type[LoadUser], tuple[Any, ...]] = {each: tuple(each.tasks) for each in (OpenUser, ClosedUser)}


def user_class(workload: Workload) -> type[LoadUser]:
    """The user class for the workload's model, bound to it."""
    LoadUser.workload = workload
    return ClosedUser if workload.options.users is not None else OpenUser


class RequestEvents:
    """A sink that tells Locust of every operation, so that its own statistics, page and listeners work."""

    def __init__(self, request: EventHook) -> None:
        self._fire: Callable[..., None] = request.fire

    def __call__(self, operation: Operation) -> None:
        self._fire(
            request_type=operation.kind,
            name=operation.phase,
            response_time=operation.latency * 1e3,
            response_length=0,
            exception=None if operation.outcome == "ok" else OperationFailed(operation.error),
            context={},
        )


class OperationFailed(Exception):
    """How Locust is told that an operation failed; never raised."""
