"""One worker's operations, with clients that do as the test says: outcomes, rows, rests, preload and read-back."""

import time

import gevent
import pytest

from loadtests.client import LookedUp, Stored
from loadtests.config import Gateway, LoadOptions, WorkerConfig
from loadtests.errors import BadAnswer, ConnectionLost, ControlError, NoAnswer, Refused
from loadtests.keys import value_of
from loadtests.phases import PRELOAD_ATTEMPTS, final_row, preload, read_back
from loadtests.workload import Request, Workload

SEED = 7


class Scripted:
    """A client whose answers the test sets, for all gateways or by port."""

    answers: dict = {}  # noqa: RUF012  set anew for each test
    closed = 0

    def __init__(self, host, port, cluster):
        self.port = port

    def answer(self, key):
        act = self.answers.get(self.port, self.answers.get("all"))
        said = act(key) if callable(act) else act
        if isinstance(said, BaseException):
            raise said
        return said

    def store(self, key, value, *, version, timeout):
        return self.answer(key)

    def lookup(self, key, *, timeout):
        return self.answer(key)

    def close(self):
        type(self).closed += 1


def workload(gateways=3, **options):
    Scripted.answers, Scripted.closed = {}, 0
    load = {"users": 1, "write_acks": 3, "timeout_s": 0.2, "stores": 1.0, "keys": 4} | options
    if load.get("rate_per_s"):
        load["users"] = None
    made = Workload(
        WorkerConfig(
            worker="w",
            seed=SEED,
            cluster="c",
            gateways=[Gateway(f"node-{i}", "127.0.0.1", i + 1) for i in range(gateways)],
            load=LoadOptions(**load),
            duration_s=None,
            operations="",
        ),
        Scripted,
    )
    made.rows = []
    made.sinks.append(made.rows.append)
    return made


def right(key, version=1):
    return LookedUp(True, value_of(key, version, 256, SEED), version, hops=1, rpcs=3)


def lookup_outcome(said):
    load = workload()
    Scripted.answers = {"all": said}
    row = load.ask(Request("lookup", b"k" * 20, 0), time.monotonic(), lambda _: "node-0", "load")
    return row.outcome, row.error


@pytest.mark.parametrize(
    ("said", "outcome", "error"),
    [
        (right, "ok", ""),
        (LookedUp(False), "not_found", "not_found"),
        (LookedUp(False, error="no contacts"), "error", "no contacts"),
        (LookedUp(True, b"another value", 1), "wrong_value", "wrong_value"),
        (lambda key: right(key, 1).__class__(True, right(key, 2).value, 1), "wrong_value", "wrong_value"),
        (NoAnswer("no_answer"), "timeout", "no_answer"),
        (Refused("cannot connect"), "refused", "cannot connect"),
        (ConnectionLost("connection_lost"), "error", "connection_lost"),
        (BadAnswer("bad_answer: other cluster"), "error", "bad_answer: other cluster"),
        (ZeroDivisionError("oops"), "error", "client: ZeroDivisionError: oops"),
    ],
)
def test_every_end_of_a_lookup_has_its_outcome(said, outcome, error):
    assert lookup_outcome(said) == (outcome, error)


@pytest.mark.parametrize(
    ("acks", "outcome", "error"),
    [(4, "ok", ""), (3, "ok", ""), (2, "error", "too_few_acks"), (0, "error", "too_few_acks")],
)
def test_a_store_is_ok_from_write_acks_holders_on(acks, outcome, error):
    load = workload()
    Scripted.answers = {"all": Stored(acks, 1, 9)}
    row = load.operate_next(time.monotonic(), 0)
    assert (row.outcome, row.error, row.acks, row.hops, row.rpcs, row.version) == (outcome, error, acks, 1, 9, 1)
    assert len(load.keys.acknowledged) == (outcome == "ok")
    assert load.keys.unknown == (outcome != "ok")


@pytest.mark.parametrize(
    ("said", "rests"),
    [
        (NoAnswer("x"), True),
        (Refused("x"), True),
        (ConnectionLost("x"), True),
        (BadAnswer("x"), False),
        (Stored(0), False),
    ],
)
def test_a_gateway_rests_after_what_is_its_own_failure(said, rests):
    load = workload(gateways=2)
    Scripted.answers = {"all": said}
    load.ask(Request("store", b"k" * 20, 1), time.monotonic(), lambda _: "node-0", "load")
    asked = {load.gateways.pick(time.monotonic()) for _ in range(100)}
    assert asked == ({"node-1"} if rests else {"node-0", "node-1"})


def test_a_failed_operation_is_not_tried_again():
    load = workload()
    Scripted.answers = {"all": Refused("x")}
    load.operate_next(time.monotonic(), 0)
    assert [row.outcome for row in load.rows] == ["refused"]


def test_a_client_that_ignores_its_deadline_is_cut_off_and_replaced():
    load = workload(timeout_s=0.05)
    Scripted.answers = {"all": lambda key: gevent.sleep(60)}
    began = time.monotonic()
    row = load.ask(Request("store", b"k" * 20, 1), began, lambda _: "node-0", "load")
    assert row.outcome == "timeout"
    assert row.finished - row.started < 2
    gevent.sleep(0)
    assert Scripted.closed == 1


def test_without_an_acknowledged_key_a_lookup_becomes_a_store():
    load = workload(stores=0.0)
    Scripted.answers = {"all": Stored(9)}
    assert load.operate_next(time.monotonic(), 0).kind == "store"
    Scripted.answers = {"all": right}
    row = load.operate_next(time.monotonic(), 0)
    assert (row.kind, row.key) == ("lookup", load.keys.acknowledged[0].hex())


