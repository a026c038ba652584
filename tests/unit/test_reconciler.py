"""Link effects as data: what each proxy must be, what turns one state into another, and what a failure on the way does.

The requests are carried out by a model of Toxiproxy that refuses what Toxiproxy refuses (a toxic whose name is taken,
one that is not there), so every request that the reconciler sends must fit the state in which it arrives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, get_args
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.effects import LinkEffect, LinkEffectKind
from harness.errors import ToxiproxyFailed, ToxiproxySilent
from harness.links import Topology
from harness.reconciler import (
    TRIES,
    LinkReconciler,
    ProxyState,
    Toxic,
    desired_state,
    proxy_payloads,
    requests_for,
    state_told,
    touched,
)
from harness.records import PlannedNode
from harness.toxiproxy.bulk import ApiRequest, ApiResponse

KINDS: tuple[LinkEffectKind, ...] = get_args(LinkEffectKind)


def topology_of(*sites: int) -> Topology:
    nodes = [PlannedNode(f"node-{i}", f"{i:040x}", f"site-{site}") for i, site in enumerate(sites)]
    return Topology.build(nodes, host="127.20.245.1")


PAIR = topology_of(0, 1)  # node-0 in site-0, node-1 in site-1
SHARED = topology_of(0, 1, 0, 1, 2)


@st.composite
def link_effects(draw: st.DrawFn, topology: Topology) -> LinkEffect:
    kind = draw(st.sampled_from(KINDS))
    small = st.integers(1, 500)
    attributes: dict[LinkEffectKind, tuple[tuple[str, int], ...]] = {
        "latency": (("jitter", draw(st.integers(0, 50))), ("latency", draw(st.integers(50, 500)))),
        "bandwidth": (("rate", draw(small)),),
        "slicer": (
            ("average_size", draw(small)),
            ("delay", draw(small)),
            ("size_variation", draw(st.integers(0, 500))),
        ),
        "slow_close": (("delay", draw(small)),),
        "limit_data": (("bytes", draw(small)),),
        "reset": (("timeout", draw(small)),),
        "blackhole": (),
        "refuse": (),
    }
    site = st.sampled_from(topology.sites)
    toxicity = 1000 if kind == "refuse" else draw(st.sampled_from([1000, 500, 333]))
    return LinkEffect(draw(site), draw(site), kind, attributes[kind], toxicity)


some_effects = st.lists(link_effects(SHARED), max_size=8)
some_nodes = st.sets(st.sampled_from(SHARED.names))


def effect(
    kind: LinkEffectKind, *, source: int = 0, to: int = 1, toxicity: int = 1000, **attributes: int
) -> LinkEffect:
    return LinkEffect(f"site-{source}", f"site-{to}", kind, tuple(sorted(attributes.items())), toxicity)


def toxics_of(effects: Sequence[LinkEffect], proxy: str = "site-0->node-1") -> dict[str, dict[str, int]]:
    """The toxics of one proxy of the pair: name -> attributes."""
    return {name: dict(toxic.attributes) for name, toxic in desired_state(PAIR, effects)[proxy].toxics.items()}


class ModelToxiproxy:
    """Proxies in memory, with Toxiproxy's rules. Stands for both the control and the bulk writer."""

    def __init__(self) -> None:
        self.proxies: dict[str, dict[str, Any]] = {}
        self.log: list[ApiRequest] = []
        self.before_send: Callable[[], None] = lambda: None

    def populate(self, proxies: list[dict[str, Any]]) -> None:
        for proxy in proxies:
            self.proxies.setdefault(proxy["name"], {**proxy, "toxics": []})

    def states(self) -> dict[str, dict[str, Any]]:
        return self.proxies

    def send(self, requests: Sequence[ApiRequest]) -> list[ApiResponse]:
        self.before_send()
        return [ApiResponse(request, *self._answer(request)) for request in requests]

    def _answer(self, request: ApiRequest) -> tuple[int, bytes]:
        self.log.append(request)
        name, *rest = [unquote(part) for part in request.path.split("/")[2:]]
        proxy = self.proxies[name]
        if not rest:
            proxy["enabled"] = request.body["enabled"]
            return 200, b""
        toxics: list[dict[str, Any]] = proxy["toxics"]
        if len(rest) == 1:
            if any(toxic["name"] == request.body["name"] for toxic in toxics):
                return 409, b"toxic already exists"
            toxics.append(dict(request.body))
            return 200, b""
        found = [toxic for toxic in toxics if toxic["name"] == rest[1]]
        if not found:
            return 404, b"toxic not found"
        if request.method == "DELETE":
            toxics.remove(found[0])
        else:
            found[0].update(request.body)
        return 200, b""


