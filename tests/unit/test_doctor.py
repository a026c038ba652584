"""What `kadstorm doctor` finds of the machine, each finding where all is well and where it is not."""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from docker.errors import APIError, ImageNotFound
from requests import ConnectionError as Unreachable

from harness import doctor
from harness.backends.docker import LEASE_PORT
from harness.boot import first_ephemeral_port
from harness.containers import ability, images
from harness.containers import engine as engines
from harness.containers.engine import Engine
from harness.doctor import Finding
from harness.errors import EngineFailed
from harness.experiment import load_experiment
from harness.links import BASE_PORT, Topology, descriptors_needed
from harness.plan import make_plan
from harness.session import API_PORT, Session, recorded_sessions

GIB = 2**30


class Api:
    """The client of an engine on a machine with so much memory, with these images."""

    def __init__(self, memory: int = 64 * GIB, kernel: str = "of its own", there: tuple[str, ...] = ()) -> None:
        self.memory, self.kernel, self.there = memory, kernel, there
        self.closed = False

    def info(self) -> dict[str, Any]:
        return {"MemTotal": self.memory, "KernelVersion": self.kernel}

    def version(self) -> dict[str, str]:
        return {"Arch": images.ARCHITECTURES.get(platform.machine(), platform.machine())}

    def inspect_image(self, reference: str) -> dict[str, Any]:
        if reference not in self.there:
            raise ImageNotFound(reference)
        return {"Id": reference}

    def images(self, *, filters: object) -> list[dict[str, Any]]:
        return [{"RepoTags": [tag]} for tag in self.there]

    def close(self) -> None:
        self.closed = True


class Silent(Api):
    """One that answers no more."""

    def info(self) -> dict[str, Any]:
        raise Unreachable("gone")

    def version(self) -> dict[str, str]:
        raise APIError("busy")


def engine_of(api: Api) -> Engine:
    return Engine(api, "unix:///there.sock", "20.10", "1.41")


def available(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))


