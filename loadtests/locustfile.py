"""Kadstorm's load for people who know Locust: ``locust -f loadtests/locustfile.py -H HOST:PORT,HOST:PORT…``.

With Locust's own options, page and ``--processes``; the same users, operations and records as under `kadstorm run`.
With ``--rate`` the load is of the open model, else ``-u`` users of the closed one.

    locust -f loadtests/locustfile.py --headless -H 127.0.0.1:4000,127.0.0.1:4001 --rate 100 -t 30s

The time of ``-t`` includes storing the first keys. Rows are written to ``--operations``, a file per worker process.
"""

from locust import events

from loadtests.locust_plugin import LocustPlugin
from loadtests.users import ClosedUser, OpenUser

__all__ = ["ClosedUser", "OpenUser"]

LocustPlugin().listen(events)
