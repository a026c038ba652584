"""What the Docker backend promises beyond what every backend does, with a real engine."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from harness import boot, descriptors, registry
from harness.backends import Exit, Ground, Layout, MemberSpec, docker
from harness.backends.docker import DockerBackend
from harness.cleanup import processes_of, sweep
from harness.containers import engine as engines
from harness.containers import images, labels, leftovers
from harness.containers.engine import Engine
from harness.errors import HarnessError
from harness.events import Events
from harness.experiment import load_experiment
from harness.plan import make_plan
from harness.records import NODE_LOGS_DIR
from harness.session import Session, note_engine, state_dir
from harness.toxiproxy import binary
from node.client import Client
from node.errors import ClientDisconnected, ClientRefused, ClientTimeout

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

LIMIT = 150.0  # s for one short storm
SHORT = {
    "name": "short",
    "seed": 5,
    "cluster": {"nodes": 6, "backend": "docker", "node": {"k": 4}},
    "load": {"rate": "40/s", "stores": "20%", "keys": 20},
    "duration": "6s",
    "settle": "1s",
}
SERVES = "import time; print('serving', flush=True); time.sleep(60)"
LONG = "import time; print('serving', flush=True); time.sleep(280)"
PORT = 10_000


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    found = engines.connect()
    yield found
    found.close()


@pytest.fixture(scope="module")
def toxiproxy() -> Path:
    return binary.find()


@pytest.fixture
def make(tmp_path: Path, toxiproxy: Path) -> Iterator[Callable[..., tuple[DockerBackend, Layout]]]:
    """Makes backends, each with a session and two members' addresses laid out."""
    made: list[tuple[Session, DockerBackend]] = []

    def backend(*, lasts: float = 3600.0, **limits: Any) -> tuple[DockerBackend, Layout]:
        session = Session(tmp_path, state=tmp_path / "state")
        ground = Ground(
            session_id=session.id, host=session.host, state=session.state, run_dir=tmp_path, toxiproxy=toxiproxy,
            spawn=session.spawn, recipe=registry.target("kademlia").image, limits=limits,
            lasts=lasts,
        )  # fmt: skip
        one = DockerBackend.on(ground)
        made.append((session, one))
        return one, one.lay_out(["a", "b"])

    yield backend
    for session, one in made:
        one.close()
        session.close()


def member(
    folder: Path, layout: Layout, name: str, *command: str, port: int = 0, keeps_data: bool = False
) -> MemberSpec:
    log = folder / f"{name}.log"
    return MemberSpec(
        name, command, log, watches_parent=False, address=layout.hosts[name], port=port, keeps_data=keeps_data
    )


def soon(seconds: float = 30) -> float:
    return time.monotonic() + seconds


def await_true(what: Callable[[], object], seconds: float = 20) -> None:
    deadline = soon(seconds)
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def inside(engine: Engine, container: str, program: str) -> str:
    """Run a program of Python in a container; what it printed."""
    run = engine.api.exec_create(container, ["python3", "-I", "-S", "-c", program])
    return str(engine.api.exec_start(run["Id"]).decode())


# --- the network ----------------------------------------------------------------------------------------------------


def test_nodes_cannot_be_dialled_around_toxiproxy(make: Any, tmp_path: Path, engine: Engine) -> None:
    backend, layout = make()
    server = backend.toxiproxy(tmp_path / "toxiproxy.log")
    server.start()
    serve = ["node", "serve", "--host", layout.hosts["a"], "--port", str(PORT)]
    for network in layout.callers:
        serve += ["--accept-from", network]
    backend.start(
        [member(tmp_path, layout, "a", *serve, port=PORT), member(tmp_path, layout, "b", "python3", "-c", SERVES)],
        deadline=soon(),
    )
    listen = f"{layout.proxy_host}:{PORT + 2}"
    server.control.populate(
        [{"name": "b->a", "listen": listen, "upstream": f"{layout.hosts['a']}:{PORT}", "enabled": True}]
    )
    knock = (
        "import socket\n"
        "s = socket.create_connection(({host!r}, {port}), timeout=5)\n"
        "try:\n s.settimeout(1); print('closed' if not s.recv(1) else 'data')\n"
        "except TimeoutError:\n print('open')\n"
        "except OSError:\n print('closed')\n"
    )
    b = backend.container_name("b")
    assert inside(engine, b, knock.format(host=layout.hosts["a"], port=PORT)).strip() == "closed"
    assert inside(engine, b, knock.format(host=layout.proxy_host, port=PORT + 2)).strip() == "open"
    here = subprocess.run(
        [sys.executable, "-m", "node", "ping", "--at", f"{layout.hosts['a']}:{PORT}"],
        capture_output=True,
        check=False,
    )
    assert here.returncode == 0, here.stderr


