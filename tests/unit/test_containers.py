"""The pure parts of the Docker backend: subnets, frames, ends, labels, where an engine may be."""

from __future__ import annotations

import io
import ipaddress
import itertools
import os
import platform
import tarfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound
from hypothesis import given
from hypothesis import strategies as st
from urllib3.connectionpool import HTTPConnectionPool as Pool
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from harness.backends.docker import describe_end
from harness.containers import engine, images, labels, networks, rootfs
from harness.containers.engine import told
from harness.containers.streams import Streams
from harness.errors import EngineUnavailable, ImageFailed
from harness.targets import ImageRecipe
from harness.targets.kademlia import KademliaTarget
from node import provision


@given(members=st.integers(1, networks.LARGEST), first=st.integers(0, 5000))
def test_subnets_hold_all_members_and_do_not_overlap(members: int, first: int) -> None:
    found = list(itertools.islice(networks.subnets(members, first), 20))
    assert all(subnet.num_addresses >= members + networks.RESERVED + 1 for subnet in found)
    assert all(subnet.subnet_of(networks.POOL) for subnet in found)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))


def test_addresses_of_a_network_differ() -> None:
    network = networks.Network("id", "name", ipaddress.IPv4Network("10.192.1.0/24"))
    members = [network.member(index) for index in range(200)]
    addresses = [network.gateway, network.toxiproxy, network.tunnel, *network.workers, *members]
    assert len(set(addresses)) == len(addresses)
    assert network.member(0) == "10.192.1.16"


def frame(stream: int, body: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_streams_put_frames_together_however_they_arrive(tmp_path: Path, step: int) -> None:
    data = frame(1, b"serving\n") + frame(2, b"a warning\n") + frame(2, b"") + frame(1, b"more")
    reading, writing = os.pipe()
    said: list[bytes] = []
    ended = threading.Event()
    streams = Streams()
    with os.fdopen(reading, "rb", buffering=0) as source:
        streams.add(source, tmp_path / "log", said.append, ended.set)
        for at in range(0, len(data), step):
            os.write(writing, data[at : at + step])
        os.close(writing)
        assert ended.wait(10)
    streams.close()
    assert b"".join(said) == b"serving\nmore"
    assert (tmp_path / "log").read_bytes() == b"a warning\n"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"ExitCode": 0}, "exit code 0"),
        ({"ExitCode": 3}, "exit code 3"),
        ({"ExitCode": 137}, "killed by SIGKILL"),
        ({"ExitCode": 143}, "killed by SIGTERM"),
        ({"ExitCode": 255}, "exit code 255"),
        ({"ExitCode": 137, "OOMKilled": True}, "killed for want of memory (its limit of 64 MiB)"),
    ],
)
def test_ends_are_said_as_people_do(state: dict[str, object], text: str) -> None:
    assert describe_end(state, 64 * 2**20) == text


def test_an_end_for_which_podman_may_have_missed_the_reason_is_told_as_such() -> None:
    killed: dict[str, object] = {"ExitCode": 137, "OOMKilled": False}
    told = "killed by SIGKILL, perhaps for want of memory (its limit of 64 MiB), of which Podman does not always hear"
    assert describe_end(killed, 64 * 2**20, doubt=True) == told
    assert describe_end(killed, None, doubt=True) == "killed by SIGKILL"
    assert describe_end({"ExitCode": 1}, 64 * 2**20, doubt=True) == "exit code 1"


def test_only_what_may_pass_is_tried_again() -> None:
    def api(status: int, said: str) -> APIError:
        response = requests.Response()
        response.status_code = status
        return APIError(said, response=response, explanation=said)

    assert engine.may_pass(requests.ConnectionError())
    assert engine.may_pass(requests.Timeout())
    assert engine.may_pass(api(500, "context deadline exceeded"))
    assert not engine.may_pass(api(500, "invalid mount config"))
    assert not engine.may_pass(api(500, "Bind for 127.20.1.1:9473 failed: port is already allocated"))
    assert not engine.may_pass(api(404, "no such container"))
    assert not engine.may_pass(api(409, "name already in use"))
    assert not engine.may_pass(ValueError())


ABORTED = requests.ConnectionError(
    ProtocolError("Connection aborted.", FileNotFoundError(2, "No such file or directory"))
)

NOT_THERE = requests.ConnectionError(
    MaxRetryError(
        Pool("127.0.0.1", 1),
        "/version",
        NewConnectionError(
            Pool("127.0.0.1", 1), "Failed to establish a new connection: [Errno 111] Connection refused"
        ),  # type: ignore[arg-type]
    )
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ABORTED, "Connection aborted: No such file or directory"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (requests.ReadTimeout("it took too long\nfor us"), "it took too long"),
        (OSError(), "OSError"),
        (PermissionError(13, "Permission denied", "/var/run/docker.sock"), "Permission denied: /var/run/docker.sock"),
        (NOT_THERE, f"{Pool('127.0.0.1', 1)}: Failed to establish a new connection: [Errno 111] Connection refused"),
    ],
)
def test_what_went_wrong_with_an_engine_is_said_without_what_it_is_wrapped_into(error: Exception, text: str) -> None:
    assert told(error) == text
    wrapped = DockerException(f"Error while fetching server API version: {error}")
    wrapped.__cause__ = error
    assert told(wrapped) == text