def judged(found: Finding, state: str, said: str, remedy: str = "") -> None:
    """Holds a finding against what it should be; whoever is told that something is wrong is told what to do."""
    assert found.state == state, found
    assert said in found.said
    assert remedy in found.remedy
    assert bool(found.remedy) == (state != "ok")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KADSTORM_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def toxiproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a server that tells a version, and names it."""

    def made(version: str) -> Path:
        file = tmp_path / "toxiproxy-server"
        file.write_text(f"#!/bin/sh\necho toxiproxy-server version {version}\n")
        file.chmod(0o755)
        monkeypatch.setenv("KADSTORM_TOXIPROXY", str(file))
        return file

    return made


# --- the machine ----------------------------------------------------------------------------------------------------


def test_python_is_told() -> None:
    judged(doctor._python(), "ok", platform.python_version())


@pytest.mark.parametrize(("system", "state_"), [("Linux", "ok"), ("Darwin", "warn")])
def test_what_another_platform_lacks_is_told(system: str, state_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    judged(doctor._platform(), state_, "")


def test_toxiproxy_is_told_with_its_version(toxiproxy: Callable[[str], Path]) -> None:
    server = toxiproxy("2.12.0")
    judged(doctor._toxiproxy(), "ok", f"2.12.0 at {server}")
    toxiproxy("2.1.4")
    judged(doctor._toxiproxy(), "fail", "2.1.4 is too old", "KADSTORM_TOXIPROXY")


@pytest.mark.parametrize(("go", "state_", "said"), [("/usr/bin/go", "ok", "builds it"), (None, "warn", "download")])
def test_how_toxiproxy_will_be_had_is_told(
    go: str | None, state_: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KADSTORM_TOXIPROXY", raising=False)
    monkeypatch.setattr(doctor.binary, "find_ready", lambda _: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: go)
    judged(doctor._toxiproxy(), state_, said)


def test_a_loopback_interface_that_is_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    judged(doctor._loopback(), "ok", "127.")

    def refuse(*_: object) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(doctor.socket, "create_server", refuse)
    judged(doctor._loopback(), "fail", "Cannot assign", "ip link set lo up")


@pytest.mark.parametrize(
    ("allowed", "state_", "said"),
    [
        (10**6, "ok", "43456 needed for 300 nodes"),
        (43_456, "ok", "43456 can be had"),
        (20_000, "warn", "24 connections a node"),
        (14_656, "warn", "16 connections a node"),
        (14_655, "fail", "14655 can be had"),
    ],
)
def test_descriptors_are_judged_by_what_can_be_had(
    allowed: int, state_: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.descriptors, "allow", lambda _: allowed)
    judged(doctor._descriptors(300), state_, said, "" if state_ == "ok" else "hard limit")


@pytest.mark.parametrize("nodes", [1, 20, 64, 65, 300])
def test_the_doctor_counts_links_as_a_run_does(nodes: int, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(f"name: counted\nduration: 60s\ncluster: {{nodes: {nodes}}}\n")
    topology = Topology.build(make_plan(load_experiment(file, [])).nodes, host="127.0.0.1")
    assert doctor.links_of(nodes) == len(topology.links)
    assert BASE_PORT + nodes * (doctor.sites_of(nodes) + 1) == topology.base_port + topology.port_count
    assert descriptors_needed(nodes, doctor.links_of(nodes)) == descriptors_needed(nodes, len(topology.links))


@pytest.mark.parametrize(("nodes", "of_each", "measured"), [
    (50, doctor.NODE_BYTES, 491), (300, doctor.NODE_BYTES, 3136),
    (50, doctor.CONTAINER_BYTES, 1331), (100, doctor.CONTAINER_BYTES, 2367),
])  # fmt: skip  # MiB by which a machine's free memory fell until such a cluster was ready
def test_the_memory_that_clusters_are_said_to_need_is_what_they_took_or_up_to_twice_that(
    nodes: int, of_each: int, measured: int
) -> None:
    needed = (doctor.memory_needed(nodes, of_each) - doctor.LOAD_BYTES) / 2**20
    assert measured < needed < 2 * measured


def test_memory_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, doctor.memory_needed(300))
    judged(doctor._memory(300), "ok", "300 nodes")
    available(monkeypatch, doctor.memory_needed(300) - 1)
    judged(doctor._memory(300), "fail", "available", "fewer nodes")


def test_a_block_of_ports_that_is_too_long_is_told() -> None:
    room = first_ephemeral_port() - BASE_PORT
    judged(doctor._ports(100), "ok", f"{BASE_PORT} to")
    judged(doctor._ports(room // (doctor.SHARED_SITES + 1) + 1), "fail", "outgoing connections", "cluster.sites")


def test_a_state_folder_that_cannot_be_written_is_told(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(doctor._state(), "ok", str(state))
    (tmp_path / "file").touch()
    monkeypatch.setenv("KADSTORM_STATE", str(tmp_path / "file"))
    judged(doctor._state(), "fail", str(tmp_path / "file"), "KADSTORM_STATE")
    judged(doctor._free_ports(4), "warn", "not tried", "state folder")


def test_dead_sessions_are_told_and_living_ones_not(state: Path, tmp_path: Path) -> None:
    with Session(tmp_path):
        judged(doctor._dead_sessions(), "ok", "none")
    (state / "sessions" / "of-the-dead").mkdir(parents=True)
    judged(doctor._dead_sessions(), "warn", "of-the-dead", "kadstorm cleanup")


@pytest.fixture
def addresses(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two addresses of our own, so that sessions of other tests come and go as they like."""
    monkeypatch.setattr("harness.session.FIRST_ADDRESS", 233)
    monkeypatch.setattr("harness.session.LAST_ADDRESS", 234)