def test_a_gateway_that_was_killed_refuses_and_one_that_is_back_is_found_at_once(make: Any, tmp_path: Path) -> None:
    backend, layout = make()
    backend.toxiproxy(tmp_path / "toxiproxy.log").start()
    serves = member(tmp_path, layout, "a", "node", "serve", "--host", layout.hosts["a"], "--port", str(PORT), port=PORT)
    client = Client(layout.client_host("a", backend._ground.host), PORT, "kademlia")
    for _ in range(2):
        backend.start([serves], deadline=soon())
        client.ping(timeout=10)
        backend.pause("a")
        with pytest.raises(ClientTimeout):
            client.ping(timeout=0.3)
        backend.resume("a")
        backend.kill("a")
        with pytest.raises((ClientRefused, ClientDisconnected)):
            client.ping(timeout=10)
        with pytest.raises(ClientRefused, match="nobody answered"):
            client.ping(timeout=10)
    client.close()


def test_containers_have_no_privileges_and_publish_nothing_but_on_loopback(
    make: Any, tmp_path: Path, engine: Engine
) -> None:
    backend, layout = make(cpus=0.5, memory=64 * 2**20)
    backend.toxiproxy(tmp_path / "toxiproxy.log").start()
    backend.start([member(tmp_path, layout, "a", "python3", "-c", SERVES, port=PORT)], deadline=soon())
    for name in ("a", docker.TOXIPROXY):
        seen = engine.api.inspect_container(backend.container_name(name))
        host = seen["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"] is True
        assert "no-new-privileges" in host["SecurityOpt"]
        assert seen["Config"]["User"] == docker.USER
        bindings = [binding for many in (host["PortBindings"] or {}).values() for binding in many]
        assert bool(bindings) == (name != "a"), "members are dialled at their own addresses"
        assert all(binding["HostIp"].startswith("127.") for binding in bindings)
    hosts = [
        engine.api.inspect_container(backend.container_name(name))["HostConfig"] for name in ("a", docker.TOXIPROXY)
    ]
    assert [host["NanoCpus"] for host in hosts] == [500_000_000, 0]
    assert hosts[1]["CpuShares"] > 100 * (hosts[0]["CpuShares"] or 1024)  # a full machine must not slow every link


@pytest.mark.parametrize("needed", [500, 10**9], ids=["few", "more than there can be"])
def test_toxiproxy_may_open_as_many_files_as_it_is_said_to(
    make: Any, tmp_path: Path, engine: Engine, needed: int
) -> None:
    backend, _ = make()
    allowed = backend.allow_descriptors(needed)
    assert allowed >= min(needed, descriptors.hard())
    server = backend.toxiproxy(tmp_path / "toxiproxy.log")
    server.start()
    try:
        limits = engine.api.inspect_container(backend.container_name(docker.TOXIPROXY))["HostConfig"]["Ulimits"]
        assert [(one["Name"], one["Soft"], one["Hard"]) for one in limits] == [("nofile", allowed, allowed)]
    finally:
        server.stop()


def test_a_member_has_the_same_address_in_every_life(make: Any, tmp_path: Path, engine: Engine) -> None:
    backend, layout = make()
    for _ in range(2):
        backend.start([member(tmp_path, layout, "a", "python3", "-c", SERVES)], deadline=soon())
        seen = engine.api.inspect_container(backend.container_name("a"))["NetworkSettings"]["Networks"]
        assert [one["IPAddress"] for one in seen.values()] == [layout.hosts["a"]]
        backend.kill("a")


# --- lives ----------------------------------------------------------------------------------------------------------


