"""For people who know Locust: ``locust -f loadtests/locustfile.py --gateways 127.0.0.1:4000,127.0.0.1:4001``.

The same users, operations and rows as under `kadstorm run`, with Locust's own options, statistics and web page. The open model
(``--rate``) is one user per worker; for the closed one give ``--closed`` and Locust's ``--users``.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentTypeError
from typing import Any

from locust import events

from loadtests.client import KademliaClient
from loadtests.session import GatewayAddress, LoadOptions, LoadSession, WorkerConfig
from loadtests.users import SESSION, ClosedUser, OpenUser

__all__ = ["ClosedUser", "OpenUser"]


def addresses(text: str) -> list[GatewayAddress]:
    """``HOST:PORT,HOST:PORT``."""
    found = []
    for part in text.split(","):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdecimal():
            raise ArgumentTypeError(f"HOST:PORT,HOST:PORT,… is expected, not {text!r}")
        found.append(GatewayAddress(part.strip(), host, int(port)))
    return found


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Kadstorm's options beside Locust's."""
    group = parser.add_argument_group("Kadstorm")
    group.add_argument("--gateways", type=addresses, default="127.0.0.1:4000", help="nodes to ask: HOST:PORT,HOST:PORT")
    group.add_argument("--cluster", default="kademlia", help="the cluster's name")
    group.add_argument("--rate", type=float, default=50.0, help="arrivals per second of one worker (open model)")
    group.add_argument("--closed", action="store_true", help="closed model: --users that wait for their answers")
    group.add_argument("--think", type=float, default=0.1, help="seconds between two operations of a closed user")
    group.add_argument("--store-share", type=float, default=0.2, help="share of stores, 0 to 1")
    group.add_argument("--keys", type=int, default=100, help="keys stored before the load begins")
    group.add_argument("--value-size", type=int, default=256, help="bytes")
    group.add_argument("--write-acks", type=int, default=1, help="holders from which on a store is ok")
    group.add_argument("--operation-timeout", type=float, default=5.0, help="seconds")
    group.add_argument("--load-seed", type=int, default=0, help="of keys, values and arrivals")
    group.add_argument("--operations", default="operations.arrow", help="where the rows go")


@events.init.add_listener
def choose_users(environment: Any, **_: Any) -> None:
    """Take the users of the chosen model."""
    environment.user_classes = [ClosedUser if environment.parsed_options.closed else OpenUser]


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Preload, and start the clock. A master only coordinates: its workers have the sessions."""
    if type(environment.runner).__name__ == "MasterRunner":
        return
    options = environment.parsed_options
    index = max(0, getattr(environment.runner, "worker_index", 0))
    suffix = f".{os.getpid()}" if type(environment.runner).__name__ == "WorkerRunner" else ""
    load = LoadOptions(
        rate_per_s=None if options.closed else options.rate,
        users=options.num_users if options.closed else None,
        think_s=options.think,
        arrivals="poisson",
        stores=options.store_share,
        keys=options.keys,
        value_size=options.value_size,
        write_acks=options.write_acks,
        gateways="random",
        timeout_s=options.operation_timeout,
    )
    config = WorkerConfig(
        worker=f"load-{index}",
        index=0,
        workers=1,
        seed=options.load_seed,
        cluster=options.cluster,
        client="loadtests.client:KademliaClient",
        gateways=options.gateways,
        load=load,
        duration_s=None,
        operations=f"{options.operations}{suffix}",
    )
    session = LoadSession(config, KademliaClient, environment.events.request.fire)
    setattr(environment, SESSION, session)
    session.preload()
    session.start(time.monotonic())


@events.test_stop.add_listener
def end(environment: Any, **_: Any) -> None:
    """Finish what is in flight, and close the file of rows."""
    session = getattr(environment, SESSION, None)
    if session is not None:
        session.stopping = True
        session.drain()
        session.close()
        setattr(environment, SESSION, None)
