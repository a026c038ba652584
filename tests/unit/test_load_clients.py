"""Clients as users have them: retries that stay one operation, missing and rewritten keys, and clients in sites."""

import time

import pytest

from loadtests.client import KademliaClient, LookedUp, Stored
from loadtests.config import Gateway, LoadOptions, Retry, Site, WorkerConfig
from loadtests.errors import NoAnswer, Refused
from loadtests.keys import value_of
from loadtests.workload import Workload
from node.client import Client
from node.wire import PutResult

SEED = 7


class Network:
    """Clients of one network: what they answer, and where they dialled."""

    def __init__(self, answer):
        self.answer, self.dialled, self.hosts, self.asked = answer, [], {}, []

    def __call__(self, host, port, cluster):
        self.dialled.append(port)
        self.hosts[port] = host
        return self.Client(self, port)

    class Client:
        def __init__(self, network, port):
            self.network, self.port = network, port

        def ask(self, *question):
            self.network.asked.append((self.port, *question))
            said = self.network.answer(len(self.network.asked), *question)
            if isinstance(said, Exception):
                raise said
            return said

        def store(self, key, value, *, version, timeout):
            return self.ask("store", key, version, value)

        def lookup(self, key, *, timeout):
            return self.ask("lookup", key)

        def close(self):
            pass


def made(answer, *, sites=(), worker="w", gateways=3, policy="random", **options):
    network = Network(answer)
    load = Workload(
        WorkerConfig(
            worker=worker,
            seed=SEED,
            cluster="c",
            gateways=[Gateway(f"node-{i}", "127.0.0.1", 10 + i) for i in range(gateways)],
            sites=list(sites),
            load=LoadOptions(**({"users": 4, "stores": 1.0, "gateways": policy} | options)),
            duration_s=None,
            operations="",
        ),
        network,
    )
    load.rows = []
    load.sinks.append(load.rows.append)
    return load, network


RETRY = Retry(attempts=3, first_s=0.01, longest_s=0.02)


def test_a_holder_that_keeps_a_newer_version_already_has_had_the_one_that_was_overtaken(monkeypatch):
    answer = PutResult(acks=1, holds=False, hops=1, rpcs=9, timeouts=0, error="a newer one is kept", newer=4)
    monkeypatch.setattr(Client, "put", lambda *_, **__: answer)
    assert KademliaClient("127.0.0.1", 1, "c").store(bytes(20), b"v", version=3, timeout=1.0).acks == 5


def test_a_retried_operation_is_one_row_with_its_attempts():
    load, network = made(lambda n, *_: Refused("connection_refused") if n < 3 else Stored(9), retry=RETRY)
    due = time.monotonic() - 1
    row = load.operate_next(due, 0)
    assert load.rows == [row]
    assert (row.outcome, row.attempts, row.intended) == ("ok", 3, due)
    assert row.finished - row.started >= 0.03  # 10 ms and 20 ms of waiting lie in it
    assert len({key for _, _, key, *_ in network.asked}) == 1
    assert len(network.dialled) == len(set(network.dialled)) == 3  # a gateway that failed rests


@pytest.mark.parametrize("failure", [NoAnswer("no_answer"), Stored(0)])
def test_attempts_that_all_fail_are_one_failed_row(failure):
    load, network = made(lambda *_: failure, retry=RETRY)
    row = load.operate_next(time.monotonic(), 0)
    assert (row.outcome == "ok", row.attempts, len(network.asked), len(load.rows)) == (False, 3, 3, 1)


@pytest.mark.parametrize("answer", [LookedUp(False), LookedUp(True, b"never stored", 1)])
def test_an_answer_is_never_asked_for_again(answer):
    load, network = made(lambda n, kind, *_: Stored(9) if kind == "store" else answer, retry=RETRY, stores=0.0)
    load.operate_next(time.monotonic(), 0)
    row = load.operate_next(time.monotonic(), 0)
    assert (row.kind, row.attempts, len(network.asked)) == ("lookup", 1, 2)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (LookedUp(False), "ok"),
        (LookedUp(True, b"whatever", 1), "wrong_value"),
        (LookedUp(False, error="the search was cut short"), "error"),
    ],
)
def test_a_lookup_of_a_missing_key_is_ok_if_nothing_is_found(answer, outcome):
    load, _ = made(lambda n, kind, *_: Stored(9) if kind == "store" else answer, stores=0.0, missing=1.0)
    load.operate_next(time.monotonic(), 0)
    row = load.operate_next(time.monotonic(), 0)
    assert (row.kind, row.outcome) == ("lookup", outcome)
    assert row.key != load.rows[0].key


