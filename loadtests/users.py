"""Locust's users: one dispatcher for the open model, many for the closed one. They find their session on the environment."""

from __future__ import annotations

import time
from random import Random
from typing import Any, cast

import gevent
from gevent.pool import Pool
from locust import User, task
from locust.exception import StopUser

from loadtests.arrivals import Model, arrivals
from loadtests.gateways import Gateway
from loadtests.session import LoadSession


SESSION = "kadstorm_session"  # the attribute of the environment where users find their session


class SessionUser(User):
    """Base: a user that works on the environment's session."""

    abstract = True

    @property
    def session(self) -> LoadSession:
        return cast(LoadSession, getattr(self.environment, SESSION))

    def await_clock(self) -> LoadSession:
        """Wait for the clock's start."""
        session = self.session
        while session.zero is None:
            gevent.sleep(0.01)
        gevent.sleep(max(0.0, session.zero - time.monotonic()))
        return session


class OpenUser(SessionUser):
    """Sends every arrival at its due time, whatever became of the ones before: one greenlet for each."""

    fixed_count = 1

    @task
    def dispatch(self) -> None:
        """Serve all arrivals of this worker, then stop."""
        session = self.await_clock()
        options, config = session.options, session.config
        assert options.rate_per_s is not None
        model = cast(Model, options.arrivals or "poisson")
        rng = Random(f"{config.seed}/{config.worker}/arrivals")
        pool = Pool()
        present: Gateway | None = None
        for due in arrivals(model, options.rate_per_s, index=config.index, workers=config.workers, rng=rng):
            if session.stopping or (config.duration_s is not None and due >= config.duration_s):
                break
            self._wait_until(session, due)
            present = session.gateways.sticky(present) if options.gateways == "sticky" else session.gateways.random()
            self._send(session, pool, due, present)
        session.drain()
        raise StopUser

    @staticmethod
    def _wait_until(session: LoadSession, due: float) -> None:
        ahead = due - session.now()
        if ahead > 0:
            gevent.sleep(ahead)
        session.lags.append(max(0.0, session.now() - due))

    @staticmethod
    def _send(session: LoadSession, pool: Any, due: float, gateway: Gateway) -> None:
        assert session.zero is not None
        kind, intended = session.draw_kind(), session.zero + due
        if len(pool) >= session.options.max_in_flight:
            session.shed(kind, intended)
        else:
            pool.spawn(session.operate, kind, intended, gateway)


class ClosedUser(SessionUser):
    """Asks, waits for the answer, thinks, and asks again."""

    @task
    def live(self) -> None:
        """One user's life."""
        session = self.await_clock()
        present: Gateway | None = None
        while not session.over():
            sticky = session.options.gateways == "sticky"
            present = session.gateways.sticky(present) if sticky else session.gateways.random()
            session.operate(session.draw_kind(), time.monotonic(), present)
            gevent.sleep(session.options.think_s)
        raise StopUser
