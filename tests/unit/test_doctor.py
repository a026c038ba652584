"""What `kadstorm doctor` finds of the machine, from files that say it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harness import doctor
from harness.backends.docker import LEASE_PORT
from harness.links import BASE_PORT
from harness.session import API_PORT, Session, recorded_sessions


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


@pytest.fixture
def addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two addresses of our own, so that sessions of other tests come and go as they like."""
    monkeypatch.setenv("KADSTORM_STATE", str(tmp_path))
    monkeypatch.setattr("harness.session.FIRST_ADDRESS", 233)
    monkeypatch.setattr("harness.session.LAST_ADDRESS", 234)


@pytest.mark.usefixtures("addresses")
def test_a_port_that_a_session_would_need_is_tried_and_the_taken_one_named(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        host = session.host
    for port in (LEASE_PORT, API_PORT, BASE_PORT, BASE_PORT + 4 * 5 - 1):
        with socket.create_server((host, port)):
            found = doctor._free_ports(4)
        assert (found.state, found.said.partition(" is taken")[0]) == ("fail", f"port {port} on {host}")
        assert "end the program that listens there" in found.remedy
    found = doctor._free_ports(4)
    assert (found.state, found.remedy) == ("ok", "")
    assert f"{BASE_PORT} to {BASE_PORT + 4 * 5 - 1} on {host}" in found.said


@pytest.mark.usefixtures("addresses")
def test_addresses_of_living_sessions_are_not_tried_and_none_of_ours_is_left(tmp_path: Path) -> None:
    with Session(tmp_path) as session, socket.create_server((session.host, API_PORT)):
        found = doctor._free_ports(4)
        assert found.state == "ok"
        assert f"on {session.host}" not in found.said
    assert list(recorded_sessions(tmp_path)) == []


def test_ports_are_not_tried_where_no_session_can_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KADSTORM_STATE", str(tmp_path / "file"))
    assert doctor._free_ports(4).state == "warn"
