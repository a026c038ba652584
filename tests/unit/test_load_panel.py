"""What the page may ask: faults as they are written, and answers to every question, right or wrong."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from harness.errors import UsageError
from harness.panel import PanelServer, answer, parse_fault
from loadtests.figures import Look, recent


class FakePanel:
    """Remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"name": "node-0", "site": "site-0", "state": "up"}]

    def faults(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.asked]

    def inject(self, text: str) -> str:
        if text == "broken":
            raise ZeroDivisionError
        self.asked.append(text)
        return text

    def heal(self, name: str) -> None:
        if name not in self.asked:
            raise UsageError(f"no fault `{name}` is in force")
        self.asked.remove(name)

    def lost(self, worker: str, text: str) -> None:
        self.asked.append(f"{worker}: {text}")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("partition", ("partition", {})),
        ("partition: halves", ("partition", {"shape": "halves"})),
        ("latency: {latency: 200ms, from: node-0}", ("latency", {"latency": "200ms", "from": "node-0"})),
    ],
)
def test_a_fault_is_written_as_in_a_timeline(text: str, parsed: tuple[str, dict[str, Any]]) -> None:
    assert parse_fault(text) == parsed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partiton: halves", "did you mean `partition`?"),
        ("", "one fault is expected"),
        ("{partition: halves, kill: {nodes: 1}}", "one fault is expected"),
        ("[partition]", "one fault is expected"),
        ("latency: 5", "its options are expected"),
        ("latency: {", "not YAML"),
    ],
)
def test_what_is_no_fault_is_told(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"ask": "state"}', "nodes"),
        (b'{"ask": "inject", "text": "refuse"}', "name"),
        (b'{"ask": "inject", "text": "broken"}', "error"),
        (b'{"ask": "heal", "name": "refuse"}', "error"),
        (b'{"ask": "inject"}', "error"),
        (b'{"ask": "shutdown"}', "error"),
        (b"[]", "error"),
        (b"\xff", "error"),
    ],
)
def test_every_question_has_an_answer(line: bytes, key: str) -> None:
    assert key in answer(FakePanel(), line)


def test_the_socket_is_the_users_own_and_goes_with_the_server() -> None:
    server = PanelServer(FakePanel())
    try:
        assert server.path.parent.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.path))
            lines = connection.makefile("rwb")
            for asked, said in (
                ({"ask": "inject", "text": "refuse"}, {"name": "refuse"}),
                ({"ask": "heal", "name": "refuse"}, {"name": "refuse"}),
            ):
                lines.write(json.dumps(asked).encode() + b"\n")
                lines.flush()
                assert json.loads(lines.readline()) == said
    finally:
        server.close()
    assert not server.path.parent.exists()


def test_figures_are_of_what_came_between_two_looks_alone() -> None:
    before = Look(100, 10, {2: 90, 3000: 10})
    after = Look(200, 15, {2: 100, 210: 85, 450: 5, 3000: 10})
    figures = recent(before, after, 5.0)
    assert figures == {"count": 100, "rate": 20.0, "success": 0.95, "p50_ms": 210, "p99_ms": 450}


def test_there_are_no_figures_of_nothing() -> None:
    look = Look(3, 0, {7: 3})
    assert recent(look, look, 5.0) == {"count": 0, "rate": 0.0, "success": None, "p50_ms": None, "p99_ms": None}


def test_a_lost_worker_is_passed_on() -> None:
    panel = FakePanel()
    assert answer(panel, b'{"ask": "lost", "worker": "load-1", "text": "it quit"}') == {}
    assert panel.asked == ["load-1: it quit"]