def reconciler_on(model: Any, topology: Topology = SHARED) -> LinkReconciler:
    reconciler = LinkReconciler(topology, model, model)
    reconciler.create()
    return reconciler


# --- what each proxy must be -----------------------------------------------------------------------------------------


@given(some_effects, some_nodes, st.randoms(use_true_random=False))
def test_the_order_of_effects_is_irrelevant(effects: list[LinkEffect], down: set[str], rng: Any) -> None:
    shuffled = list(effects)
    rng.shuffle(shuffled)
    assert desired_state(SHARED, shuffled, down) == desired_state(SHARED, effects, down)


@given(some_effects, some_nodes)
def test_every_link_has_a_state_in_the_order_of_the_topology(effects: list[LinkEffect], down: set[str]) -> None:
    assert list(desired_state(SHARED, effects, down)) == [link.proxy for link in SHARED.links]


@given(some_effects, some_nodes)
def test_only_touched_links_have_a_state_other_than_none(effects: list[LinkEffect], down: set[str]) -> None:
    reached = {link.proxy for each in effects for link, _ in touched(SHARED, each)}
    for proxy, state in desired_state(SHARED, effects, down).items():
        assert (state != ProxyState()) == (proxy in reached)


@given(some_effects, some_nodes)
def test_a_link_is_never_disabled_while_its_destination_cannot_answer(
    effects: list[LinkEffect], down: set[str]
) -> None:
    states = desired_state(SHARED, effects, down)
    assert all(states[link.proxy].enabled for link in SHARED.links if link.node in down)


@given(some_effects)
def test_jitter_is_at_most_the_latency_and_pieces_vary_by_less_than_their_size(effects: list[LinkEffect]) -> None:
    for state in desired_state(SHARED, effects).values():
        for toxic in state.toxics.values():
            attributes = dict(toxic.attributes)
            if toxic.type == "latency":
                assert attributes["jitter"] <= attributes["latency"]
            if toxic.type == "slicer":
                assert attributes["size_variation"] < attributes["average_size"]


def test_a_one_way_effect_touches_the_requests_to_b_and_the_answers_of_b_to_a() -> None:
    states = desired_state(PAIR, [effect("latency", latency=100, jitter=0)])
    assert list(states["site-0->node-1"].toxics) == ["latency_upstream_1000"]
    assert list(states["site-1->node-0"].toxics) == ["latency_downstream_1000"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("refuse", "reset")])
def test_every_effect_on_bytes_touches_one_stream_of_each_of_the_two_proxies(kind: LinkEffectKind) -> None:
    reached = [(link.proxy, stream) for link, stream in touched(PAIR, effect(kind))]
    assert reached == [("site-0->node-1", "upstream"), ("site-1->node-0", "downstream")]


@pytest.mark.parametrize("kind", ["refuse", "reset"])
def test_an_effect_on_connections_touches_only_those_that_a_opens_to_b(kind: LinkEffectKind) -> None:
    assert [link.proxy for link, _ in touched(PAIR, effect(kind))] == ["site-0->node-1"]


def test_latencies_and_jitters_add_up() -> None:
    effects = [effect("latency", latency=100, jitter=10), effect("latency", latency=50, jitter=50)]
    assert toxics_of(effects) == {"latency_upstream_1000": {"latency": 150, "jitter": 60}}


def test_a_jitter_above_its_latency_is_cut_to_it() -> None:
    assert toxics_of([effect("latency", latency=5, jitter=20)]) == {
        "latency_upstream_1000": {"latency": 5, "jitter": 5}
    }


