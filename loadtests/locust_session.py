"""Locust's Environment and runner around one workload, for a worker without Locust's command line."""

from __future__ import annotations

from locust.env import Environment
from locust.runners import LocalRunner

from loadtests.users import RequestEvents, user_class
from loadtests.workload import DEADLINE_SLACK, Workload

LOAD = "load"  # the phase whose requests are counted


class LocustSession:
    """One Locust test in this process."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        patience = workload.options.patience_s + 2 * DEADLINE_SLACK
        self._environment = Environment(user_classes=[user_class(workload)], stop_timeout=patience)
        self._runner: LocalRunner = self._environment.create_local_runner()
        workload.sinks.append(RequestEvents(self._environment.events.request))

    @property
    def requests(self) -> int:
        """Operations of the load as Locust's own statistics count them."""
        entries = self._environment.stats.entries
        return sum(entry.num_requests for (name, _), entry in entries.items() if name == LOAD)

    def start(self) -> None:
        """Spawn the users; they wait for the clock by themselves."""
        users = self._workload.options.users
        count = 1 if users is None else self._workload.config.share(users)
        self._runner.start(count, spawn_rate=max(count, 1))

    def stop(self) -> None:
        """No new operations; wait for those that users are in the middle of, as long as they may take."""
        self._runner.stop()

    def quit(self) -> None:
        """End everything at once; operations in the middle leave their rows."""
        self._environment.stop_timeout = 0
        self._runner.quit()