@pytest.mark.usefixtures("addresses")
def test_a_port_that_a_session_would_need_is_tried_and_the_taken_one_named(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        host = session.host
    for port in (LEASE_PORT, API_PORT, BASE_PORT, BASE_PORT + 4 * 5 - 1):
        with socket.create_server((host, port)):
            judged(
                doctor._free_ports(4), "fail", f"port {port} on {host} is taken", "end the program that listens there"
            )
    judged(doctor._free_ports(4), "ok", f"{BASE_PORT} to {BASE_PORT + 4 * 5 - 1} on {host}")


@pytest.mark.usefixtures("addresses")
def test_addresses_of_living_sessions_are_not_tried_and_none_of_ours_is_left(state: Path, tmp_path: Path) -> None:
    with Session(tmp_path) as session, socket.create_server((session.host, API_PORT)):
        found = doctor._free_ports(4)
        assert found.state == "ok"
        assert f"on {session.host}" not in found.said
    assert list(recorded_sessions(state)) == []


# --- the engine -----------------------------------------------------------------------------------------------------


def test_without_an_engine_the_whole_reason_is_told_and_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    [found] = doctor._containers(20)
    judged(found, "warn", "no container engine answers (tcp://127.0.0.1:1: ", "systemctl start docker")
    assert found.said.endswith(")")
    assert engines.HOW_TO_GET_ONE not in found.said


def test_an_engine_behind_ssh_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://host")
    [found] = doctor._containers(20)
    judged(found, "warn", "forward the engine's socket", "--backend process")


def test_all_of_an_engine_is_looked_at_and_its_client_closed(
    toxiproxy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    toxiproxy("2.12.0")
    api = Api()
    monkeypatch.setattr(engines, "connect", lambda: engine_of(api))
    found = {one.what: one for one in doctor._containers(20)}
    judged(found["containers"], "ok", "engine 20.10, API 1.41, at unix:///there.sock")
    assert {"images", "containers' network", "containers' memory"} <= set(found)
    assert api.closed


@pytest.mark.parametrize(
    ("info", "lacks"),
    [
        ({}, ""),
        ({"MemoryLimit": True, "CpuCfsQuota": True, "CgroupDriver": "cgroupfs", "CgroupVersion": "1"}, ""),
        ({"Rootless": True, "CgroupVersion": "2", "CgroupDriver": "systemd", "SecurityOptions": None}, ""),
        ({"SecurityOptions": ["name=rootless"], "CgroupDriver": "none", "CgroupVersion": "1"}, "cpus memory pause"),
        (
            {"Rootless": True, "CgroupVersion": "1", "CgroupDriver": "cgroupfs", "MemoryLimit": True},
            "cpus memory pause",
        ),
        ({"SecurityOptions": ["name=rootless"], "CgroupVersion": "2", "CpuCfsQuota": False}, "cpus"),
        ({"MemoryLimit": False}, "memory"),
    ],
)
def test_what_an_engine_cannot_do_is_told_and_refused(info: dict[str, Any], lacks: str) -> None:
    api = Api()
    api.info = lambda: info  # type: ignore[method-assign]
    assert sorted(ability.lacking(engine_of(api))) == lacks.split()
    ability.check(engine_of(api), {"kill", "restart"})
    if not lacks:
        ability.check(engine_of(api), {"pause", "cpus", "memory"})
        judged(doctor._ability(engine_of(api)), "ok", "frozen")
        return
    with pytest.raises(
        EngineFailed, match=r"unix:///there\.sock can do nothing for .*: it.* Either leave that out, or"
    ):
        ability.check(engine_of(api), {lacks.split()[0], "kill"})  # type: ignore[arg-type]
    judged(doctor._ability(engine_of(api)), "warn", "nothing can be done for `cluster.limits.", "version 2")


def test_images_that_are_there_are_those_of_what_is_here_now(
    toxiproxy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    toxiproxy("2.12.0")
    monkeypatch.setattr(images, "toxiproxy_context", lambda _: {})
    member, its = doctor._wanted_images(engine_of(Api()), offline=True)
    old = ("kadstorm-node:0123456789ab", "kadstorm-toxiproxy:0123456789ab")
    found = doctor._images(engine_of(Api(there=old)))
    judged(found, "ok", f"none of what is here now; the first run makes {member}, {its}")
    assert "2 older ones" in found.said
    assert "docker image prune" in found.said
    found = doctor._images(engine_of(Api(there=(member, its, "kadstorm-load:0123456789ab"))))
    assert found == Finding("images", "ok", f"{member}, {its} of what is here now")


def test_without_toxiproxy_the_nodes_image_alone_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.binary, "find_ready", lambda _: None)
    [member] = doctor._wanted_images(engine_of(Api()), offline=True)
    judged(doctor._images(engine_of(Api(there=(member,)))), "ok", f"{member} of what is here now")


def test_an_engine_that_answers_no_more_is_told() -> None:
    judged(doctor._ability(engine_of(Silent())), "warn", "asking the engine what it can do", "docker info")
    judged(doctor._images(engine_of(Silent())), "warn", "asking the engine for its architecture", "images build")
    judged(doctor._container_memory(20, engine_of(Silent())), "warn", "asking the engine for its memory", "docker info")


def test_a_bridge_that_is_too_small_is_told() -> None:
    judged(doctor._bridge(1000), "ok", "1000 members")
    judged(doctor._bridge(1001), "fail", "not 1001", "--backend process")


def test_containers_need_the_memory_of_the_engines_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, 1000 * GIB)
    judged(doctor._container_memory(20, engine_of(Api(64 * GIB))), "ok", "64.0 GiB in all where the engine is")
    judged(doctor._container_memory(200, engine_of(Api(2 * GIB))), "fail", "2.0 GiB in all", "fewer nodes")


def test_of_an_engine_on_this_machine_the_memory_that_is_free_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, GIB)
    here = engine_of(Api(64 * GIB, platform.release()))
    judged(doctor._container_memory(200, here), "fail", "1.0 GiB available", "fewer nodes")