def test_arrivals_over_the_cap_are_shed_and_every_arrival_has_one_row():
    load = workload(rate_per_s=400.0, arrivals="constant", max_in_flight=10)
    Scripted.answers = {"all": lambda key: gevent.sleep(0.15) or Stored(9)}
    load.begin(time.monotonic())
    load.end = load.clock + 0.5
    load.send_arrivals()
    load.drain()
    shed = [row for row in load.rows if row.error == "shed"]
    assert len(load.rows) == 200
    assert 100 < len(shed) < 200
    assert all(row.outcome == "error" and row.gateway == "" and row.started == row.intended for row in shed)
    assert sorted(row.intended for row in load.rows) == pytest.approx([load.clock + n / 400 for n in range(200)])


def test_a_generator_that_was_held_up_sends_what_is_due_at_once_and_keeps_the_due_times():
    load = workload(rate_per_s=200.0, arrivals="constant")
    Scripted.answers = {"all": Stored(9)}
    load.begin(time.monotonic() - 0.5)  # as after half a second without its turn
    load.end = load.clock + 0.6
    load.send_arrivals()
    load.drain()
    assert [row.intended for row in load.rows] == pytest.approx([load.clock + n / 200 for n in range(120)])
    load.window.take()
    assert load.window.lag.largest >= 0.5
    late = [row.started - row.intended for row in load.rows]
    assert late[-1] < late[0]  # it catches up, where one that drifts would stay as late as it began


def test_ending_early_leaves_no_due_arrival_without_a_row():
    load = workload(rate_per_s=1000.0, arrivals="constant")
    Scripted.answers = {"all": Stored(9)}
    load.begin(time.monotonic())
    sender = gevent.spawn(load.send_arrivals)
    gevent.sleep(0.1)
    load.finish()
    load.drain()
    assert sender.ready()
    assert len(load.rows) == pytest.approx((load.end - load.clock) * 1000, abs=1)


def test_what_is_cut_off_leaves_rows_too():
    load = workload(rate_per_s=100.0, arrivals="constant")
    Scripted.answers = {"all": lambda key: gevent.sleep(60)}
    load.begin(time.monotonic())
    load.end = load.clock + 0.1
    load.send_arrivals()
    load.cut_off()
    assert [row.error for row in load.rows] == ["cut_off"] * 10
    assert load.in_flight == 0


def test_a_preload_store_that_fails_is_tried_again_and_each_try_is_a_row(monkeypatch):
    monkeypatch.setattr("loadtests.phases.PRELOAD_WAIT", (0.001, 0.001))
    load, tries = workload(keys=3), {}

    def second_time(key):
        tries[key] = tries.get(key, 0) + 1
        return Stored(9 if tries[key] == 2 else 0)

    Scripted.answers = {"all": second_time}
    result = preload(load)
    assert (result.stored, result.failed) == (3, 0)
    assert [row.phase for row in load.rows] == ["preload"] * 6
    assert len(load.keys.acknowledged) == 3


def test_a_key_that_is_never_acknowledged_is_counted_as_failed(monkeypatch):
    monkeypatch.setattr("loadtests.phases.PRELOAD_WAIT", (0.001, 0.001))
    load = workload(keys=2)
    Scripted.answers = {"all": Stored(2)}
    result = preload(load)
    assert (result.stored, result.failed) == (0, 2)
    assert len(load.rows) == 2 * PRELOAD_ATTEMPTS
    assert list(load.keys.acknowledged) == []


def read_back_with(answers, alive=("node-0", "node-1", "node-2")):
    load = workload()
    Scripted.answers = {"all": Stored(9)}
    load.operate_next(time.monotonic(), 0)
    load.rows.clear()
    Scripted.answers = answers
    result = read_back(load, alive)
    [row] = load.rows
    assert row.phase == "readback"
    return result, row.outcome


MISSING = LookedUp(False)
LATE = NoAnswer("no_answer")


@pytest.mark.parametrize(
    ("answers", "counts", "outcome"),
    [
        ({"all": right}, (0, 0, 0), "ok"),
        ({"all": MISSING}, (1, 0, 0), "not_found"),
        ({"all": MISSING, 2: right}, (0, 0, 0), "ok"),
        ({"all": LATE}, (0, 1, 0), "timeout"),
        # Whichever is silent, and whenever it is asked: it may hold the key.
        ({"all": MISSING, 1: LATE}, (0, 1, 0), "timeout"),
        ({"all": MISSING, 2: LATE}, (0, 1, 0), "timeout"),
        ({"all": MISSING, 3: LATE}, (0, 1, 0), "timeout"),
        ({"all": LookedUp(True, b"never stored", 1)}, (0, 0, 1), "wrong_value"),
    ],
)
def test_read_back_tells_lost_from_unreachable_from_wrong(answers, counts, outcome):
    result, row_outcome = read_back_with(answers)
    assert (result.lost, result.unreachable, result.wrong) == counts
    assert (result.keys, row_outcome) == (1, outcome)


def test_read_back_with_nobody_alive_loses_nothing():
    result, outcome = read_back_with({"all": MISSING}, alive=())
    assert (result.lost, result.unreachable, outcome) == (0, 1, "error")


def test_read_back_refuses_a_gateway_that_it_does_not_know():
    with pytest.raises(ControlError, match="no such gateway: node-9"):
        read_back(workload(), ["node-0", "node-9"])


def test_the_row_of_a_read_back_spans_all_of_its_asks():
    load = workload()
    Scripted.answers = {"all": MISSING}
    asks = [load.attempt_lookup(b"k" * 20, f"node-{i}", "readback") for i in range(3)]
    row = final_row(asks)
    assert (row.intended, row.finished) == (asks[0].intended, asks[2].finished)
