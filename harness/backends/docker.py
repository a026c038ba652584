"""Members as containers: one network per session, every member and Toxiproxy at an address of its own on it.

- Members dial each other through Toxiproxy's container, and take connections from it and from the gateway (the clients
  outside) alone. Those dial them where they are.
- The ports of Toxiproxy's API and of the lease are published on the session's loopback address; members and links are not.
- Where the session's network is none of this machine (`networks.is_here`), nothing is published: a tunnel leads from that
  address to all of them, and load workers have to be on that network.
- Readiness and exits are heard, not polled: an attached stream gives a container's first line and its end.
- Every container ends by itself when the session's lease is not renewed (node/init.py). Toxiproxy's keeps it.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from docker.errors import APIError, NotFound

from harness.backends import (
    Ground,
    Layout,
    MemberSpec,
    Power,
    ProcessState,
    Quarters,
    Tell,
    Toxiproxy,
)
from harness.backends.lives import Life, Lives
from harness.containers import ability, images, labels, networks, ulimits
from harness.containers import engine as engines
from harness.containers.engine import Engine, retried, told, translated
from harness.containers.leftovers import remove_session, sweep_abandoned
from harness.containers.streams import Streams
from harness.containers.tunnel import FAR_END, Tunnel
from harness.errors import EngineFailed, MemberFailed, ToxiproxyFailed
from harness.records import TUNNEL_LOG
from harness.session import API_PORT, LEASE_PORT, check_free, note_engine
from harness.spawner import describe_exit, tail
from harness.targets import ImageRecipe
from harness.toxiproxy.control import ToxiproxyControl
from harness.toxiproxy.server import await_api, environment

STARTERS = 8  # calls of the engine side by side; it does no more at once
EXIT_GRACE = 20.0  # s for the engine to tell how a container ended
LAUNCH_GRACE = 60.0  # s for what is being started when all is to end; what takes longer removes itself
LEASE = 30.0  # s without renewal after which containers end by themselves
RENEW_EVERY = 5.0  # s
FREEZE_WITHIN = 2.0  # s for the keeper to be told that all is to be removed
USER = "65532:65532"
DATA = "/data"
LOG_SIZE = {"max-size": "1m", "max-file": "1"}  # what the engine keeps; the run folder has all of it
SYSCTLS = {"net.ipv4.tcp_syn_retries": "1"}  # Toxiproxy dials without a time limit of its own (docs/faults.md)
TOXIPROXY, TUNNEL = labels.TOXIPROXY, "tunnel"
# The kernel shares a full machine out among containers, not processes: with as much as a node gets, the one through which all of
# them talk would add tens of milliseconds to every link, which nobody has asked for.
FIRST_SERVED = 262_144  # CPU shares, the most that there are; a member has 1,024
# At least, whatever the engine gives to others: connections that end hold theirs for a while.
TOXIPROXY_DESCRIPTORS = 16_384
KILLED = 128 + 9  # the exit code
LIMIT_WORDS = ("memory", "swap", "cpu", "cfs", "limit")  # by which an engine's warnings about limits are known


class _Container(Life):
    """One life of one member."""

    id: str = ""
    discarded: bool = False  # it was never started: its end is no member's


class DockerBackend(Lives[_Container]):
    """See `Backend`. Every call of the engine is tried again where that is worth it."""

    powers: frozenset[Power] = frozenset(("kill", "stop", "pause", "restart", "cpus", "memory"))
    starters, exit_grace = STARTERS, EXIT_GRACE

    @classmethod
    def prepare(cls, toxiproxy: Path, recipe: Callable[[], ImageRecipe], needs: Collection[Power], tell: Tell) -> None:
        """See `Backend.prepare`: an engine that answers and can do what is needed, and images of what is here."""
        engine = engines.connect()
        try:
            ability.check(engine, needs)
            sweep_abandoned(engine, tell)
            images.ensure(engine, recipe(), toxiproxy, tell)
        finally:
            engine.close()

    @classmethod
    def on(cls, ground: Ground) -> Self:
        """See `Backend.on`. Raises EngineUnavailable."""
        engine = engines.connect()
        try:
            note_engine(ground.state, ground.session_id, engine.url)
            made = images.ensure(engine, ground.recipe(), ground.toxiproxy, lambda _: None)
            return cls(engine, ground, made, memory=ability.memory(engine))
        except BaseException:
            engine.close()
            raise

    def __init__(self, engine: Engine, ground: Ground, made: images.Images, *, memory: int = 0) -> None:
        super().__init__()
        self._memory = memory  # bytes, of the engine's machine; 0 while unknown
        self._engine, self._ground, self._images = engine, ground, made
        self._labels = labels.of_session(ground.session_id, ground.state, ground.lasts)
        self._token = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._launches = 0  # under way
        self._launched = threading.Condition(self._lock)
        self._streams = Streams()
        self._enders = ThreadPoolExecutor(STARTERS, thread_name_prefix="kadstorm-ends")
        self._network: networks.Network | None = None
        self._tunnel: Tunnel | None = None
        self._closing = False
        self._ahead: dict[str, Future[_Container]] = {}  # members whose containers wait to be let go
        self._starters = ThreadPoolExecutor(STARTERS, thread_name_prefix="kadstorm-ahead")
        self._descriptors = 0  # that Toxiproxy may open; 0: as many as the engine gives to any container
        self.lease = _LeaseHolder(ground.host, self._token)

    # --- the place ---------------------------------------------------------------------------------

    def lay_out(self, names: Sequence[str]) -> Layout:
        """See `Backend.lay_out`: makes the session's network. Raises PortsTaken, EngineFailed."""
        check_free(self._ground.host, LEASE_PORT, 1)
        name = f"kadstorm-{self._ground.session_id}"
        first = int(ipaddress.IPv4Address(self._ground.host)) >> 8 & 0xFF
        network = networks.create(self._engine, name, len(names), self._labels, first=first)
        self._network = network
        layout = Layout(
            place="container",
            proxy_host=network.toxiproxy,
            hosts={name: network.member(index) for index, name in enumerate(names)},
            callers=(f"{network.toxiproxy}/32", f"{network.gateway}/32"),
        )
        if networks.is_here(network):
            return replace(layout, direct=True)
        self._tunnel = self._dig()
        callers = (network.toxiproxy, network.tunnel, *network.workers)
        return replace(
            layout,
            callers=tuple(f"{address}/32" for address in callers),
            dial=self._dial,
            quarters=Quarters(network.name, f"{network.toxiproxy}:{LEASE_PORT}", network.workers),
        )

    def _dig(self) -> Tunnel:
        """Start the tunnel's far end, and attach to it. Raises EngineFailed."""
        assert self._network is not None
        host = {"cpu_shares": FIRST_SERVED, "log_config": {"type": "none"}}  # what it says is the connections' bytes
        options = self._options(TUNNEL, self._network.tunnel, [], FAR_END, **host) | {"stdin_open": True}
        with translated("starting the tunnel to the session's network"):
            id_ = str(self._create(TUNNEL, self._images.member, options)["Id"])
            attached = retried(self._engine.api.attach_socket)(
                id_, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
            retried(self._engine.api.start)(id_)
            return Tunnel(attached, self._ground.run_dir / TUNNEL_LOG, self._note_lost_tunnel)

    def _note_lost_tunnel(self, why: str) -> None:
        """Nobody here reaches Toxiproxy any more, so it counts as ended: whoever keeps it starts it again, and the tunnel."""
        life = self.lives.get(TOXIPROXY)
        if life is not None and not self._closing:
            life.end(f"the tunnel to it was lost: {why}")

    def _renew_tunnel(self) -> None:
        """Dig another one if it was lost. Raises EngineFailed."""
        if self._tunnel is not None and self._tunnel.over:
            published = self._tunnel.published()
            self._tunnel = self._dig()
            for where in published:
                self._tunnel.publish(*where)

    def _dial(self, address: tuple[str, int], timeout: float, /) -> socket.socket:
        assert self._tunnel is not None
        return self._tunnel.dial(address, timeout)

    def allow_descriptors(self, needed: int) -> int:
        """See `Backend.allow_descriptors`: what this process may open does not matter to the engine."""
        wanted = max(needed, TOXIPROXY_DESCRIPTORS)
        image = self._images.member
        allowed = ulimits.allowed(self._engine, image, wanted, self._labels)
        self._descriptors = allowed if ulimits.can_be_set(self._engine, image, allowed, self._labels) else 0
        return allowed

    def toxiproxy(self, log: Path) -> Toxiproxy:
        """See `Backend.toxiproxy`."""
        return ToxiproxyContainer(self, self._ground.host, log)

    def data_dir(self, name: str) -> str:
        """See `Backend.data_dir`: where the member's volume is."""
        return DATA

    def erase(self, name: str) -> None:
        """See `Backend.erase`: removes its volume."""
        try:
            self._remove_container(name)
            with translated(f"removing the data of {name}"):
                self._remove_volume(name)
        except EngineFailed as error:
            raise MemberFailed(f"{name}: {error}") from error

    # --- lives -------------------------------------------------------------------------------------

    def ahead(self, specs: Sequence[MemberSpec]) -> None:
        """See `Backend.ahead`: containers of the first are started, as many as the engine starts at once. Their init waits."""
        for spec in specs[:STARTERS]:
            self._ahead[spec.name] = self._starters.submit(self._launch, spec, held=True)

    def pause(self, name: str) -> None:
        """See `Backend.pause`."""
        life = self.living(name)
        if life is not None:
            self._unless_gone(life, "freezing", self._engine.api.pause)

    def resume(self, name: str) -> None:
        """See `Backend.resume`."""
        life = self.living(name)
        if life is not None and self.state(name) == "paused":
            self._unless_gone(life, "resuming", self._engine.api.unpause)

    def state(self, name: str) -> ProcessState:
        """See `Backend.state`; asks the engine."""
        life = self.lives.get(name)
        if life is None or not life.id:
            return "dead"
        try:
            with translated(f"asking for the state of {name}"):
                status = retried(self._engine.api.inspect_container)(life.id)["State"]
        except EngineFailed as error:
            if isinstance(error.__cause__, NotFound):
                return "dead"
            raise MemberFailed(str(error)) from error
        if status.get("Paused"):
            return "paused"
        return "running" if status.get("Running") else "dead"

    def close(self) -> None:
        """See `Backend.close`: kills and removes every container, then volumes and the network of this session."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            for life in self.lives.values():
                life.asked_to_end = True
            # What is being made is in no list yet: it is to be made before all is removed.
            self._launched.wait_for(lambda: not self._launches, LAUNCH_GRACE)
        try:
            self.lease.freeze()
            looks = 2 if self._launches else 1
            remains = remove_session(self._engine, self._ground.session_id, empty_looks=looks).trouble
            for life in list(self.lives.values()):
                life.ended.wait(EXIT_GRACE)
        finally:
            if self._tunnel is not None:
                self._tunnel.close()
            self._starters.shutdown(wait=True, cancel_futures=True)
            self._streams.close()  # first: it hands what has ended to the others
            self._enders.shutdown(wait=True)
            self._engine.close()
        if trouble := [*self.listeners.trouble, *remains]:
            raise MemberFailed("; ".join(trouble))

    # --- how it is done ----------------------------------------------------------------------------

    def ask_to_leave(self, life: _Container) -> None:
        """See `Lives`. The engine lets a frozen container go on when it is sent a signal."""
        self._signal(life, "SIGTERM")

    def end_at_once(self, life: _Container) -> None:
        """See `Lives`."""
        self._signal(life, "SIGKILL")

    def label(self, life: _Container) -> str:
        """See `Lives`."""
        return "its container"

    def _signal(self, life: _Container, number: str) -> None:
        self._unless_gone(life, f"sending {number} to", lambda id_: self._engine.api.kill(id_, signal=number))

    def _unless_gone(self, life: _Container, doing: str, call: Callable[[str], object]) -> None:
        """Do something to a container; that it has ended meanwhile is no failure."""
        name = life.spec.name
        try:
            with translated(f"{doing} {name}"):
                retried(call)(life.id)
        except EngineFailed as error:
            said = error.__cause__
            gone = isinstance(said, APIError) and said.status_code in (404, 409)
            if gone and (life.ended.wait(0.5) or self.state(name) == "dead"):
                return
            raise MemberFailed(str(error)) from error

    def launch(self, spec: MemberSpec) -> _Container:
        """See `Lives`."""
        ahead = self._ahead.pop(spec.name, None)
        if ahead is None:
            return self._launch(spec)
        self.lease.let_go()
        return ahead.result()

    def _launch(self, spec: MemberSpec, *, held: bool = False) -> _Container:
        life = _Container(spec)
        try:
            with self._launching(life) as before:
                if before is not None:
                    self._remove_container(spec.name)
                self._run(life, self._images.member, self._member_options(spec, held=held))
        except EngineFailed as error:
            raise MemberFailed(f"{spec.name}: cannot start its container: {error}") from error
        return life

    @contextmanager
    def _launching(self, life: _Container) -> Iterator[_Container | None]:
        """What `close` waits for: the start of a life, after the one before it under that name. Raises EngineFailed."""
        name = life.spec.name
        with self._lock:
            self._check_open(name)
            before, self.lives[name] = self.lives.get(name), life
            self._launches += 1
        try:
            yield before
        except BaseException:
            life.end("it was never started")
            raise
        finally:
            with self._lock:
                self._launches -= 1
                self._launched.notify_all()

    def _check_open(self, name: str) -> None:
        if self._closing:
            raise EngineFailed(f"{name}: not started, since the run is ending")

    def run_toxiproxy(self, life: _Container) -> None:
        """Start Toxiproxy's container, as a life beside the members'. Raises EngineFailed."""
        assert self._network is not None
        command = ["toxiproxy-server", "-host", "0.0.0.0", "-port", str(API_PORT)]  # noqa: S104  inside its network
        host: dict[str, Any] = {"cpu_shares": FIRST_SERVED}
        if self._descriptors:
            host["ulimits"] = [ulimits.nofile(self._descriptors)]
        self._renew_tunnel()
        options = self._options(TOXIPROXY, self._network.toxiproxy, [API_PORT, LEASE_PORT], command, **host)
        options["environment"] |= environment(self._memory)
        with self._launching(life):
            self._run(life, self._images.toxiproxy, options)

    def _run(self, life: _Container, image: str, options: dict[str, Any]) -> None:
        """Create a container, attach to it, and start it; one that cannot be started is removed. Raises EngineFailed."""
        name, api = life.spec.name, self._engine.api
        try:
            with translated(f"starting {name}"):
                made = self._create(name, image, options)
                life.id = str(made["Id"])
                check_limits(name, options["host_config"], made.get("Warnings") or [])
                self._check_open(name)
                attached = retried(api.attach_socket)(life.id, params={"stdout": 1, "stderr": 1, "stream": 1})
                self._streams.add(attached, life.spec.log, life.heard, lambda: self._note_end(life))
                retried(api.start)(life.id)
        except BaseException:
            life.discarded = True
            with suppress(EngineFailed):  # it is told why it did not start; what is left goes with the session
                self._remove_container(name)
            raise

    def _create(self, name: str, image: str, options: dict[str, Any]) -> dict[str, Any]:
        full = self.container_name(name)

        @retried
        def create() -> dict[str, Any]:
            try:
                return dict(self._engine.api.create_container(image, name=full, **options))
            except APIError as error:
                if error.status_code != 409:
                    raise
                # an earlier try was carried out though its answer was lost, or a life before has not been removed yet
                self._engine.api.remove_container(full, force=True, v=True)
                return dict(self._engine.api.create_container(image, name=full, **options))

        return create()

    def container_name(self, name: str) -> str:
        """How the engine calls a member."""
        return f"kadstorm-{self._ground.session_id}-{name}"

    def _options(
        self, name: str, address: str, published: Sequence[int], command: Sequence[str], **host: Any
    ) -> dict[str, Any]:
        """What every container of a session has in common: no privileges, a fixed address, a lease, labels."""
        assert self._network is not None
        api, network = self._engine.api, self._network
        if self._tunnel is not None:
            for port in published:
                self._tunnel.publish(self._ground.host, port, (address, port))
            published = ()
        role = ["--keep", str(LEASE_PORT)] if name == TOXIPROXY else ["--follow", f"{network.toxiproxy}:{LEASE_PORT}"]
        settings = {
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": "size=16m"},  # noqa: S108  the container's own
            "sysctls": SYSCTLS,
            "port_bindings": {port: (self._ground.host, port) for port in published},
            "log_config": {"type": "json-file", "config": LOG_SIZE},
            "network_mode": network.name,
        }
        return {
            "command": ["--lease", f"{LEASE:g}", *role, *command],
            "environment": {"KADSTORM_LEASE": self._token, "PYTHONUNBUFFERED": "1"},
            "hostname": name,
            "user": USER,
            "ports": list(published),
            "labels": self._labels | {labels.MEMBER: name},
            # readiness is heard, and a check a node a second costs more than the node
            "healthcheck": {"test": ["NONE"]},
            "host_config": api.create_host_config(**settings | host),
            "networking_config": api.create_networking_config(
                {network.name: api.create_endpoint_config(ipv4_address=address)}
            ),
        }

    def _member_options(self, spec: MemberSpec, *, held: bool = False) -> dict[str, Any]:
        limits = self._ground.limits
        host: dict[str, Any] = {}
        if limits.get("memory"):
            host |= {"mem_limit": limits["memory"], "memswap_limit": limits["memory"]}
        if limits.get("cpus"):
            host["nano_cpus"] = int(limits["cpus"] * 1e9)
        if spec.keeps_data:
            host["binds"] = {self._volume(spec.name): {"bind": DATA, "mode": "rw"}}
        # Published ports are for the tunnel alone: members of a network that is here are dialled where they are.
        published = [spec.port] if spec.port and self._tunnel is not None else []
        command = ["--hold", *spec.command] if held else spec.command
        return self._options(spec.name, spec.address, published, command, **host)

    def _volume(self, name: str) -> str:
        volume = self.container_name(name)
        with translated(f"making the volume of {name}"):
            retried(self._engine.api.create_volume)(volume, labels=self._labels | {labels.MEMBER: name})
        return volume

    def _remove_volume(self, name: str) -> None:
        with suppress(NotFound):
            retried(self._engine.api.remove_volume)(self.container_name(name), force=True)

    def _remove_container(self, name: str) -> None:
        with translated(f"removing the container of {name}"), suppress(NotFound):
            retried(self._engine.api.remove_container)(self.container_name(name), force=True)

    def _note_end(self, life: _Container) -> None:
        self._enders.submit(self._tell_end, life)

    def _tell_end(self, life: _Container) -> None:
        life.end(self._how_ended(life))
        if (
            life.spec.name != TOXIPROXY and not life.discarded
        ):  # whose end its owner asks about, or hears as a failed start
            self.listeners.tell(life)

    def _how_ended(self, life: _Container) -> str:
        """How a container ended, for people, from the engine's own record of it."""
        until = time.monotonic() + EXIT_GRACE
        try:
            while True:
                state = self._engine.api.inspect_container(life.id)["State"]
                if not state["Running"]:
                    memory = self._ground.limits.get("memory") if life.spec.name != TOXIPROXY else None
                    return describe_end(state, memory, doubt=self._engine.is_podman and not life.asked_to_end)
                if time.monotonic() > until:
                    return "its output ended, and the engine says that it runs"
                time.sleep(0.02)  # the engine closes the stream a moment before it notes the end
        except NotFound:
            return "killed by SIGKILL"  # removed by force, which is how a session ends
        except Exception as error:  # the engine has gone, and with it all that could tell
            return f"nobody knows how, since the engine does not answer: {told(error)}"


def check_limits(name: str, host: Mapping[str, Any], warnings: Sequence[str]) -> None:
    """See that an engine holds a container to the limits that were asked for. Raises EngineFailed, with what it said instead."""
    asked = host.get("Memory") or host.get("NanoCpus")
    about = [warning for warning in warnings if any(word in warning.lower() for word in LIMIT_WORDS)]
    if asked and about:
        raise EngineFailed(
            f"{name} would not be held to its `limits`, the engine said: {'; '.join(about)}. Give its kernel what that needs "
            "(docs/containers.md), or leave `cluster.limits` out"
        )


def describe_end(state: dict[str, Any], memory: int | None = None, *, doubt: bool = False) -> str:
    """A container's end as people say it; codes above 128 are signals. ``doubt``: the engine may not have seen the reason."""
    limit = f"its limit of {memory / 2**20:.0f} MiB" if memory else "its limit"
    if state.get("OOMKilled"):
        return f"killed for want of memory ({limit})"
    code = int(state.get("ExitCode", 0))
    told = describe_exit(code)
    if doubt and memory and code == KILLED:
        told += f", perhaps for want of memory ({limit}), of which Podman does not always hear"
    return told


class ToxiproxyContainer:
    """See `backends.Toxiproxy`: the server in a container, which also keeps the session's lease."""

    def __init__(self, backend: DockerBackend, host: str, log: Path) -> None:
        self._backend, self._log = backend, log
        self._life = self._new_life()
        self.control = ToxiproxyControl(host, API_PORT)

    def start(self) -> str:
        """See `backends.Toxiproxy.start`."""
        self._life = self._new_life()
        try:
            self._backend.run_toxiproxy(self._life)
        except EngineFailed as error:
            self._life.end("it was never started")
            raise ToxiproxyFailed(f"Toxiproxy's container did not start: {error}") from error
        version = self._await_api()
        self._backend.lease.start()
        return version

    def _new_life(self) -> _Container:
        return _Container(MemberSpec(TOXIPROXY, (), self._log, watches_parent=True))

    def _await_api(self) -> str:
        try:
            return await_api(self.control, self.alive)
        except ToxiproxyFailed as error:
            log = self._log
            raise ToxiproxyFailed(
                f"Toxiproxy's container did not start: {self.exit() or error}. The end of {log}:\n{tail(log)}"
            ) from error

    def wait(self) -> None:
        """See `backends.Toxiproxy.wait`."""
        self._life.ended.wait()

    def restart(self) -> str:
        """See `backends.Toxiproxy.restart`."""
        with suppress(MemberFailed):  # `start` removes what is left by force
            self._backend.kill(TOXIPROXY)
        return self.start()

    def alive(self) -> bool:
        """See `backends.Toxiproxy.alive`."""
        return not self._life.ended.is_set()

    def exit(self) -> str:
        """See `backends.Toxiproxy.exit`."""
        return "" if self.alive() else self._life.how

    def stop(self) -> None:
        """See `backends.Toxiproxy.stop`. The container is removed with the session's others."""
        self._backend.lease.close()
        self.control.close()


class _LeaseHolder:
    """Renews the session's lease as long as this process lives; a keeper that is away is dialled again."""

    def __init__(self, host: str, token: str) -> None:
        self._address, self._token = (host, LEASE_PORT), token.encode()
        self._may_go = False
        self._stop = threading.Event()
        self._at_once = threading.Event()  # whether something is to be said before the next renewal is due
        self._thread = threading.Thread(target=self._renew_until_closed, name="kadstorm-lease", daemon=True)

    def start(self) -> None:
        """Begin to renew; again is harmless."""
        if not self._thread.is_alive() and not self._stop.is_set():
            self._thread.start()

    def close(self) -> None:
        """Renew no longer: what is not removed ends by itself."""
        self._stop.set()
        self._at_once.set()
        if self._thread.is_alive():
            self._thread.join()

    def let_go(self) -> None:
        """Have those that wait go on. Every renewal says so from now on, since the keeper may be started again."""
        if not self._may_go:
            self._may_go = True
            self._at_once.set()

    def freeze(self) -> None:
        """Have all members stand still, since they are to be removed; where nobody keeps the lease they go on until then."""
        with suppress(OSError), socket.create_connection(self._address, timeout=FREEZE_WITHIN) as keeper:
            keeper.sendall(self._token + b" still\n")
            keeper.recv(64)  # it has been passed on

    def _renew_until_closed(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError), socket.create_connection(self._address, timeout=RENEW_EVERY) as keeper:
                self._renew_over(keeper)
            self._stop.wait(1.0)

    def _renew_over(self, keeper: socket.socket) -> None:
        while not self._stop.is_set():
            self._at_once.clear()
            keeper.sendall(self._token + (b" go\n" if self._may_go else b"\n"))
            if not keeper.recv(64):
                return
            if not self._stop.is_set():
                self._at_once.wait(RENEW_EVERY)
