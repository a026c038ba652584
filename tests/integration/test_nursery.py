"""Members forked from one warm process: what a fork must be beyond what the backends' suite asks of every member."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness import nursery
from harness.backends import Exit, MemberSpec, WarmStart
from harness.backends.process import ProcessBackend
from harness.cleanup import end_processes, processes_of
from harness.errors import MemberFailed
from harness.spawner import SESSION_VARIABLE, Spawner
from harness.targets import Preload

pytestmark = pytest.mark.skipif(not nursery.SUPPORTED, reason="members are forked on Linux only")

SESSION = "nursery-test"
PROGRAM = """
import json, os, random, secrets, signal, sys, threading, time

def main(argv):
    task, *rest = argv
    if task == "tell":
        print(json.dumps({
            "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
            "random": random.random(), "secret": secrets.randbits(62), "pid": os.getpid(), "group": os.getpgid(0),
            "argv": sys.argv[1:], "threads": threading.active_count(), "name": open("/proc/self/comm").read().strip(),
            "signals": [signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD)],
        }), flush=True)
    if task == "serve":
        print("serving", flush=True)
    if task == "burst":
        sys.exit(0 if print("serving", flush=True) is None else 1)
    time.sleep(60)
"""

Make = Callable[..., MemberSpec]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a member that is forked."""
    (tmp_path / "warm_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, *arguments: str, main: str = "warm_program:main") -> MemberSpec:
        return MemberSpec(name, ("false",), tmp_path / f"{name}.log", True, warm=WarmStart(Preload(main), arguments))

    return make


@pytest.fixture
def backend(make: Make) -> Iterator[ProcessBackend]:
    spawn = Spawner(SESSION)
    made = ProcessBackend(spawn)
    yield made
    made.close()
    spawn.close()


def soon() -> float:
    return time.monotonic() + 30


def told(backend: ProcessBackend, name: str) -> dict[str, object]:
    """What a member has said of itself."""
    found: dict[str, object] = json.loads(backend.lives[name].output)
    return found


def nursery_of(backend: ProcessBackend) -> psutil.Process:
    [warm] = backend._nurseries.values()
    return psutil.Process(warm.pid)


def test_a_fork_begins_like_a_program(backend: ProcessBackend, make: Make) -> None:
    backend.start([make(f"m{i}", "tell", str(i)) for i in range(5)], deadline=soon())
    for index in range(5):
        said = told(backend, f"m{index}")
        assert said["descriptors"] == [0, 1, 2]
        assert said["pid"] == said["group"] == backend.pid(f"m{index}")
        assert said["argv"] == ["tell", str(index)]
        assert said["name"] == f"m{index}"
        assert (said["threads"], said["signals"]) == (1, [True, True])


def test_no_two_forks_draw_the_same_random_numbers(backend: ProcessBackend, make: Make) -> None:
    backend.start([make(f"m{i}", "tell") for i in range(5)], deadline=soon())
    for kind in ("random", "secret"):
        assert len({told(backend, f"m{i}")[kind] for i in range(5)}) == 5


def test_cleanup_finds_and_ends_the_forks_and_the_warm_process(backend: ProcessBackend, make: Make) -> None:
    backend.start([make(f"m{i}", "serve") for i in range(3)], deadline=soon())
    pids = {backend.pid(f"m{i}") for i in range(3)} | {nursery_of(backend).pid}
    assert {process.pid for process in processes_of(SESSION)} == pids
    assert end_processes(SESSION) == 4
    assert processes_of(SESSION) == []


def test_the_end_of_the_warm_process_ends_its_forks_and_says_why(backend: ProcessBackend, make: Make) -> None:
    exits: list[Exit] = []
    backend.on_exit(exits.append)
    backend.start([make(f"m{i}", "serve") for i in range(3)], deadline=soon())
    forks = [psutil.Process(backend.pid(f"m{i}")) for i in range(3)]
    backend.pause("m1")  # a frozen one, too
    nursery_of(backend).kill()
    assert psutil.wait_procs(forks, timeout=10)[1] == []
    deadline = soon()
    while len(exits) < 3:
        assert time.monotonic() < deadline, exits
        time.sleep(0.01)
    assert {exit_.name for exit_ in exits} == {"m0", "m1", "m2"}
    for exit_ in exits:
        assert not exit_.asked
        assert exit_.how.startswith("killed by SIGKILL, since the warm process ")
        assert exit_.how.endswith("that it was forked from has ended (killed by SIGKILL)")


def test_after_the_end_of_the_warm_process_members_start_from_another(backend: ProcessBackend, make: Make) -> None:
    backend.start([make("m", "serve")], deadline=soon())
    before = nursery_of(backend)
    before.kill()
    before_pid, deadline = backend.pid("m"), soon()
    while backend.state("m") != "dead":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    backend.start([make("m", "serve")], deadline=soon())
    assert backend.state("m") == "running"
    assert backend.pid("m") != before_pid
    assert nursery_of(backend).pid != before.pid


def test_code_that_cannot_be_imported_is_told(backend: ProcessBackend, make: Make) -> None:
    with pytest.raises(MemberFailed, match=r"(?s)m could not be forked: .*No module named 'nowhere'"):
        backend.start([make("m", "serve", main="nowhere:main")], deadline=soon())


def test_an_exception_in_a_fork_is_told_with_its_traceback(backend: ProcessBackend, make: Make) -> None:
    with pytest.raises(MemberFailed, match=r"(?s)m did not start: exit code 1\..*not enough values to unpack"):
        backend.start([make("m")], deadline=soon())


def test_nothing_stays_open_of_members_that_have_ended(backend: ProcessBackend, make: Make) -> None:
    def lap() -> tuple[int, int]:
        backend.start([make("m", "serve")], deadline=soon())
        backend.kill("m")
        return psutil.Process().num_fds(), nursery_of(backend).num_fds()

    first = lap()
    assert [lap() for _ in range(10)] == [first] * 10


def test_three_hundred_forks_at_once_are_all_heard(backend: ProcessBackend, make: Make) -> None:
    exits: list[Exit] = []
    backend.on_exit(exits.append)
    backend.start([make(f"m{i}", "burst") for i in range(300)], deadline=soon() + 30)
    deadline = soon() + 30
    while len(exits) < 300:
        assert time.monotonic() < deadline, len(exits)
        time.sleep(0.01)
    assert {exit_.how for exit_ in exits} == {"exit code 0"}
    assert nursery_of(backend).children() == []


HARNESS = """
import sys, time
from pathlib import Path
from harness.backends import MemberSpec, WarmStart
from harness.targets import Preload
from harness.backends.process import ProcessBackend
from harness.spawner import Spawner

folder = Path(sys.argv[1])
backend = ProcessBackend(Spawner("nursery-test-killed"))
warm = WarmStart(Preload("warm_program:main"), ("serve",))
backend.start([MemberSpec(f"m{i}", (), folder / "log", True, warm=warm) for i in range(3)], deadline=time.monotonic() + 30)
backend.pause("m1")
print("started", flush=True)
time.sleep(60)
"""


def test_no_fork_outlives_a_harness_that_is_killed(make: Make, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HARNESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"started\n"
        left = processes_of("nursery-test-killed")
        assert len(left) == 4
        harness.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(left, timeout=10)[1] == []


def test_a_fork_carries_its_sessions_name(backend: ProcessBackend, make: Make) -> None:
    backend.start([make("m", "serve")], deadline=soon())
    pid = backend.pid("m")
    assert f"{SESSION_VARIABLE}={SESSION}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