@pytest.mark.parametrize(("allowed", "states"), [("128", ["fail"]), ("1024", ["ok"]), (None, [])])
def test_inotify_instances_are_counted(
    allowed: str | None, states: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "max_user_instances"
    monkeypatch.setattr(doctor, "INOTIFY", file)
    monkeypatch.setattr(doctor, "SECOND_CGROUPS", tmp_path)
    if allowed:
        file.write_text(allowed)
    found = list(doctor._inotify(200))
    assert [each.state for each in found] == states
    assert all("sysctl" in each.remedy for each in found if each.state == "fail")


@pytest.mark.parametrize(
    ("tracked", "most", "states"),
    [("0\n", "262144\n", ["ok"]), ("202145", "262144", ["warn"]), ("202144", "262144", ["ok"]), (None, "1", [])],
    ids=["empty", "nearly full", "just enough", "not tracked"],
)
def test_a_table_of_connections_that_would_be_full_is_told(
    tracked: str | None, most: str, states: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"CONNECTIONS": tmp_path / "count", "MOST_CONNECTIONS": tmp_path / "max"}
    for name, file in files.items():
        monkeypatch.setattr(doctor, name, file)
    files["MOST_CONNECTIONS"].write_text(most)
    if tracked is not None:
        files["CONNECTIONS"].write_text(tracked)
    found = list(doctor._connection_table(200))
    assert [each.state for each in found] == states
    assert all("nf_conntrack_max=524288" in each.remedy for each in found if each.state == "warn")


@pytest.mark.parametrize(
    ("content", "nodes", "told"),
    [("1\n", doctor.MANY + 1, 1), ("1\n", doctor.MANY, 0), ("0\n", 500, 0), (None, 500, 0)],
)
def test_tracked_connections_are_told_where_they_are_felt(
    content: str | None, nodes: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bridge-nf-call-iptables"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(doctor, "TRACKING", file)
    found = list(doctor._tracking(nodes))
    assert len(found) == told
    assert all(each.state == "warn" and "sysctl" in each.remedy for each in found)