def test_a_rewritten_key_has_the_next_version_and_its_value():
    load, network = made(lambda *_: Stored(9), rewrites=1.0)
    rows = [load.operate_next(time.monotonic(), 0) for _ in range(3)]
    assert [row.version for row in rows] == [1, 2, 3]
    assert len({row.key for row in rows}) == 1
    assert [asked[4] for asked in network.asked] == [
        value_of(bytes.fromhex(rows[0].key), version, 256, SEED) for version in (1, 2, 3)
    ]


def test_an_old_version_with_its_own_value_is_no_wrong_value_and_one_with_anothers_is():
    answers = {}
    load, _ = made(lambda n, kind, key, *_: Stored(9) if kind == "store" else answers["now"](key), stores=0.0)
    load.operate_next(time.monotonic(), 0)
    answers["now"] = lambda key: LookedUp(True, value_of(key, 5, 256, SEED), 5)
    assert load.operate_next(time.monotonic(), 0).outcome == "ok"
    answers["now"] = lambda key: LookedUp(True, value_of(key, 5, 256, SEED), 6)
    assert load.operate_next(time.monotonic(), 0).outcome == "wrong_value"


def test_clients_in_a_site_dial_through_its_proxies_but_for_the_node_that_is_alone_there():
    sites = [Site("site-0", 100, ["node-0"]), Site("site-1", 200)]
    load, network = made(lambda *_: Stored(9), sites=sites)
    for number in range(60):
        load.operate_next(time.monotonic(), number)
    assert sorted(network.dialled) == [10, 111, 112, 210, 211, 212]
    assert {row.site for row in load.rows} == {"site-0", "site-1"}
    assert {row.gateway for row in load.rows} == {"node-0", "node-1", "node-2"}


def test_proxies_may_have_an_address_of_their_own_where_the_node_that_is_alone_in_its_site_has_not():
    load, network = made(lambda *_: Stored(9), sites=[Site("site-0", 100, ["node-0"], host="10.0.0.2")])
    for number in range(60):
        load.operate_next(time.monotonic(), number)
    assert network.hosts == {10: "127.0.0.1", 111: "10.0.0.2", 112: "10.0.0.2"}


def test_a_gateway_that_one_site_cannot_reach_rests_for_that_site_only():
    sites = [Site("site-0", 100), Site("site-1", 200)]
    load, network = made(lambda *_: Stored(9), sites=sites, gateways=2)
    network.answer = lambda n, *_: NoAnswer("no_answer") if network.asked[-1][0] == 110 else Stored(9)
    for number in range(200):
        load.operate_next(time.monotonic(), number)
    asked = [port for port, *_ in network.asked]
    assert asked.count(110) == 1  # site-0 asks node-0 once, and then leaves it alone
    assert asked.count(210) > 20


def sticky(count, **options):
    """As many sites as gateways, and in each site one of them alone."""
    sites = [Site(f"site-{i}", 100 * (i + 1), [f"node-{i}"]) for i in range(count)]
    return made(lambda *_: Stored(9), sites=sites, gateways=count, policy="sticky", **options)


def test_a_sticky_user_keeps_its_gateway_and_not_that_of_its_own_site():
    load, network = sticky(10)
    for number in [*range(50), *range(50)]:
        load.operate_next(time.monotonic(), number)
    asked = [port for port, *_ in network.asked]
    assert asked[:50] == asked[50:]
    assert all([row.gateway for row in load.rows[:50]].count(f"node-{i}") == 5 for i in range(10))
    assert sum(port < 100 for port in asked[:50]) < 15  # those that dial a node directly, where no fault reaches them


def test_sticky_arrivals_are_of_many_users_and_reach_every_gateway_from_every_site():
    load, _ = sticky(4, rate_per_s=10_000.0, users=None, arrivals="constant")
    load.begin(time.monotonic() - 1)  # all are due at once
    load.end = load.clock + 0.2
    load.send_arrivals()
    load.drain()
    pairs = [(row.site, row.gateway) for row in load.rows]
    assert len(pairs) == 2000
    assert all(60 < pairs.count((f"site-{s}", f"node-{g}")) < 200 for s in range(4) for g in range(4))


def operations(worker="w", seed_options=None, count=200):
    options = {"stores": 0.4, "rewrites": 0.3, "missing": 0.1, "popularity": "zipf", "value_size": 64}
    load, _ = made(lambda n, kind, key, *_: Stored(9) if kind == "store" else LookedUp(False), worker=worker, **options)
    for number in range(count):
        load.operate_next(time.monotonic(), number)
    return [(row.kind, row.key, row.version if row.kind == "store" else 0, row.gateway) for row in load.rows]


def test_a_worker_asks_the_same_of_the_same_again_for_its_seed_and_another_worker_does_not():
    assert operations() == operations()
    assert not {key for _, key, *_ in operations()} & {key for _, key, *_ in operations("other")}