def test_a_member_that_takes_too_much_memory_is_told_as_such(make: Any, tmp_path: Path) -> None:
    backend, layout = make(memory=48 * 2**20)
    exits: list[Exit] = []
    backend.on_exit(exits.append)
    greedy = "print('serving', flush=True); hoard = [bytearray(2**20) for _ in range(500)]"
    backend.start([member(tmp_path, layout, "a", "python3", "-c", greedy)], deadline=soon())
    await_true(lambda: exits)
    assert exits[0].how == "killed for want of memory (its limit of 48 MiB)"
    assert not exits[0].asked


def test_data_outlives_its_member_until_it_is_erased(make: Any, tmp_path: Path) -> None:
    backend, layout = make()
    exits: list[Exit] = []
    backend.on_exit(exits.append)
    count = (
        "import os, time\nseen = os.listdir('/data')\nopen(f'/data/{len(seen)}', 'w').close()\n"
        "print('serving', flush=True)\nimport sys; sys.exit(10 + len(seen))"
    )
    for expected in (10, 11, 12):
        backend.start([member(tmp_path, layout, "a", "python3", "-c", count, keeps_data=True)], deadline=soon())
        await_true(lambda: len(exits) == expected - 9)  # noqa: B023
        assert exits[-1].how == f"exit code {expected}"
    backend.erase("a")
    backend.start([member(tmp_path, layout, "a", "python3", "-c", count, keeps_data=True)], deadline=soon())
    await_true(lambda: len(exits) == 4)
    assert exits[-1].how == "exit code 10"


def test_containers_end_by_themselves_when_nobody_renews_the_lease(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "LEASE", 4.0)
    monkeypatch.setattr(docker, "RENEW_EVERY", 0.5)
    backend, layout = make()
    exits: list[Exit] = []
    backend.on_exit(exits.append)
    server = backend.toxiproxy(tmp_path / "toxiproxy.log")
    server.start()
    backend.start([member(tmp_path, layout, "a", "python3", "-c", SERVES)], deadline=soon())
    until = soon(8)  # two leases, which are renewed
    while time.monotonic() < until:
        assert server.alive()
        assert not exits
        time.sleep(0.2)
    backend.lease.close()
    await_true(lambda: exits and not server.alive())
    assert "the lease was not renewed" in (tmp_path / "a.log").read_text()


# --- images ---------------------------------------------------------------------------------------------------------


def test_what_is_built_is_not_built_again(engine: Engine, toxiproxy: Path) -> None:
    recipe = registry.target("kademlia").image()
    first = images.ensure(engine, recipe, toxiproxy, lambda _: None)
    told: list[str] = []
    assert images.ensure(engine, recipe, toxiproxy, told.append) == first
    assert told == []


def test_a_build_that_fails_shows_its_end(engine: Engine, toxiproxy: Path) -> None:
    good = registry.target("kademlia").image()
    files = {
        **good.files,
        "Dockerfile": b'ARG BASE\nFROM ${BASE}\nRUN ["python3", "-c", "raise SystemExit(\'no luck\')"]\n',
    }
    bad = type(good)("kadstorm-test-bad", files, good.packages)
    with pytest.raises(images.ImageFailed, match=r"(?s)building kadstorm-test-bad:\w+ failed.*no luck"):
        images.build(engine, bad, toxiproxy, lambda _: None, offline=True)


def test_the_image_works_by_hand(engine: Engine, toxiproxy: Path) -> None:
    made = images.ensure(engine, registry.target("kademlia").image(), toxiproxy, lambda _: None)
    config = engine.api.inspect_image(made.member)["Config"]
    assert config["User"] not in ("", "0", "root")
    assert config["Healthcheck"]["Test"]
    container = engine.api.create_container(made.member, labels={labels.SESSION: "by-hand", labels.EXPIRES: "1"})["Id"]
    try:
        engine.api.start(container)
        await_true(lambda: b"serving" in engine.api.logs(container))
        pong = inside_exec(engine, container, config["Healthcheck"]["Test"][1:])
        assert "round_trip_ms" in pong
    finally:
        engine.api.remove_container(container, force=True)


def inside_exec(engine: Engine, container: str, command: list[str]) -> str:
    run = engine.api.exec_create(container, command)
    return str(engine.api.exec_start(run["Id"]).decode())


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / f"experiment-{secrets.token_hex(3)}.yaml"
        path.write_text(json.dumps({**SHORT, **changes}))
        return path

    return write


def kadstorm(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, **options)


