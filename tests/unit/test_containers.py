"""The pure parts of the Docker backend: subnets, frames, ends, labels, where an engine may be."""

from __future__ import annotations

import ipaddress
import itertools
import os
import threading
from pathlib import Path

import pytest
import requests
from docker.errors import APIError
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.docker import describe_end
from harness.containers import engine, images, labels, networks, rootfs
from harness.containers.streams import Streams
from harness.errors import ImageFailed
from harness.targets import ImageRecipe


@given(members=st.integers(1, networks.LARGEST), first=st.integers(0, 5000))
def test_subnets_hold_all_members_and_do_not_overlap(members: int, first: int) -> None:
    found = list(itertools.islice(networks.subnets(members, first), 20))
    assert all(subnet.num_addresses >= members + networks.RESERVED + 1 for subnet in found)
    assert all(subnet.subnet_of(networks.POOL) for subnet in found)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))


def test_addresses_of_a_network_differ() -> None:
    network = networks.Network("id", "name", ipaddress.IPv4Network("10.192.1.0/24"))
    addresses = [network.gateway, network.toxiproxy, *(network.member(index) for index in range(200))]
    assert len(set(addresses)) == len(addresses)
    assert network.member(0) == "10.192.1.8"


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


def test_only_what_may_pass_is_tried_again() -> None:
    def api(status: int, said: str) -> APIError:
        response = requests.Response()
        response.status_code = status
        return APIError(said, response=response, explanation=said)

    assert engine.may_pass(requests.ConnectionError())
    assert engine.may_pass(requests.Timeout())
    assert engine.may_pass(api(500, "context deadline exceeded"))
    assert not engine.may_pass(api(500, "invalid mount config"))
    assert not engine.may_pass(api(404, "no such container"))
    assert not engine.may_pass(api(409, "name already in use"))
    assert not engine.may_pass(ValueError())


def test_what_the_user_names_is_the_only_engine_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert [url for url, _ in engine.candidates()] == ["tcp://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("unix:///var/run/docker.sock", False),
        ("npipe:////./pipe/docker", False),
        ("tcp://127.0.0.1:2375", False),
        ("tcp://localhost:2376", False),
        ("tcp://10.1.2.3:2376", True),
        ("ssh://user@host", True),
    ],
)
def test_an_engine_on_another_machine_is_known_by_its_address(url: str, remote: bool) -> None:
    assert engine.is_remote(url) == remote


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


def test_any_change_gives_an_image_another_name(tmp_path: Path) -> None:
    binary = tmp_path / "toxiproxy-server"
    binary.write_bytes(b"\x7fELF 1")
    first = images.references(RECIPE, binary, offline=True)
    assert images.references(RECIPE, binary, offline=True) == first
    changed = ImageRecipe(RECIPE.name, {**RECIPE.files, "node/a.py": b"2"}, RECIPE.packages)
    assert images.references(changed, binary, offline=True).member != first.member
    assert images.references(changed, binary, offline=True).toxiproxy != first.toxiproxy
    assert images.references(RECIPE, binary, offline=False).member != first.member
    binary.write_bytes(b"\x7fELF 2")
    assert images.references(RECIPE, binary, offline=True).member == first.member
    assert images.references(RECIPE, binary, offline=True).toxiproxy != first.toxiproxy


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
