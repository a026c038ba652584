"""Before and after the load: storing the first keys, and reading every acknowledged key back.

Both work on many keys side by side, bounded, and tell how it went as counts. Their rows carry their own phase, so that
no figure of the load contains them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from gevent.pool import Pool
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

from loadtests.config import LoadOptions
from loadtests.errors import ControlError
from loadtests.keys import FIRST_VERSION
from loadtests.recorder import Operation
from loadtests.workload import Request, Workload

SIDE_BY_SIDE = 64
PRELOAD_ATTEMPTS = 5
PRELOAD_PER_KEY = 0.05  # s
PRELOAD_WAIT = (0.2, 2.0)  # s: first and longest wait between two attempts
READBACK_ASKS = 3  # gateways that must agree before a key counts as lost

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Preloaded:
    """``stored`` keys are acknowledged; ``failed`` ones never were, after all attempts."""

    stored: int
    failed: int


@dataclass(frozen=True)
class ReadBack:
    """Of all acknowledged ``keys``: ``lost`` (all asked said not found), ``wrong`` (bytes never stored there), and
    ``unreachable`` (neither found nor known to be lost)."""

    keys: int
    lost: int
    unreachable: int
    wrong: int


def preload_limit(load: LoadOptions) -> float:
    """Seconds that storing the first keys may take."""
    tries = PRELOAD_ATTEMPTS * load.timeout_s + (PRELOAD_ATTEMPTS - 1) * PRELOAD_WAIT[1]
    return tries + PRELOAD_PER_KEY * load.keys


def preload(workload: Workload) -> Preloaded:
    """Store this worker's share of the first keys. A store that fails is tried again, each try a row of its own."""
    share = workload.config.share(workload.options.keys)
    keys = [workload.keys.fresh() for _ in range(share)]
    operations = _side_by_side(lambda key: _store_until_ok(workload, key), keys)
    for key, operation in zip(keys, operations, strict=True):
        workload.keys.settle(key, acknowledged=operation.outcome == "ok")
    stored = len(workload.keys.acknowledged)
    return Preloaded(stored, share - stored)


def _store_until_ok(workload: Workload, key: bytes) -> Operation:
    def attempt() -> Operation:
        now = time.monotonic()
        request = Request("store", key, FIRST_VERSION)
        return workload.ask(request, now, workload.gateways.pick, "preload")

    first, longest = PRELOAD_WAIT
    retrying = Retrying(
        stop=stop_after_attempt(PRELOAD_ATTEMPTS),
        wait=wait_exponential(multiplier=first, max=longest),
        retry=retry_if_result(lambda operation: operation.outcome != "ok"),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    operation: Operation = retrying(attempt)
    return operation


def read_back(workload: Workload, alive: Sequence[str]) -> ReadBack:
    """Look up every acknowledged key through up to READBACK_ASKS of the gateways in ``alive``; one row per key.

    Raises:
        ControlError: ``alive`` names a gateway that the worker does not know.
    """
    unknown = [name for name in alive if name not in workload.gateways.names]
    if unknown:
        raise ControlError(f"readback: no such gateway: {', '.join(unknown)}")
    rng = Random(f"readback/{workload.config.seed}/{workload.config.worker}")
    plan = [(key, rng.sample(alive, min(READBACK_ASKS, len(alive)))) for key in workload.keys.acknowledged]
    outcomes = _side_by_side(lambda turn: _read_one(workload, *turn).outcome, plan)
    lost, wrong = outcomes.count("not_found"), outcomes.count("wrong_value")
    return ReadBack(len(plan), lost, len(plan) - outcomes.count("ok") - lost - wrong, wrong)


def _read_one(workload: Workload, key: bytes, gateways: Sequence[str]) -> Operation:
    asks: list[Operation] = []
    for gateway in gateways:
        asks.append(workload.attempt_lookup(key, gateway, "readback"))
        if asks[-1].outcome in ("ok", "wrong_value"):
            break
    row = final_row(asks) if asks else workload.unasked(key, "no_live_gateway", "readback")
    workload.tell(row)
    return row


def final_row(asks: Sequence[Operation]) -> Operation:
    """One key's row, from all that were asked for it: a definite answer; else the failure of one that gave none, since
    it may hold the key; not found only if all said so."""
    last = asks[-1]
    if last.outcome == "not_found":
        last = next((ask for ask in reversed(asks) if ask.outcome != "not_found"), last)
    return last._replace(intended=asks[0].intended, started=asks[0].started, finished=asks[-1].finished)


def _side_by_side(act: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``act`` on all items, SIDE_BY_SIDE at a time; if this greenlet is killed, nothing goes on."""
    pool = Pool(SIDE_BY_SIDE)
    try:
        results: list[R] = pool.map(act, items)
        return results
    finally:
        pool.kill(timeout=1.0)