def test_what_the_user_names_is_the_only_engine_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert [url for url, _ in engine.candidates()] == ["tcp://127.0.0.1:1"]


def test_an_engine_behind_ssh_is_told_how_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://user@host")
    with pytest.raises(EngineUnavailable, match=r"ssh -nNT -L .*DOCKER_HOST=unix://"):
        engine.connect()


def test_a_network_is_here_if_its_bridge_is_an_interface_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there = networks.Network("f28d20faec3702195664", "name", ipaddress.IPv4Network("10.192.1.0/24"))
    monkeypatch.setattr(networks.socket, "if_nameindex", lambda: [(1, "lo"), (2, "br-000000000000")])
    assert not networks.is_here(there)
    monkeypatch.setattr(networks.socket, "if_nameindex", lambda: [(1, "lo"), (2, "br-f28d20faec37")])
    assert networks.is_here(there)


def test_labels_tell_whose_a_session_is_and_until_when(tmp_path: Path) -> None:
    made = labels.of_session("s", tmp_path, 100)
    assert labels.is_ours(made, tmp_path)
    assert not labels.is_ours(made, tmp_path / "other")
    assert not labels.is_ours(made | {labels.HOST: "elsewhere"}, tmp_path)
    expires = int(made[labels.EXPIRES])
    assert not labels.has_expired(made, expires)
    assert labels.has_expired(made, expires + 1)
    assert not labels.has_expired({}, expires)
    assert not labels.has_expired({labels.EXPIRES: "soon"}, expires)


RECIPE = ImageRecipe("kadstorm-node", {"Dockerfile": b"ARG BASE", "node/a.py": b"1"}, ("msgspec",))


class Store:
    """An engine's client that knows images only: what is there, what a registry has, and what was built of which base."""

    def __init__(self, architecture: str = "", registry: dict[str, dict[str, Any]] | None = None) -> None:
        self.there: dict[str, dict[str, Any]] = {}
        self.built: list[tuple[str, str]] = []
        self._architecture = architecture or images.ARCHITECTURES.get(platform.machine(), platform.machine())
        self._registry = registry or {}

    def version(self) -> dict[str, str]:
        return {"Arch": self._architecture}

    def inspect_image(self, reference: str) -> dict[str, Any]:
        if reference not in self.there:
            raise ImageNotFound(reference)
        return {"Id": "sha256:0", "Size": 10**6, **self.there[reference]}

    def pull(self, repository: str, *, tag: str, stream: bool, decode: bool) -> list[dict[str, str]]:
        if f"{repository}:{tag}" not in self._registry:
            return [{"error": f"{repository}: too many requests"}]
        self.there[f"{repository}:{tag}"] = self._registry[f"{repository}:{tag}"]
        return [{"status": "Downloaded"}]

    def build(self, *, tag: str, buildargs: dict[str, str], **_: Any) -> list[dict[str, str]]:
        self.there[tag] = {}
        self.built.append((tag, buildargs["BASE"]))
        return [{"stream": "Step 1/1"}]


def engine_of(store: Store) -> engine.Engine:
    return engine.Engine(store, "unix:///there.sock", "1", "1")


@pytest.fixture
def toxiproxy(tmp_path: Path) -> Path:
    made = tmp_path / "toxiproxy-server"
    made.write_bytes(b"\x7fELF 1")
    return made


def test_any_change_gives_an_image_another_name(toxiproxy: Path) -> None:
    here = engine_of(Store())
    first = images.references(here, RECIPE, toxiproxy, offline=True)
    assert images.references(here, RECIPE, toxiproxy, offline=True) == first
    changed = ImageRecipe(RECIPE.name, {**RECIPE.files, "node/a.py": b"2"}, RECIPE.packages)
    assert images.references(here, changed, toxiproxy, offline=True).member != first.member
    assert images.references(here, changed, toxiproxy, offline=True).toxiproxy != first.toxiproxy
    assert images.references(here, RECIPE, toxiproxy, offline=False).member != first.member
    toxiproxy.write_bytes(b"\x7fELF 2")
    assert images.references(here, RECIPE, toxiproxy, offline=True).member == first.member
    assert images.references(here, RECIPE, toxiproxy, offline=True).toxiproxy != first.toxiproxy


def test_an_image_of_a_base_whose_tag_has_moved_has_another_name(toxiproxy: Path) -> None:
    store = Store()
    names = set()
    for its in ({"Id": "sha256:1"}, {"Id": "sha256:2"}, {"RepoDigests": ["python@sha256:3"]}, {"RepoDigests": []}):
        store.there[images.REGISTRY_BASE] = its
        names.add(images.references(engine_of(store), RECIPE, toxiproxy, offline=False).member)
    assert len(names) == 4


