"""Link effects in force -> the state of every proxy. The only part that touches toxics.

Pure half: `desired_state` computes from all effects together what each proxy should be. So faults stack and leave in
any order: latencies add, the lowest bandwidth wins, black hole over all of these, refusal over black hole.

Doing half: `LinkReconciler` compares that with what it knows of the proxies and sends the difference. What it knows is
what Toxiproxy acknowledged. When a call fails, it is in doubt for a while: requests that were given up may still be
carried out. In doubt it reads everything back first, and is done only when a read-back finds nothing left to do.

What travels from A to B is: requests on A's connections to B (their upstream) and answers on B's connections to A
(their downstream). So an effect A→B touches two proxies of each pair of nodes, each in one stream. `refuse` and
`reset` act on whole connections that A opens to B. A reset works only on connections that begin with it, so the proxy
is disabled, given the toxic and enabled: live connections are closed, new ones are reset.

Toxiproxy dials a destination without a time limit, and disabling a proxy waits for that while it holds locks. So a
proxy whose destination cannot answer is never disabled: there, refusal is a black hole in both streams until the
destination is back, and a reset lets live connections be (they hang anyway) and acts on new ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from harness.effects import LinkEffect
from harness.errors import ToxiproxyFailed, ToxiproxySilent
from harness.links import Link, Topology
from harness.toxiproxy.bulk import ApiRequest, BulkWriter
from harness.toxiproxy.control import ToxiproxyControl

Stream = Literal["upstream", "downstream"]

TRIES = 4
DOUBT = 30.0  # s after a failure; Toxiproxy gives a request up after 25 s
WHOLE_CONNECTION = ("refuse", "reset")
TOXIC_TYPES = {"blackhole": "timeout", "reset": "reset_peer"}  # the others are called as in faults
ATTRIBUTES = {  # of each kind, all that Toxiproxy knows: what an effect leaves out is 0, and is told so when read back
    "latency": ("jitter", "latency"),
    "bandwidth": ("rate",),
    "slicer": ("average_size", "delay", "size_variation"),
    "slow_close": ("delay",),
    "limit_data": ("bytes",),
    "reset": ("timeout",),
    "blackhole": ("timeout",),
}
STRONGEST = {"rate": min, "average_size": min, "bytes": min, "timeout": min, "delay": max, "size_variation": max}


@dataclass(frozen=True)
class Toxic:
    """One toxic of one proxy. ``toxicity`` in thousandths."""

    type: str
    stream: Stream
    toxicity: int
    attributes: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return f"{self.type}_{self.stream}_{self.toxicity}"

    def payload(self) -> dict[str, Any]:
        """As the API takes it."""
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity / 1000,
            "attributes": dict(self.attributes),
        }


@dataclass(frozen=True)
class ProxyState:
    """What a proxy is, or should be. ``toxics`` by name."""

    enabled: bool = True
    toxics: Mapping[str, Toxic] = field(default_factory=dict)


@dataclass(frozen=True)
class Applied:
    """What one reconciliation changed and sent, and the monotonic times of its first request and its last answer."""

    proxies: int
    requests: int
    first_at: float
    last_at: float


# --- pure: effects -> states ----------------------------------------------------------------------------------------


def desired_state(
    topology: Topology, effects: Sequence[LinkEffect], unresponsive: Collection[str] = ()
) -> dict[str, ProxyState]:
    """The state of every proxy, by name, with all ``effects`` in force; nodes in ``unresponsive`` cannot answer."""
    gathered: dict[str, list[tuple[Stream, LinkEffect]]] = {link.proxy: [] for link in topology.links}
    for effect in effects:
        for link, stream in touched(topology, effect):
            gathered[link.proxy].append((stream, effect))
    return {
        link.proxy: _state(gathered[link.proxy], responsive=link.node not in unresponsive) for link in topology.links
    }


def touched(topology: Topology, effect: LinkEffect) -> Iterator[tuple[Link, Stream]]:
    """The streams that an effect acts on."""
    for link in topology.between(effect.source, effect.destination):
        yield link, "upstream"
    if effect.kind not in WHOLE_CONNECTION:
        for link in topology.between(effect.destination, effect.source):
            yield link, "downstream"


def _state(effects: list[tuple[Stream, LinkEffect]], *, responsive: bool) -> ProxyState:
    if not effects:
        return ProxyState()
    refused = any(effect.kind == "refuse" for _, effect in effects)
    if refused and not responsive:
        streams: tuple[Stream, ...] = ("upstream", "downstream")
        holes = [Toxic("timeout", stream, 1000, (("timeout", 0),)) for stream in streams]
        return ProxyState(toxics={toxic.name: toxic for toxic in holes})
    grouped: dict[tuple[Stream, str, int], list[LinkEffect]] = {}
    for stream, effect in effects:
        if effect.kind != "refuse":
            grouped.setdefault((stream, effect.kind, effect.toxicity), []).append(effect)
    swallowed = {stream for stream, kind, toxicity in grouped if kind == "blackhole" and toxicity == 1000}
    toxics = [
        Toxic(TOXIC_TYPES.get(kind, kind), stream, toxicity, _merged(kind, group))
        for (stream, kind, toxicity), group in sorted(grouped.items(), key=lambda item: item[0])
        if kind == "blackhole" or stream not in swallowed
    ]
    return ProxyState(enabled=not refused, toxics={toxic.name: toxic for toxic in toxics})


def _merged(kind: str, effects: list[LinkEffect]) -> tuple[tuple[str, int], ...]:
    """The attributes of several effects of one kind on one stream."""
    given: dict[str, list[int]] = {name: [] for name in ATTRIBUTES[kind]}
    for effect in effects:
        for name, value in effect.attributes:
            given[name].append(value)
    if kind == "latency":
        merged = {name: sum(values) for name, values in given.items()}
        merged["jitter"] = min(merged.values())  # a delay below nothing does not exist
    else:
        merged = {name: STRONGEST[name](values, default=0) for name, values in given.items()}
    if kind == "slicer":  # Toxiproxy panics where pieces may vary by more than their size
        merged["size_variation"] = max(0, min(merged["size_variation"], merged["average_size"] - 1))
    return tuple(sorted(merged.items()))


def proxy_payloads(topology: Topology) -> list[dict[str, Any]]:
    """What `POST /populate` takes to make every link."""
    return [
        {
            "name": link.proxy,
            "listen": topology.listen_address(link),
            "upstream": topology.upstream_address(link),
            "enabled": True,
        }
        for link in topology.links
    ]


def state_told(told: Mapping[str, Any]) -> ProxyState:
    """A proxy as the API tells it."""
    toxics = [
        Toxic(
            toxic["type"],
            toxic["stream"],
            round(toxic["toxicity"] * 1000),
            tuple(sorted((name, int(value)) for name, value in toxic["attributes"].items())),
        )
        for toxic in told["toxics"]
    ]
    names = [toxic["name"] for toxic in told["toxics"]]  # not always the name that we would give
    return ProxyState(bool(told["enabled"]), dict(zip(names, toxics, strict=True)))


# --- pure: the difference -> requests -------------------------------------------------------------------------------


def requests_for(
    proxy: str, actual: ProxyState, wanted: ProxyState, *, responsive: bool = True
) -> Iterator[ApiRequest]:
    """What turns ``actual`` into ``wanted``, in order: a proxy is disabled first and enabled last.

    ``responsive``: whether the destination can answer; if not, nothing is disabled (`desired_state` asks for nothing of
    the kind then).
    """
    path = f"/proxies/{quote(proxy, safe='')}"
    added = [toxic for name, toxic in wanted.toxics.items() if name not in actual.toxics]
    # a reset toxic works on connections that begin with it: those that live are cut first
    resets = any(toxic.type == "reset_peer" for toxic in added)
    cuts = responsive and resets and actual.enabled and wanted.enabled
    if (actual.enabled and not wanted.enabled) or cuts:
        yield ApiRequest("POST", path, {"enabled": False}, proxy)
    for toxic in added:
        yield ApiRequest("POST", f"{path}/toxics", toxic.payload(), proxy)
    for name, toxic in wanted.toxics.items():
        if name in actual.toxics and actual.toxics[name] != toxic:
            change = {"toxicity": toxic.toxicity / 1000, "attributes": dict(toxic.attributes)}
            yield ApiRequest("POST", f"{path}/toxics/{name}", change, proxy)
    for name in actual.toxics:
        if name not in wanted.toxics:
            yield ApiRequest("DELETE", f"{path}/toxics/{name}", None, proxy)
    if (wanted.enabled and not actual.enabled) or cuts:
        yield ApiRequest("POST", path, {"enabled": True}, proxy)


# --- doing ----------------------------------------------------------------------------------------------------------


class LinkReconciler:
    """Keeps the proxies of one topology as the effects in force want them. Thread-safe: one reconciliation a time."""

    def __init__(self, topology: Topology, control: ToxiproxyControl, writer: BulkWriter) -> None:
        self._topology, self._control, self._writer = topology, control, writer
        self._lock = threading.Lock()
        self._known: dict[str, ProxyState] = {}
        self._doubt_until = 0.0  # monotonic
        self._wanted: dict[str, ProxyState] = {}
        self._unresponsive: Collection[str] = ()

    def create(self) -> None:
        """Make every link, without effects. Raises ToxiproxyFailed."""
        with self._lock:
            self._control.populate(proxy_payloads(self._topology))
            self._known = {link.proxy: ProxyState() for link in self._topology.links}
            self._wanted = dict(self._known)

    def apply(self, effects: Sequence[LinkEffect], unresponsive: Collection[str] = ()) -> Applied:
        """Make ``effects``, and no others, true.

        Raises:
            ToxiproxyFailed: that did not succeed in TRIES tries, or the API is silent, which is waited for once; the
                next call begins with reading back what is.
        """
        wanted = desired_state(self._topology, effects, unresponsive)
        with self._lock:
            self._wanted, self._unresponsive = wanted, unresponsive
            first, sent = time.monotonic(), self._converge(unresponsive)
            return Applied(len({request.proxy for request in sent}), len(sent), first, time.monotonic())

    def restore(self) -> Applied:
        """Make every link anew, on a server that knows none, as it was wanted last. Raises ToxiproxyFailed."""
        with self._lock:
            first = time.monotonic()
            self._control.populate(proxy_payloads(self._topology))
            self._known = {link.proxy: ProxyState() for link in self._topology.links}
            self._doubt_until = 0.0
            sent = self._converge(self._unresponsive)
            return Applied(len({request.proxy for request in sent}), len(sent), first, time.monotonic())

    def verify(self) -> list[str]:
        """The proxies that are not as they should be, read back from the API. Raises ToxiproxyFailed."""
        with self._lock:
            actual = self._read()
            return [proxy for proxy, state in self._wanted.items() if actual.get(proxy) != state]

    def _read(self) -> dict[str, ProxyState]:
        return {name: state_told(told) for name, told in self._control.states().items()}

    def _converge(self, unresponsive: Collection[str]) -> list[ApiRequest]:
        """Send until all is as wanted; what was sent. Raises ToxiproxyFailed."""
        sent: list[ApiRequest] = []
        for left in reversed(range(TRIES)):
            try:
                requests = self._send_difference(unresponsive)
            except ToxiproxyFailed as error:
                self._doubt_until = time.monotonic() + DOUBT
                if not left or isinstance(error, ToxiproxySilent):
                    raise
                continue
            sent += requests
            if not requests or not self._in_doubt():
                return sent
        raise ToxiproxyFailed(
            f"Toxiproxy's links do not stay as they are told: after {TRIES} tries {sent[-1].proxy} and maybe others differ; "
            "something else changes them"
        )

    def _in_doubt(self) -> bool:
        return time.monotonic() < self._doubt_until

    def _send_difference(self, unresponsive: Collection[str]) -> list[ApiRequest]:
        if self._in_doubt():
            self._known = self._read()
            self._require_all()
        requests = [
            request
            for link in self._topology.links
            if self._known[link.proxy] != self._wanted[link.proxy]
            for request in requests_for(
                link.proxy,
                self._known[link.proxy],
                self._wanted[link.proxy],
                responsive=link.node not in unresponsive,
            )
        ]
        for response in self._writer.send(requests) if requests else ():
            if not response.ok:
                raise ToxiproxyFailed(f"Toxiproxy refused {response}")
        self._known = dict(self._wanted)
        return requests

    def _require_all(self) -> None:
        """Raises ToxiproxyFailed if links are gone, as after a restart of the server behind our back."""
        gone = [proxy for proxy in self._wanted if proxy not in self._known]
        if gone:
            raise ToxiproxyFailed(
                f"{len(gone)} of {len(self._wanted)} links are gone from Toxiproxy, the first is {gone[0]}: "
                "it was restarted, or something else deleted them"
            )