def test_the_lowest_bandwidth_wins() -> None:
    effects = [effect("bandwidth", rate=100), effect("bandwidth", rate=16), effect("bandwidth", rate=64)]
    assert toxics_of(effects) == {"bandwidth_upstream_1000": {"rate": 16}}


def test_effects_of_different_toxicity_stay_apart_because_each_draws_its_own_connections() -> None:
    effects = [effect("latency", latency=10, jitter=0), effect("latency", latency=20, jitter=0, toxicity=500)]
    assert toxics_of(effects) == {
        "latency_upstream_500": {"latency": 20, "jitter": 0},
        "latency_upstream_1000": {"latency": 10, "jitter": 0},
    }


def test_a_black_hole_hides_all_other_effects_of_its_stream_and_leaves_the_other_stream() -> None:
    effects = [
        effect("blackhole"),
        effect("latency", latency=10, jitter=0),
        effect("bandwidth", source=1, to=0, rate=9),
    ]
    assert toxics_of(effects) == {"timeout_upstream_1000": {"timeout": 0}, "bandwidth_downstream_1000": {"rate": 9}}


def test_a_black_hole_for_half_of_the_connections_hides_nothing_from_the_others() -> None:
    effects = [effect("blackhole", toxicity=500), effect("latency", latency=10, jitter=0)]
    assert set(toxics_of(effects)) == {"timeout_upstream_500", "latency_upstream_1000"}


def test_refusal_disables_the_proxy_of_a_to_b_and_not_that_of_b_to_a() -> None:
    states = desired_state(PAIR, [effect("refuse"), effect("blackhole")])
    assert not states["site-0->node-1"].enabled
    assert states["site-1->node-0"].enabled


def test_refusal_of_an_unresponsive_destination_is_a_black_hole_in_both_streams() -> None:
    state = desired_state(PAIR, [effect("refuse"), effect("latency", latency=9, jitter=0)], {"node-1"})[
        "site-0->node-1"
    ]
    assert state.enabled
    assert {(toxic.type, toxic.stream, toxic.attributes) for toxic in state.toxics.values()} == {
        ("timeout", "upstream", (("timeout", 0),)),
        ("timeout", "downstream", (("timeout", 0),)),
    }


def test_refusal_is_no_concern_of_links_to_others_when_its_source_is_down() -> None:
    assert not desired_state(PAIR, [effect("refuse")], {"node-0"})["site-0->node-1"].enabled


@given(st.sets(st.sampled_from(SHARED.sites)))
def test_a_partition_cuts_every_crossing_link_both_ways_and_no_other(group: set[str]) -> None:
    crossing = [(a, b) for a in SHARED.sites for b in SHARED.sites if (a in group) != (b in group)]
    states = desired_state(SHARED, [LinkEffect(a, b, "blackhole") for a, b in crossing])
    for link in SHARED.links:
        cut = (link.site in group) != (SHARED.site_of(link.node) in group)
        streams = {toxic.stream for toxic in states[link.proxy].toxics.values()}
        assert streams == ({"upstream", "downstream"} if cut else set())


def test_links_are_made_with_their_listener_upstream_and_name() -> None:
    assert proxy_payloads(PAIR)[0] == {
        "name": "site-0->node-1",
        "listen": "127.20.245.1:10003",
        "upstream": "127.20.245.1:10001",
        "enabled": True,
    }


@given(some_effects, some_nodes)
def test_a_state_reads_back_as_it_was_written(effects: list[LinkEffect], down: set[str]) -> None:
    for state in desired_state(SHARED, effects, down).values():
        told = {"enabled": state.enabled, "toxics": [toxic.payload() for toxic in state.toxics.values()]}
        assert state_told(told) == state


def test_a_toxic_that_somebody_else_named_reads_back_under_that_name() -> None:
    theirs = {"name": "mine", "type": "latency", "stream": "upstream", "toxicity": 1, "attributes": {"latency": 1}}
    assert list(state_told({"enabled": True, "toxics": [theirs]}).toxics) == ["mine"]


# --- what turns one state into another -------------------------------------------------------------------------------