def test_a_base_of_a_registry_is_pulled_and_named_by_its_own_digest(toxiproxy: Path) -> None:
    store = Store(registry={images.REGISTRY_BASE: {"RepoDigests": ["python@sha256:3"]}})
    made = images.build(engine_of(store), RECIPE, toxiproxy, lambda _: None, offline=False)
    assert store.built == [(made.member, "python@sha256:3"), (made.toxiproxy, made.member)]
    assert images.references(engine_of(store), RECIPE, toxiproxy, offline=False) == made
    images.build(engine_of(store), RECIPE, toxiproxy, lambda _: None, offline=False)
    assert len(store.built) == 2, "what is there is not built again"
    store.there[images.REGISTRY_BASE] = {"RepoDigests": ["python@sha256:4"]}
    images.build(engine_of(store), RECIPE, toxiproxy, lambda _: None, offline=False)
    assert store.built[2][1] == "python@sha256:4"


def test_a_base_that_cannot_be_pulled_is_told_with_a_way_without_a_registry(toxiproxy: Path) -> None:
    store = Store()
    with pytest.raises(ImageFailed, match=r"(?s)pulling python:\S+ failed.*too many requests.*build --offline"):
        images.build(engine_of(store), RECIPE, toxiproxy, lambda _: None, offline=False)
    assert store.built == []


def test_an_image_of_this_machines_python_is_refused_where_it_does_not_run(toxiproxy: Path) -> None:
    store = Store("s390x")
    with pytest.raises(ImageFailed, match=r"does not run on the engine at unix:///there.sock: .*without --offline"):
        images.build(engine_of(store), RECIPE, toxiproxy, lambda _: None, offline=True)
    assert store.built == []


def test_a_nodes_image_gets_the_very_versions_that_are_here() -> None:
    told = KademliaTarget().image().files["node/requirements.txt"].decode()
    assert told == f"msgspec=={version('msgspec')}\nuvloop=={version('uvloop')}\n"


@pytest.mark.parametrize("exactly", ["msgspec==1.2.3\n", None])
def test_an_image_installs_exactly_what_is_asked_for_or_by_hand_what_fits(
    exactly: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "requirements.txt"
    if exactly:
        file.write_text(exactly)
    asked: list[list[str]] = []
    for name, value in {"ROOT": str(tmp_path), "EXACTLY": str(file), "DATA": str(tmp_path / "data")}.items():
        monkeypatch.setattr(provision, name, value)
    monkeypatch.setattr(provision, "NOBODY", os.getuid())
    monkeypatch.setattr(provision.sys, "path", [])
    monkeypatch.setattr(provision.importlib, "import_module", _not_there)
    monkeypatch.setattr(provision.subprocess, "run", lambda command, **_: asked.append(command))
    provision.main()
    assert asked[0][-2:] == (["--requirement", str(file)] if exactly else [provision.NEEDED, provision.WANTED])


def _not_there(name: str) -> None:
    raise ImportError(name)


def test_every_folder_is_named_in_a_tar_before_what_is_in_it(tmp_path: Path) -> None:
    """Else a rootless Docker makes it with a mode by which the nodes' user sees nothing of it."""
    (tmp_path / "file").write_bytes(b"")
    for made in (rootfs.archive({"a/b/c": tmp_path / "file"}), images._tar({"a/b/c": b""})):
        with tarfile.open(fileobj=io.BytesIO(made)) as tar:
            members = {one.name: one for one in tar}
        names = list(members)
        assert names.index("a") < names.index("a/b") < names.index("a/b/c")
        assert [members[name].mode for name in ("a", "a/b")] == [0o755] * 2


@pytest.mark.parametrize(("constant", "value"), [("FOLDERS", ("tmp",)), ("USERS", "root:x:0:0::/:/bin/sh\n")])
def test_a_base_has_another_name_if_what_is_added_to_its_files_changes(
    constant: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rootfs.digest({}), rootfs.archive({})
    monkeypatch.setattr(rootfs, constant, value)
    assert rootfs.archive({}) != before[1]
    assert rootfs.digest({}) != before[0]


def test_a_toxiproxy_for_another_system_is_refused_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "toxiproxy-server"
    binary.write_bytes(b"\xcf\xfa\xed\xfe")
    with pytest.raises(ImageFailed, match="toxiproxy-server is no program for Linux"):
        images.toxiproxy_context(binary)


def test_the_base_holds_what_python_needs_and_no_shell() -> None:
    files = rootfs.collect(["msgspec", "uvloop"])
    assert any(name.endswith("asyncio/__init__.py") for name in files)
    assert any("libc.so" in name for name in files)
    assert any(name.startswith("opt/kadstorm/packages/msgspec/_core") for name in files)
    assert not any(name.endswith(("/sh", "/bash", "/apt", "/pip")) for name in files)


def test_a_package_that_is_not_here_is_named() -> None:
    with pytest.raises(ImageFailed, match="no-such-package"):
        rootfs.collect(["no-such-package"])
