"""The suites can fail: each planted bug of a node makes the test that it belongs to fail (docs/suites.md).

The bug is planted in the nodes' processes alone, by a `sitecustomize` in front of their path. Takes minutes: ``pytest -m long``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITES = Path(__file__).parents[2] / "chaos"
LIMIT = 300.0  # s
PLANT = """
import sys
if "harness.nursery_main" in sys.orig_argv or {{"node", "serve"}} <= set(sys.orig_argv):
{patch}
"""
BUGS = {
    "keeps nothing that it acknowledges": "from node.peer import Peer; Peer.keep = lambda self, record, **rest: ''",
    "hands nothing to newcomers": (
        "from node.maintenance import Maintenance; Maintenance._on_contact = lambda self, contact, heard: None"
    ),
    "stores at one holder only": (
        "from node.peer import Peer; Peer.holders = (lambda original: lambda self, key, closest: "
        "(original(self, key, closest)[0][:1], False))(Peer.holders)"
    ),
    "begins with an empty disk": (
        "import shutil; from node.durable import DurableStorage; made = DurableStorage.__init__\n"
        "    DurableStorage.__init__ = lambda self, folder, **rest: "
        "(shutil.rmtree(folder, ignore_errors=True), made(self, folder, **rest))[1]"
    ),
    "never forgives a contact that failed once": (
        "from node.routing import RoutingTable; from node import routing\n"
        "    failed, answered, shunned = RoutingTable.failed, RoutingTable.answered, set()\n"
        "    RoutingTable.failed = lambda self, i, now, **rest: (shunned.add(i), failed(self, i, now, **rest))[1]\n"
        "    RoutingTable.answered = lambda self, contact, now, **rest: "
        "routing.Heard() if contact.id in shunned else answered(self, contact, now, **rest)"
    ),
    "gives up after a tenth of a second": (
        "from node.peer import Peer; from node.transport import TcpTransport\n"
        "    Peer.timeout_of, settle = lambda self, contact: 0.1, TcpTransport.settle\n"
        "    TcpTransport.settle = lambda self, pending, answer, sender: "
        "None if pending.timed_out else settle(self, pending, answer, sender)"
    ),
    "waits for whoever is slow": (
        "from node import peer, search; search.Search._overtake = lambda self: None\n"
        "    peer.Peer.timeout_of = lambda self, contact: 60.0"
    ),
    "knows seven others and no more": (
        "from node.routing import RoutingTable; admit = RoutingTable._admit\n"
        "    RoutingTable._admit = lambda self, entry: len(self) < 7 and admit(self, entry)"
    ),
}
CAUGHT_BY = [
    ("keeps nothing that it acknowledges", "test_partitions.py", "everywhere and halves and not refused"),
    ("keeps nothing that it acknowledges", "test_churn.py", "short and mild"),
    ("hands nothing to newcomers", "test_crashes.py", "rolling and without"),
    ("stores at one holder only", "test_crashes.py", "one_of_its_holders"),
    ("stores at one holder only", "test_crashes.py", "two_nodes"),
    ("begins with an empty disk", "test_crashes.py", "keeps_its_data"),
    ("never forgives a contact that failed once", "test_partitions.py", "everywhere and isolate"),
    ("never forgives a contact that failed once", "test_crowds_and_links.py", "flapping"),
    ("waits for whoever is slow", "test_partitions.py", "bootstrap"),
    ("waits for whoever is slow", "test_crowds_and_links.py", "frozen"),
    ("gives up after a tenth of a second", "test_crowds_and_links.py", "slow_links"),
    ("waits for whoever is slow", "test_crowds_and_links.py", "grey"),
    ("knows seven others and no more", "test_crowds_and_links.py", "crowd_is"),
]


def run_suite(folder: Path, bug: str, suite: str, chosen: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(PLANT.format(patch=f"    {BUGS[bug]}"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITES / suite), "-k", chosen]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.long
@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize(("bug", "suite", "chosen"), CAUGHT_BY)
def test_a_planted_bug_is_caught(tmp_path: Path, bug: str, suite: str, chosen: str) -> None:
    done = run_suite(tmp_path, bug, suite, chosen)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " failed" in done.stdout