@given(some_effects, some_nodes, some_effects, some_nodes)
def test_requests_turn_any_state_into_any_other(
    before: list[LinkEffect], down_before: set[str], after: list[LinkEffect], down_after: set[str]
) -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model)
    reconciler.apply(before, down_before)
    reconciler.apply(after, down_after)
    assert reconciler.verify() == []
    assert {name: state_told(told) for name, told in model.proxies.items()} == desired_state(SHARED, after, down_after)


@given(some_effects, some_nodes, some_effects, some_nodes)
def test_no_request_disables_a_proxy_whose_destination_cannot_answer(
    before: list[LinkEffect], down_before: set[str], after: list[LinkEffect], down_after: set[str]
) -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model)
    reconciler.apply(before, down_before)
    model.log.clear()
    reconciler.apply(after, down_after)
    disabled = {request.proxy for request in model.log if request.body == {"enabled": False}}
    assert not disabled & {link.proxy for link in SHARED.links if link.node in down_after}


@settings(max_examples=50)
@given(st.lists(some_effects, max_size=4), st.randoms(use_true_random=False))
def test_stacked_faults_undone_in_any_order_leave_no_trace(faults: list[list[LinkEffect]], rng: Any) -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model)
    in_force = dict(enumerate(faults))
    for count in range(len(faults) + 1):
        reconciler.apply([each for fault in faults[:count] for each in fault])
    order = list(in_force)
    rng.shuffle(order)
    for healed in order:
        del in_force[healed]
        reconciler.apply([each for fault in in_force.values() for each in fault])
    assert all(told["enabled"] and not told["toxics"] for told in model.proxies.values())


def test_a_proxy_is_disabled_before_its_toxics_change_and_enabled_after() -> None:
    hole = desired_state(PAIR, [effect("blackhole")])["site-0->node-1"]
    off = ProxyState(enabled=False)
    assert [request.body for request in requests_for("p", hole, off)] == [{"enabled": False}, None]
    assert [request.body for request in requests_for("p", off, hole)][-1] == {"enabled": True}


def test_a_reset_closes_the_live_connections_before_new_ones_are_reset() -> None:
    reset = desired_state(PAIR, [effect("reset", timeout=0)])["site-0->node-1"]
    bodies = [request.body for request in requests_for("p", ProxyState(), reset)]
    assert bodies[0] == {"enabled": False}
    assert bodies[1]["type"] == "reset_peer"
    assert bodies[2] == {"enabled": True}


def test_a_reset_lets_the_live_connections_of_an_unresponsive_destination_be() -> None:
    reset = desired_state(PAIR, [effect("reset", timeout=0)])["site-0->node-1"]
    assert [r.body["type"] for r in requests_for("p", ProxyState(), reset, responsive=False)] == ["reset_peer"]


def test_a_changed_latency_is_one_update_of_the_toxic_that_is_there() -> None:
    slow, slower = (
        desired_state(PAIR, [effect("latency", latency=latency, jitter=0)])["site-0->node-1"] for latency in (10, 20)
    )
    (request,) = requests_for("site-0->node-1", slow, slower)
    assert (request.method, request.path) == ("POST", "/proxies/site-0-%3Enode-1/toxics/latency_upstream_1000")
    assert request.body["attributes"] == {"latency": 20, "jitter": 0}


# --- what a failure on the way does ----------------------------------------------------------------------------------


def test_only_what_differs_is_sent_and_counted() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model, PAIR)
    slow = effect("latency", latency=10, jitter=0)
    first = reconciler.apply([slow])
    again = reconciler.apply([slow])
    more = reconciler.apply([slow, effect("refuse")])
    assert [(done.proxies, done.requests) for done in (first, again, more)] == [(2, 2), (0, 0), (1, 1)]
    assert first.first_at <= first.last_at <= again.first_at


def test_a_refused_request_is_tried_again_from_the_truth() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model, PAIR)
    stray = Toxic("latency", "upstream", 1000, (("jitter", 0), ("latency", 7)))
    model.proxies["site-0->node-1"]["toxics"].append(stray.payload())  # so that adding it is refused: 409
    reconciler.apply([effect("latency", latency=10, jitter=0)])
    assert reconciler.verify() == []


