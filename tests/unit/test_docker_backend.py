"""What the Docker backend makes of an engine that is slow, silent, or ends what it started: with an engine made for that."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker as client
import pytest
import requests
import tenacity.nap
from docker.errors import APIError

from harness import registry
from harness.backends import Exit, Ground, MemberSpec, docker
from harness.backends.docker import DockerBackend, check_limits
from harness.containers import ability, leftovers, networks
from harness.containers.engine import Engine
from harness.containers.images import Images
from harness.containers.streams import STDOUT
from harness.errors import EngineFailed, HarnessError, MemberFailed, PortsTaken, ToxiproxyFailed
from harness.session import LEASE_PORT, Session
from harness.toxiproxy.server import environment

# A backend that closes dials the session's lease port: of each test process another one, since they may run side by side.
HOST = f"127.20.247.{2 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"
LIMIT = 20.0  # s


class Silent(client.APIClient):  # type: ignore[misc]
    """A client whose every request times out."""

    def __init__(self) -> None:
        super().__init__(base_url="unix:///nowhere", version="1.41")
        self.asked: list[str] = []

    def request(self, method: str, url: str, **_: Any) -> Any:
        self.asked.append(f"{method} {url.rpartition('/v1.41')[2]}")
        raise requests.ReadTimeout("no answer")


class Making(Silent):
    """One that makes containers, which say at once that they serve; what is to be asked is in its own hands."""

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, int] = {}  # id -> where its output is written
        self.may_create, self.creating = threading.Event(), threading.Event()
        self.may_create.set()
        self.fails: dict[str, list[Exception]] = {}  # call -> what it raises, one after the other

    def _do(self, call: str) -> None:
        self.asked.append(call)
        if self.fails.get(call):
            raise self.fails[call].pop(0)

    def create_container(self, *_: Any, name: str, **__: Any) -> dict[str, Any]:
        self.creating.set()
        assert self.may_create.wait(LIMIT)
        self._do("create")
        self.there[name] = -1
        return {"Id": name, "Warnings": None}

    def attach_socket(self, name: str, **_: Any) -> Any:
        self._do("attach")
        reading, self.there[name] = os.pipe()
        return os.fdopen(reading, "rb", buffering=0)

    def start(self, name: str) -> None:
        self._do("start")
        os.write(self.there[name], bytes([STDOUT, 0, 0, 0]) + len(b"serving\n").to_bytes(4, "big") + b"serving\n")

    def remove_container(self, name: str, **_: Any) -> None:
        self._do("remove")
        output = self.there.pop(name, None)
        if output is None:
            raise client.errors.NotFound("gone")
        if output >= 0:
            os.close(output)

    def inspect_container(self, name: str) -> dict[str, Any]:
        if name not in self.there:
            raise client.errors.NotFound("gone")
        return {"State": {"Running": True}}

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        self.asked.append("list")
        return [{"Id": name, "Labels": {"kadstorm.session": "s"}} for name in self.there]

    def volumes(self, **_: Any) -> dict[str, Any]:
        return {"Volumes": None}

    def networks(self, **_: Any) -> list[dict[str, Any]]:
        return []


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(leftovers, "PAUSE", 0.001)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[Any], DockerBackend]]:
    """Makes the backend of a session named `s` on an engine, whose network is there."""
    made: list[DockerBackend] = []

    def backend(api: Any) -> DockerBackend:
        ground = Ground(
            session_id="s", host=HOST, state=tmp_path, run_dir=tmp_path, toxiproxy=tmp_path,
            spawn=lambda *_, **__: None, recipe=registry.target("kademlia").image,
        )  # type: ignore[arg-type]  # fmt: skip
        made.append(DockerBackend(Engine(api, "", "", ""), ground, Images("m", "t")))
        made[-1]._network = networks.Network("n", "n", next(networks.subnets(10, 0)))
        return made[-1]

    yield backend
    for one in made:
        with suppress(HarnessError):  # the engine is silent to the end
            one.close()


def member(folder: Path, name: str = "a", *, keeps_data: bool = False) -> MemberSpec:
    return MemberSpec(
        name, (), folder / f"{name}.log", watches_parent=False, address="10.192.0.9", keeps_data=keeps_data
    )


def soon() -> float:
    return time.monotonic() + LIMIT


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "asked"),
    [
        ("lay_out", EngineFailed, "POST /networks/create"),
        ("start", MemberFailed, "POST /containers/create"),
        ("start with data", MemberFailed, "POST /volumes/create"),
        ("start Toxiproxy", ToxiproxyFailed, "POST /containers/create"),
        ("erase", MemberFailed, "DELETE /containers/kadstorm-s-a"),
        ("kill", MemberFailed, "POST /containers/its-id/kill"),
        ("stop", MemberFailed, "POST /containers/its-id/kill"),
        ("pause", MemberFailed, "POST /containers/its-id/pause"),
        ("resume", MemberFailed, "GET /containers/its-id/json"),
        ("state", MemberFailed, "GET /containers/its-id/json"),
    ],
)
def test_a_silent_engine_is_asked_again_and_told_as_an_error_of_ours(
    make: Any, tmp_path: Path, call: str, kind: type[HarnessError], asked: str
) -> None:
    api = Silent()
    backend = make(api)
    if not call.startswith(("start", "lay")):
        life = docker._Container(member(tmp_path))
        life.id, backend.lives["a"] = "its-id", life
    calls: dict[str, Callable[[], object]] = {
        "lay_out": lambda: backend.lay_out(["a"]),
        "start": lambda: backend.start([member(tmp_path)], deadline=soon()),
        "start with data": lambda: backend.start([member(tmp_path, keeps_data=True)], deadline=soon()),
        "start Toxiproxy": lambda: backend.toxiproxy(tmp_path / "log").start(),
        "stop": lambda: backend.stop("a", grace=0.0),
    }
    with pytest.raises(kind, match="no answer"):
        calls.get(call, lambda: getattr(backend, call)("a"))()
    assert api.asked[:4] == [asked] * 4
    if "a" in backend.lives:
        backend.lives["a"].end("never mind")


def test_a_network_that_was_made_though_the_answer_was_lost_is_taken(make: Any) -> None:
    class Lossy(Silent):
        def create_network(self, *_: Any, **__: Any) -> dict[str, str]:
            self.asked.append("create")
            if len(self.asked) == 1:
                raise requests.ReadTimeout("no answer")
            response = requests.Response()
            response.status_code = 409
            raise APIError("", response=response, explanation="network with name kadstorm-s already exists")

        def networks(self, *, names: list[str] | None = None, **_: Any) -> list[dict[str, str]]:
            return [{"Id": "another", "Name": f"{names}-b"}, {"Id": "made", "Name": "kadstorm-s"}]

    made = networks.create(Engine(Lossy(), "", "", ""), "kadstorm-s", 3, {})
    assert made.id == "made"


@pytest.mark.parametrize(
    "said",
    [
        "Pool overlaps with other one on this address space",  # Docker
        "subnet 10.192.0.0/24 is already used on the host or by another config",  # Podman
    ],
)
def test_a_subnet_that_somebody_has_is_passed_over(said: str) -> None:
    class Taken(Silent):
        def create_network(self, *_: Any, **__: Any) -> dict[str, str]:
            self.asked.append("create")
            if len(self.asked) > 2:
                return {"Id": "made"}
            response = requests.Response()
            response.status_code = 500
            raise APIError("", response=response, explanation=said)

    assert str(networks.create(Engine(Taken(), "", "", ""), "kadstorm-s", 3, {}).subnet) == "10.192.2.0/24"


def test_a_lease_port_that_somebody_has_is_named_before_anything_is_made(make: Any, tmp_path: Path) -> None:
    api = Silent()
    with Session(tmp_path, state=tmp_path) as session, socket.create_server((session.host, LEASE_PORT)):
        backend = make(api)
        object.__setattr__(backend._ground, "host", session.host)
        with pytest.raises(PortsTaken, match=f"port {LEASE_PORT} on {session.host} is taken"):
            backend.lay_out(["a"])
    assert not api.asked


@pytest.mark.parametrize("here", [True, False], ids=["this machine's engine", "another's"])
def test_members_are_dialled_where_they_are_or_else_through_a_tunnel_from_the_sessions_address(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    backend, led = make(Making()), list[tuple[str, int, tuple[str, int]]]()
    monkeypatch.setattr(docker, "check_free", lambda *_: None)
    monkeypatch.setattr(networks, "create", lambda *_, **__: backend._network)
    monkeypatch.setattr(networks, "is_here", lambda _: here)
    tunnel = SimpleNamespace(publish=lambda *where: led.append(where), close=lambda: None, over=False)
    monkeypatch.setattr(backend, "_dig", lambda: tunnel)
    layout = backend.lay_out(["a"])
    spec = replace(member(tmp_path), address=layout.hosts["a"], port=10_000)
    options = backend._member_options(spec)
    assert layout.direct == here
    assert options["ports"] == []
    assert not options["host_config"].get("PortBindings")
    assert led == ([] if here else [(HOST, 10_000, (layout.hosts["a"], 10_000))])


def test_toxiproxy_runs_with_variables_for_its_machines_memory_and_members_with_none_of_them(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOGC", "GOMEMLIMIT"):
        monkeypatch.delenv(name, raising=False)
    given: dict[str, dict[str, str]] = {}
    api = Making()
    create = api.create_container

    def noted(*arguments: Any, name: str, **options: Any) -> dict[str, Any]:
        given[name] = options["environment"]
        return create(*arguments, name=name, **options)

    monkeypatch.setattr(api, "create_container", noted)
    backend = make(api)
    backend._memory = 8 * 2**30
    backend.run_toxiproxy(docker._Container(member(tmp_path, docker.TOXIPROXY)))
    backend.start([member(tmp_path)], deadline=soon())
    toxiproxy, node = given[f"kadstorm-s-{docker.TOXIPROXY}"], given["kadstorm-s-a"]
    assert toxiproxy.items() >= environment(8 * 2**30).items()
    assert int(toxiproxy["GOMEMLIMIT"]) == 2 * 2**30
    assert not {"GOGC", "GOMEMLIMIT", "LOG_LEVEL"} & set(node)


@pytest.mark.parametrize(("said", "known"), [({"MemTotal": 2**33}, 2**33), ({}, 0)])
def test_the_memory_of_an_engines_machine_is_what_it_says(said: dict[str, int], known: int) -> None:
    engine = Engine(SimpleNamespace(info=lambda: said), "", "", "")
    assert ability.memory(engine) == known


def test_a_backend_knows_the_memory_of_its_engines_machine(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Making()
    monkeypatch.setattr(api, "info", lambda: {"MemTotal": 2**33}, raising=False)
    monkeypatch.setattr(docker.engines, "connect", lambda: Engine(api, "", "", ""))
    monkeypatch.setattr(docker, "note_engine", lambda *_: None)
    monkeypatch.setattr(docker.images, "ensure", lambda *_: Images("m", "t"))
    assert DockerBackend.on(make(api)._ground)._memory == 2**33


def test_nothing_is_said_of_the_heap_where_nobody_knows_the_memory() -> None:
    assert environment(0) == {"LOG_LEVEL": "error"}


def test_a_limit_that_the_engine_discards_is_an_error_and_other_warnings_are_not() -> None:
    discarded = (
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
    )
    platform = "The requested image's platform (linux/arm64) does not match the detected host platform"
    with pytest.raises(EngineFailed, match=r"node-3 would not be held to its `limits`.*Limitation discarded"):
        check_limits("node-3", {"Memory": 2**26}, [platform, discarded])
    check_limits("node-3", {"Memory": 2**26}, [platform])
    check_limits("node-3", {"CpuShares": 2**18}, ["Your kernel does not support CPU shares. Shares discarded."])


def test_a_member_without_its_limits_is_not_started(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Making()
    backend = make(api)
    object.__setattr__(backend._ground, "limits", {"memory": 2**26})
    made = {"Id": "kadstorm-s-a", "Warnings": ["Your kernel does not support swap limit capabilities."]}
    monkeypatch.setattr(api, "create_container", lambda *_, **__: api.there.update({made["Id"]: -1}) or made)  # type: ignore[func-returns-value]
    with pytest.raises(MemberFailed, match="swap limit capabilities"):
        backend.start([member(tmp_path)], deadline=soon())
    assert "start" not in api.asked
    assert not api.there


# --- launches -------------------------------------------------------------------------------------------------------


def test_closing_freezes_all_before_it_removes_any(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Making()
    backend = make(api)
    done: list[str] = []
    monkeypatch.setattr(backend.lease, "freeze", lambda: done.append("freeze"))
    remove = docker.remove_session
    monkeypatch.setattr(docker, "remove_session", lambda *a, **k: (done.append("remove"), remove(*a, **k))[1])
    backend.close()
    assert done == ["freeze", "remove"]


def test_freezing_is_said_with_the_sessions_token_to_whoever_keeps_the_lease(make: Any) -> None:
    backend = make(Making())
    backend.lease.freeze()  # nobody keeps it: no matter
    host, port = backend.lease._address
    with socket.create_server((host, port)) as keeper:
        thread = threading.Thread(target=backend.lease.freeze)
        thread.start()
        caller, _ = keeper.accept()
        with caller:
            assert caller.recv(256) == f"{backend._token} still\n".encode()
            caller.sendall(b"!")
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_that_members_may_go_is_said_at_once_and_again_whoever_keeps_the_lease_then(make: Any) -> None:
    backend = make(Making())
    token = backend._token.encode()
    with socket.create_server(backend.lease._address) as keeper:
        keeper.settimeout(LIMIT)
        backend.lease.start()
        with (caller := keeper.accept()[0]):
            caller.settimeout(LIMIT)
            assert caller.recv(256) == token + b"\n"
            caller.sendall(b".")
            backend.lease.let_go()
            began = time.monotonic()
            assert caller.recv(256) == token + b" go\n"
            assert time.monotonic() - began < docker.RENEW_EVERY / 2, "not with the next renewal that is due"
        with (caller := keeper.accept()[0]):  # the keeper was started again
            caller.settimeout(LIMIT)
            assert caller.recv(256) == token + b" go\n"
        backend.lease.close()


def test_closing_waits_for_a_launch_under_way_and_leaves_nothing(make: Any, tmp_path: Path) -> None:
    api = Making()
    backend = make(api)
    api.may_create.clear()
    failed: list[MemberFailed] = []

    def start() -> None:
        try:
            backend.start([member(tmp_path)], deadline=soon())
        except MemberFailed as error:
            failed.append(error)

    starting, closing = threading.Thread(target=start), threading.Thread(target=backend.close)
    starting.start()
    assert api.creating.wait(LIMIT)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    assert "list" not in api.asked, "what is being created is in no list yet"
    api.may_create.set()
    for thread in (closing, starting):
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert "since the run is ending" in str(failed[0])
    assert "start" not in api.asked
    assert not api.there


def test_a_launch_that_outlasts_the_closing_removes_its_own_container(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "LAUNCH_GRACE", 0.05)
    monkeypatch.setattr(docker, "EXIT_GRACE", 0.05)
    monkeypatch.setattr(leftovers, "LOOK_AGAIN", 0.001)
    api = Making()
    backend = make(api)
    api.may_create.clear()

    def start() -> None:
        with pytest.raises(MemberFailed, match="since the run is ending"):
            backend.launch(member(tmp_path))

    starting = threading.Thread(target=start)
    starting.start()
    assert api.creating.wait(LIMIT)
    backend.close()
    api.may_create.set()
    starting.join(LIMIT)
    assert [call for call in api.asked if call != "list"] == ["create", "remove"]
    assert not api.there


@pytest.mark.parametrize("call", ["attach", "start"])
def test_a_container_that_cannot_be_started_is_removed_and_is_no_lost_member(
    make: Any, tmp_path: Path, call: str
) -> None:
    api = Making()
    api.fails[call] = [client.errors.NotFound("no such thing")]
    backend = make(api)
    exits: list[Exit] = []
    backend.on_exit(exits.append)
    with pytest.raises(MemberFailed, match="no such thing"):
        backend.start([member(tmp_path)], deadline=soon())
    assert not api.there
    backend.close()
    assert not exits


@pytest.mark.parametrize("call", ["create", "attach", "start"])
def test_a_call_that_is_lost_once_is_made_again(make: Any, tmp_path: Path, call: str) -> None:
    api = Making()
    api.fails[call] = [requests.ReadTimeout("no answer")]
    make(api).start([member(tmp_path)], deadline=soon())
    assert api.asked.count(call) == 2


def test_an_output_that_ends_while_all_is_closed_troubles_no_thread(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "EXIT_GRACE", 0.05)
    uncaught: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    api = Making()
    backend = make(api)
    backend.start([member(tmp_path)], deadline=soon())
    (output,) = api.there.values()
    monkeypatch.setattr(api, "containers", lambda **_: [])  # its container is not even found, so that it goes on
    shut_down = backend._enders.shutdown

    def then_it_ends(*, wait: bool) -> None:
        shut_down(wait=wait)
        os.close(output)
        backend._streams._thread.join(0.5)

    monkeypatch.setattr(backend._enders, "shutdown", then_it_ends)
    backend.close()
    assert not uncaught


def test_an_output_is_closed_that_comes_after_the_reading_has_ended(make: Any, tmp_path: Path) -> None:
    backend = make(Making())
    backend.close()
    reading, writing = os.pipe()
    source = os.fdopen(reading, "rb", buffering=0)
    with pytest.raises(OSError, match="not read any more"):
        backend._streams.add(source, tmp_path / "log", lambda _: None, lambda: None)
    assert source.closed
    os.close(writing)