def session_of(folder: Path) -> str:
    path = folder / "events.jsonl"
    await_true(lambda: path.exists() and b"\n" in path.read_bytes())
    return str(json.loads(path.read_bytes().split(b"\n")[0])["detail"]["id"])


def test_a_storm_in_containers_passes_and_leaves_nothing(experiment: Any, tmp_path: Path, engine: Engine) -> None:
    timeline = [  # with room before and after, for what is judged outside faults and for recovery
        {"at": "4s", "for": "2s", "partition": "halves"},
        {"at": "8s", "kill": {"nodes": 1, "restart_after": "1s", "keep_data": True}},
    ]
    folder = tmp_path / "run"
    done = kadstorm("run", experiment(timeline=timeline, duration="16s"), "--out", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"] == "pass"
    assert summary["backend"] == "docker"
    assert [fault["effective"] for fault in summary["faults"]] == [True, True]
    assert (folder / "nodes" / "node-0.log").read_text()
    assert session_of(folder) not in leftovers.find(engine)


@pytest.mark.parametrize("faults", [1, 0], ids=["with a fault", "a load alone"])
def test_a_cluster_that_cannot_be_dialled_from_here_fails_at_once(
    experiment: Any, toxiproxy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: int
) -> None:
    def unroutable(address: tuple[str, int], timeout: float, /) -> socket.socket:
        raise TimeoutError("timed out")

    lay_out = DockerBackend.lay_out
    monkeypatch.setattr(DockerBackend, "lay_out", lambda *given: replace(lay_out(*given), dial=unroutable))
    (tmp_path / NODE_LOGS_DIR).mkdir()
    fault = {"at": "1s", "for": "1s", "latency": {"latency": "9ms", "from": "all", "to": "all"}}
    plan = make_plan(load_experiment(experiment(timeline=[fault] * faults), []))
    with (
        Session(tmp_path) as session,
        ExitStack() as stack,
        pytest.raises(HarnessError, match="cannot be reached from here"),
    ):
        boot.boot(plan, session, tmp_path, toxiproxy, Events(lambda _: None), lambda _, close: stack.callback(close))


def test_limits_are_for_containers_alone(experiment: Any) -> None:
    file = experiment(cluster={"nodes": 3, "backend": "process", "limits": {"memory": "64MiB"}})
    done = kadstorm("plan", file)
    assert done.returncode == 2
    assert "only containers are held to limits" in done.stderr


@pytest.mark.parametrize("command", ["run", "load"])
def test_without_an_engine_it_says_how_to_get_one(experiment: Any, tmp_path: Path, command: str) -> None:
    nowhere = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    done = kadstorm(command, experiment(), "--out", tmp_path / "run", env=nowhere)
    assert done.returncode == 3
    assert "no container engine answers" in done.stderr
    assert "--backend process" in done.stderr
    assert not (tmp_path / "run").exists()


def journal(folder: Path) -> list[dict[str, Any]]:
    """The journal so far; a line that is being written is left out."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def await_event(folder: Path, kind: str, name: str = "") -> None:
    """Wait until an event of that kind, and of that name if one is given, is in the journal."""
    await_true(lambda: any(one["event"] == kind and name in ("", one.get("name")) for one in journal(folder)), LIMIT)


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts `kadstorm run` with a state folder of the test's own; its process and run folder."""
    started: list[subprocess.Popen[bytes]] = []

    def run(file: Path) -> tuple[subprocess.Popen[bytes], Path]:
        folder = tmp_path / f"background-{len(started)}"
        command = [sys.executable, "-P", "-m", "harness", "run", str(file), "--out", str(folder), "--quiet"]
        environment = {**os.environ, "KADSTORM_STATE": str(tmp_path / "state")}
        with (tmp_path / f"background-{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return started[-1], folder

    yield run
    for process in started:
        process.kill()
        process.wait()
    list(sweep(tmp_path / "state"))


def test_limits_of_an_experiment_reach_every_node_of_it(experiment: Any, background: Any, engine: Engine) -> None:
    limits = {"cpus": 0.25, "memory": "96MiB"}
    process, folder = background(experiment(cluster={**SHORT["cluster"], "nodes": 2, "limits": limits}))
    await_event(folder, "ready")
    containers = [engine.api.inspect_container(id_) for id_ in leftovers.find(engine)[session_of(folder)].containers]
    process.send_signal(signal.SIGINT)
    held = {one["Config"]["Labels"][labels.MEMBER]: one["HostConfig"] for one in containers}
    for name in ("node-0", "node-1"):
        assert [held[name][key] for key in ("Memory", "MemorySwap", "NanoCpus")] == [
            96 * 2**20,
            96 * 2**20,
            250_000_000,
        ]
    assert [held[docker.TOXIPROXY][key] for key in ("Memory", "NanoCpus")] == [0, 0]
    assert process.wait(LIMIT) == 130


@pytest.mark.parametrize("after", [0.1, 0.7, 1.3, 1.9])
def test_ctrl_c_in_the_middle_of_a_boot_leaves_nothing(
    experiment: Any, background: Any, engine: Engine, after: float
) -> None:
    process, folder = background(experiment(cluster={**SHORT["cluster"], "nodes": 10}))
    await_event(folder, "phase", "boot")
    time.sleep(after)  # the moment of the signal is what the test chooses
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    session = session_of(folder)
    assert session not in leftovers.find(engine)
    assert not processes_of(session)


KILLED_IN = {
    "boot": (4, 2.0),
    "load": (3, 3.0),
    "teardown": (3, 0.4),
}  # phase -> how often, and how long after it began at most
STORMY = [
    {"at": "0.5s", "for": "3s", "pause": {"nodes": "node-1"}},
    {"at": "1s", "kill": {"nodes": "node-2", "restart_after": "500ms", "keep_data": True}},  # so nodes have volumes
]


def test_sigkill_at_any_moment_leaves_nothing_that_cleanup_does_not_remove(
    experiment: Any, background: Any, tmp_path: Path, engine: Engine, make: Any
) -> None:
    beside, layout = make()  # a session that lives, noted in the same state folder
    beside.toxiproxy(tmp_path / "toxiproxy.log").start()
    beside.start([member(tmp_path, layout, "a", "python3", "-c", LONG, keeps_data=True)], deadline=soon())
    neighbour = beside._ground.session_id
    its_own = leftovers.find(engine)[neighbour].names()
    assert len(its_own) == 4  # its node, Toxiproxy, the volume, the network
    rng = random.Random(20)
    storm = {"cluster": {**SHORT["cluster"], "nodes": 4}, "timeline": STORMY, "duration": "4s", "settle": "0s"}
    left: list[leftovers.Remains] = []
    for phase, (times, longest) in KILLED_IN.items():
        for _ in range(times):
            process, folder = background(experiment(**storm))
            await_event(folder, "phase", phase)
            time.sleep(rng.uniform(0, longest))  # the moment of the blow is what the test chooses
            assert process.poll() is None, f"it ended before it was killed in its {phase}"
            process.kill()
            process.wait()
            session = session_of(folder)
            left += [remains for name, remains in leftovers.find(engine).items() if name == session]
            done = kadstorm("cleanup", env={**os.environ, "KADSTORM_STATE": str(tmp_path / "state")})
            assert done.returncode == 0, done.stderr
            assert session not in leftovers.find(engine), f"killed in its {phase}"
            assert not processes_of(session)
            assert [one.name for one in (tmp_path / "state" / "sessions").glob("*")] == [neighbour]
            assert leftovers.find(engine)[neighbour].names() == its_own
            assert beside.state("a") == "running"
    assert len(left) >= KILLED_IN["boot"][0] + KILLED_IN["load"][0] - 1  # else the moments were none to speak of
    assert any(remains.volumes for remains in left)


def test_a_session_of_containers_that_stays_takes_faults_by_hand(tmp_path: Path, engine: Engine) -> None:
    up = kadstorm("up", "--nodes", "4", "--backend", "docker", "--set", "cluster.node.k=4", cwd=tmp_path)
    assert up.returncode == 0, up.stdout + up.stderr
    session = up.stdout.split()[-1]
    try:
        remains = leftovers.find(engine)[session]
        assert len(remains.containers) == 5
        assert labels.expires(remains.labels) < time.time() + 4 * 3600  # its --ttl (1h) says when, not a run's length
        killed = kadstorm("inject", "--session", session, "kill", "--nodes", "node-2")
        assert "kill: in effect" in killed.stdout, killed.stdout + killed.stderr
        told = json.loads(kadstorm("status", "--session", session, "--json").stdout)
        assert (told["backend"], told["members"]["node-2"]) == ("docker", "dead")
        assert kadstorm("heal", "--session", session, "kill").returncode == 0
        told = json.loads(kadstorm("status", "--session", session, "--json").stdout)
        assert told["members"]["node-2"] == "running"
    finally:
        down = kadstorm("down", "--session", session)
    assert down.returncode == 0, down.stdout + down.stderr
    assert session not in leftovers.find(engine)


# --- cleanup --------------------------------------------------------------------------------------------------------


def test_a_network_that_somebody_else_uses_is_told_and_left(make: Any, tmp_path: Path, engine: Engine) -> None:
    backend, _ = make()
    assert backend._network is not None
    image = backend._images.member
    foreign = engine.api.create_container(image, ["python3", "-c", SERVES], host_config=engine.api.create_host_config(
        network_mode=backend._network.name))["Id"]  # fmt: skip
    try:
        engine.api.start(foreign)
        said = leftovers.remove_session(engine, backend._ground.session_id).trouble
        assert len(said) == 1
        assert "network" in said[0]
        assert "active endpoints" in said[0]
        assert engine.api.inspect_container(foreign)["State"]["Running"]
    finally:
        engine.api.remove_container(foreign, force=True)
    assert leftovers.remove_session(engine, backend._ground.session_id).trouble == []


def test_a_session_of_nobody_is_swept_only_after_its_time(tmp_path: Path, engine: Engine) -> None:
    name = f"test-{secrets.token_hex(4)}"
    for expires, left in ((time.time() + 60, True), (time.time() - 60, False)):
        made = {labels.SESSION: name, labels.HOST: "elsewhere", labels.EXPIRES: str(int(expires))}
        network = engine.api.create_network(f"kadstorm-{name}-{left}", labels=made)["Id"]
        list(sweep(tmp_path / "state"))
        there = name in leftovers.find(engine)
        if there:
            engine.api.remove_network(network)
        assert there == left


def test_a_living_session_is_left_alone_though_its_time_is_over(
    make: Any, tmp_path: Path, engine: Engine, toxiproxy: Path
) -> None:
    backend, layout = make(lasts=-60.0)
    backend.start([member(tmp_path, layout, "a", "python3", "-c", SERVES)], deadline=soon())
    told: list[str] = []
    DockerBackend.prepare(toxiproxy, registry.target("kademlia").image, (), told.append)
    list(sweep(tmp_path / "another state"))
    assert backend.state("a") == "running"
    assert not [line for line in told if backend._ground.session_id in line]


def test_cleanup_looks_in_the_engine_that_is_noted_and_tries_again_later_if_that_does_not_answer(
    tmp_path: Path, engine: Engine
) -> None:
    its_socket = tmp_path / "its.sock"
    session = Session(tmp_path, state=tmp_path / "state")
    note_engine(tmp_path / "state", session.id, f"unix://{its_socket}")
    network = engine.api.create_network(
        f"kadstorm-{session.id}", labels=labels.of_session(session.id, tmp_path / "state", 60)
    )["Id"]
    for lock in (session._lock, session._address_lock):
        assert lock is not None
        lock.release()  # as the kernel does when the harness is killed
    assert session._claim is not None
    session._claim.close()
    session.spawn.close()
    (swept,) = sweep(tmp_path / "state")  # though another engine answers
    assert f"its containers could not be looked for, they are in the engine at unix://{its_socket}" in swept.trouble[0]
    assert swept.line(dry_run=False) == f"{session.id}: nothing was removed"
    assert [folder.name for folder in (tmp_path / "state" / "sessions").glob("*")] == [
        session.id
    ]  # so it is told again
    its_socket.symlink_to("/var/run/docker.sock")
    (swept,) = sweep(tmp_path / "state")
    assert (swept.trouble, swept.remains) == ((), "0 containers, 0 volumes, 1 networks")
    assert network not in [one["Id"] for one in engine.api.networks()]
    assert not list((tmp_path / "state" / "sessions").glob("*"))


def test_the_backend_is_found_by_its_name() -> None:
    assert "docker" in {entry.name for entry in entry_points(group=registry.BACKENDS)}
    assert state_dir()