def test_what_is_refused_again_and_again_is_told_with_method_path_status_and_body() -> None:
    class Refusing(ModelToxiproxy):
        def _answer(self, request: ApiRequest) -> tuple[int, bytes]:
            self.log.append(request)
            return 400, b"bad request body"

    model = Refusing()
    reconciler = reconciler_on(model, PAIR)
    with pytest.raises(ToxiproxyFailed, match=r"POST /proxies/site-0-%3Enode-1: HTTP 400 bad request body"):
        reconciler.apply([effect("refuse")])
    assert len(model.log) == TRIES


def test_a_break_in_the_middle_is_read_back_and_finished() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model)
    breaks = iter([True])

    def break_once() -> None:
        if next(breaks, False):
            model.proxies["site-0->node-1"]["enabled"] = False  # half of it was done
            raise ToxiproxyFailed("the connection was closed")

    model.before_send = break_once
    reconciler.apply([effect("refuse", to=1), effect("refuse", to=2)])
    assert reconciler.verify() == []


def test_a_silent_api_is_waited_for_once_and_read_back_by_the_next_call() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model, PAIR)
    calls = []

    def stay_silent() -> None:
        calls.append(1)
        raise ToxiproxySilent("no answer in time")

    model.before_send = stay_silent
    with pytest.raises(ToxiproxySilent):
        reconciler.apply([effect("refuse")])
    assert calls == [1]
    model.before_send = lambda: None
    model.proxies["site-0->node-1"]["enabled"] = False  # it was carried out after all
    assert reconciler.apply([effect("refuse")]).requests == 0
    assert reconciler.apply([]).requests == 1


def test_requests_that_were_given_up_and_are_carried_out_late_are_undone() -> None:
    late: list[list[ApiRequest]] = []

    class Late(ModelToxiproxy):
        """Gives no answer to the first call, and carries it out right after the second one."""

        def send(self, requests: Sequence[ApiRequest]) -> list[ApiResponse]:
            if not late:
                late.append(list(requests))
                raise ToxiproxySilent("no answer in time")
            answers = super().send(requests)
            if late[0]:
                super().send(late[0])
                late[0] = []
            return answers

    reconciler = reconciler_on(Late(), PAIR)
    with pytest.raises(ToxiproxySilent):
        reconciler.apply([effect("latency", latency=10, jitter=0)])
    reconciler.apply([effect("refuse")])
    assert reconciler.verify() == []


def test_links_that_do_not_stay_as_they_are_told_are_an_error() -> None:
    class Stubborn(ModelToxiproxy):
        def _answer(self, request: ApiRequest) -> tuple[int, bytes]:
            self.log.append(request)
            return (500, b"") if len(self.log) == 1 else (200, b"")

    reconciler = reconciler_on(Stubborn(), PAIR)
    with pytest.raises(ToxiproxyFailed, match=r"do not stay as they are told.*site-0->node-1"):
        reconciler.apply([effect("refuse")])


def test_links_that_are_gone_from_toxiproxy_are_told_by_number_and_name() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model, PAIR)

    def lose_everything() -> None:
        model.proxies.clear()
        raise ToxiproxyFailed("the connection was closed")

    model.before_send = lose_everything
    with pytest.raises(ToxiproxyFailed, match=r"2 of 2 links are gone from Toxiproxy, the first is site-0->node-1"):
        reconciler.apply([effect("refuse")])


def test_verify_names_the_proxies_that_somebody_else_changed() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model, PAIR)
    model.proxies["site-1->node-0"]["enabled"] = False
    assert reconciler.verify() == ["site-1->node-0"]


def test_reconciliations_of_many_threads_do_not_mix() -> None:
    model = ModelToxiproxy()
    reconciler = reconciler_on(model)
    alone, overlaps = threading.Lock(), []

    def be_alone() -> None:
        if not alone.acquire(blocking=False):
            overlaps.append(threading.current_thread().name)
            return
        threading.Event().wait(0.001)  # long enough for the others to come in, were they let in
        alone.release()

    model.before_send = be_alone
    threads = [
        threading.Thread(target=reconciler.apply, args=([effect("latency", latency=ms, jitter=0)],))
        for ms in range(1, 21)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    assert reconciler.verify() == []
