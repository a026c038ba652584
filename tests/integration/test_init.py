"""The first process of a container (node/init.py), as a process of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import node
from node import init

INIT = Path(node.__file__).with_name("init.py")
HOST = "127.0.0.1"
TOKEN = "a-token"
SLEEPS = ("sleep", "60")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(INIT), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "KADSTORM_LEASE": TOKEN},
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):  # with its command, which would hold the pipes open
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def dial(port: int) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((HOST, port), timeout=5)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def renew(port: int, token: str = TOKEN) -> bytes:
    with dial(port) as keeper:
        keeper.settimeout(1)
        keeper.sendall(token.encode() + b"\n")
        try:
            return keeper.recv(16)
        except TimeoutError:
            return b""


def renew_for(port: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert set(renew(port)) == set(b"."), "one for each of those that are heard by now"
        time.sleep(0.3)


def test_the_exit_code_of_the_command_is_passed_on(start: Start) -> None:
    assert start("sh", "-c", "exit 7").wait(10) == 7
    assert start("sh", "-c", "kill -9 $$").wait(10) == 128 + signal.SIGKILL


def test_a_command_that_is_not_there_is_told(start: Start) -> None:
    _, said = (process := start("no-such-command")).communicate(timeout=10)
    assert process.returncode == 127
    assert "no-such-command" in said


@pytest.mark.parametrize("arguments", [[], ["--lease", "3"], ["--wrong", "1", "true"], ["--keep"], ["--hold", "true"]])
def test_wrong_usage_is_told_in_one_line(start: Start, arguments: list[str]) -> None:
    _, said = (process := start(*arguments)).communicate(timeout=10)
    assert process.returncode == 1
    assert said.startswith("init: ")
    assert "Traceback" not in said


def test_a_request_to_leave_is_passed_on(start: Start) -> None:
    process = start("sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 5


def test_orphans_are_reaped(start: Start) -> None:
    process = start("sh", "-c", "(sleep 0.1 &) ; sleep 0.5; echo done")
    assert process.wait(10) == 0


def test_without_a_lease_it_just_runs(start: Start) -> None:
    assert start("sleep", "1.5").wait(10) == 0


def test_a_keeper_that_nobody_renews_ends_its_command(start: Start, port: int) -> None:
    process = start("--lease", "1", "--keep", str(port), *SLEEPS)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the lease was not renewed for 1 s" in said


def test_a_command_that_ignores_the_request_is_killed(start: Start, port: int) -> None:
    process = start("--lease", "1", "--keep", str(port), "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    assert process.wait(15) == 128 + signal.SIGKILL


def test_renewals_keep_keeper_and_followers_running_and_their_end_ends_both(start: Start, port: int) -> None:
    keeper = start("--lease", "2", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "2", "--follow", f"{HOST}:{port}", *SLEEPS)
    renew_for(port, 5.0)  # two and a half leases
    assert keeper.poll() is None
    assert follower.poll() is None
    assert keeper.wait(10) == follower.wait(10) == 128 + signal.SIGTERM


def test_a_renewal_without_the_token_is_none(start: Start, port: int) -> None:
    keeper = start("--lease", "2", "--keep", str(port), *SLEEPS)
    until = time.monotonic() + 10
    while keeper.poll() is None and time.monotonic() < until:
        try:
            with socket.create_connection((HOST, port), timeout=1) as caller:
                caller.sendall(b"guess\n" + b"x" * 10_000)
        except OSError:
            pass
        time.sleep(0.1)
    assert keeper.poll() == 128 + signal.SIGTERM


def test_a_keeper_that_falls_silent_without_a_word_is_left_for_the_one_that_is_there_now(
    start: Start, port: int
) -> None:
    silent = socket.create_server((HOST, port))  # whose first caller is heard of no more, as if its machine had gone
    follower = start("--lease", "4", "--follow", f"{HOST}:{port}", *SLEEPS)
    silent.settimeout(10)
    first, _ = silent.accept()
    second, _ = silent.accept()  # with the first connection still open
    with first, second, silent:
        until = time.monotonic() + 6  # a lease and a half from here on
        while time.monotonic() < until:
            second.sendall(b".")
            time.sleep(0.3)
        assert follower.poll() is None
    assert follower.wait(20) == 128 + signal.SIGTERM


def test_a_follower_waits_for_no_connection_so_that_signals_are_passed_on(port: int) -> None:
    full = socket.create_server(
        (HOST, port), backlog=0
    )  # one caller fits, and the next one's request is left unanswered
    callers = [socket.socket() for _ in range(3)]
    for caller in callers:
        caller.settimeout(0)
        caller.connect_ex((HOST, port))
    follower = init.Follower(30.0, 100.0, (HOST, port))
    follower.prepare(100.0)
    (sock,) = follower.sockets
    with pytest.raises(OSError, match="not connected"):
        sock.getpeername()
    for one in (full, sock, *callers):
        one.close()


def test_a_keeper_that_is_started_again_within_the_lease_harms_no_follower(start: Start, port: int) -> None:
    first = start("--lease", "4", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "4", "--follow", f"{HOST}:{port}", *SLEEPS)
    until_it_has_dialled(follower)
    first.kill()
    first.wait()
    start("--lease", "4", "--keep", str(port), *SLEEPS)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        renew(port)
        time.sleep(0.3)
    assert follower.poll() is None


def until_it_has_dialled(follower: subprocess.Popen[str]) -> None:
    """By then it also hears signals: it listens for those before it dials."""
    deadline = time.monotonic() + 10
    while not any(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(follower.pid).net_connections("tcp")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def child_of(process: subprocess.Popen[str]) -> psutil.Process:
    deadline = time.monotonic() + 10
    while not (children := psutil.Process(process.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return children[0]


def is_frozen(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_STOPPED)


def test_who_is_frozen_for_longer_than_the_lease_goes_on_if_that_was_renewed_meanwhile(start: Start, port: int) -> None:
    start("--lease", "2", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "2", "--follow", f"{HOST}:{port}", *SLEEPS)
    until_it_has_dialled(follower)
    child_of(follower)
    renew_for(port, 1.5)
    os.killpg(follower.pid, signal.SIGSTOP)
    renew_for(port, 3.0)
    os.killpg(follower.pid, signal.SIGCONT)
    renew_for(port, 3.0)
    assert follower.poll() is None
    assert follower.wait(10) == 128 + signal.SIGTERM


def test_a_keeper_that_is_frozen_for_longer_than_the_lease_hears_who_called_meanwhile(start: Start, port: int) -> None:
    keeper = start("--lease", "2", "--keep", str(port), *SLEEPS)
    child_of(keeper)
    assert renew(port) == b"."
    os.killpg(keeper.pid, signal.SIGSTOP)
    began = time.monotonic()
    while time.monotonic() < began + 3.0:
        assert renew(port) == b"", "it is frozen"
    os.killpg(keeper.pid, signal.SIGCONT)
    renew_for(port, 3.0)
    assert keeper.poll() is None


def test_asked_for_followers_freeze_their_commands_and_end_them_with_their_lease(start: Start, port: int) -> None:
    keeper = start("--lease", "2", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "2", "--follow", f"{HOST}:{port}", *SLEEPS)
    mine, theirs = child_of(keeper), child_of(follower)
    assert renew(port, "guess still") == b""
    deadline = time.monotonic() + 10
    while not is_frozen(theirs):  # the follower may not have dialled yet when it is first said
        assert time.monotonic() < deadline
        assert renew(port, f"{TOKEN} still") in (b"!", b".")
        time.sleep(0.05)
    assert not is_frozen(mine)
    began = time.monotonic()
    assert keeper.wait(15) == 128 + signal.SIGTERM
    assert follower.wait(20) == 128 + signal.SIGKILL  # a frozen command does not hear that it should leave
    assert time.monotonic() - began >= 6, "while hundreds are removed, the last ones do not end by themselves"


def test_nobody_freezes_without_the_token(start: Start, port: int) -> None:
    follower = start("--lease", "20", "--follow", f"{HOST}:{port}", *SLEEPS)
    keeper = start("--lease", "20", "--keep", str(port), *SLEEPS)
    theirs = child_of(follower)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert renew(port, "guess still") == b""
        assert not is_frozen(theirs)
    assert keeper.poll() is None
    for process in (follower, keeper):
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM


# --- held ---------------------------------------------------------------------------------------------------------


def runs(process: subprocess.Popen[str]) -> bool:
    return bool(psutil.Process(process.pid).children())


def let_go(port: int) -> None:
    heard = renew(port, f"{TOKEN} go")
    assert heard, "it is acknowledged"
    assert set(heard) <= set(b">."), "and with nothing that means something else"


def test_a_held_command_runs_once_the_keeper_hears_that_it_may_go(start: Start, port: int) -> None:
    start("--lease", "2", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "2", "--follow", f"{HOST}:{port}", "--hold", *SLEEPS)
    renew_for(port, 5.0)  # two and a half leases: renewals keep it waiting
    assert follower.poll() is None
    assert not runs(follower)
    let_go(port)
    child_of(follower)
    renew_for(port, 3.0)
    assert follower.poll() is None
    assert follower.wait(10) == 128 + signal.SIGTERM, "its lease goes on as any other"


def test_who_dials_after_that_was_said_does_not_wait(start: Start, port: int) -> None:
    start("--lease", "20", "--keep", str(port), *SLEEPS)
    let_go(port)
    child_of(start("--lease", "20", "--follow", f"{HOST}:{port}", "--hold", *SLEEPS))


def test_a_held_command_that_is_there_before_the_keeper_finds_it_and_one_that_is_started_again(
    start: Start, port: int
) -> None:
    follower = start("--lease", "20", "--follow", f"{HOST}:{port}", "--hold", *SLEEPS)
    first = start("--lease", "20", "--keep", str(port), *SLEEPS)
    until_it_has_dialled(follower)
    first.kill()
    first.wait()
    start("--lease", "20", "--keep", str(port), *SLEEPS)
    let_go(port)
    child_of(follower)


def test_nobody_lets_a_command_go_without_the_token(start: Start, port: int) -> None:
    start("--lease", "20", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "20", "--follow", f"{HOST}:{port}", "--hold", *SLEEPS)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert renew(port, "guess go") == renew(port, "?") == b""
        assert not runs(follower)


def test_a_held_command_that_is_asked_to_leave_never_runs(start: Start, port: int) -> None:
    start("--lease", "20", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "20", "--follow", f"{HOST}:{port}", "--hold", "sh", "-c", "echo ran")
    until_it_has_dialled(follower)
    follower.terminate()
    said, _ = follower.communicate(timeout=10)
    assert (follower.returncode, said) == (128 + signal.SIGTERM, "")


def test_a_command_that_nobody_lets_go_ends_after_four_leases(start: Start, port: int) -> None:
    began = time.monotonic()
    follower = start("--lease", "1", "--follow", f"{HOST}:{port}", "--hold", "sh", "-c", "echo ran")
    said, why = follower.communicate(timeout=15)
    assert (follower.returncode, said) == (1, "")
    assert why == "init: nobody let the command go before its lease ran out: ending\n"
    assert time.monotonic() - began >= 4, "the keeper may come later"


def test_a_held_command_that_was_frozen_for_longer_than_its_lease_waits_on_if_that_was_renewed(
    start: Start, port: int
) -> None:
    start("--lease", "20", "--keep", str(port), *SLEEPS)
    follower = start("--lease", "1", "--follow", f"{HOST}:{port}", "--hold", *SLEEPS)
    until_it_has_dialled(follower)
    renew_for(port, 2.0)  # its lease is a plain one by now
    os.killpg(follower.pid, signal.SIGSTOP)
    renew_for(port, 2.0)
    os.killpg(follower.pid, signal.SIGCONT)
    renew_for(port, 1.0)
    assert follower.poll() is None
    let_go(port)
    child_of(follower)
