"""The first process of a container: runs one command, and ends it when its session's lease is not renewed.

    python3 -I -S init.py [--keep PORT | --follow HOST:PORT [--hold]] [--lease SECONDS] COMMAND…

Containers outlive whoever started them. So each has a lease, and ends by itself when nobody renews that any more:

- The *keeper* (one container of a session) listens on PORT. Whoever sends it the session's token and a newline renews the
  lease of the whole session.
- A *follower* holds a connection to the keeper, which passes each renewal on as one byte. It dials again when the connection is
  lost, or has been silent for half a lease: a keeper that is restarted within the lease harms nobody.
- When all is to be removed, "TOKEN still" freezes the followers' commands, as one other byte: containers are removed a few at a
  time, and nodes that see one another vanish would look for each other meanwhile. Their lease is PATIENT times as long from then
  on: the removal of hundreds takes longer than one, and an engine loses count of containers that end by themselves meanwhile.

- A follower told to *hold* runs its command once the keeper has heard "TOKEN go", and not before: so an engine can start
  containers while what they need is made ready. As that may have been said before it dialled, it asks with "?".

The token is in ``KADSTORM_LEASE``. Without --keep and --follow there is no lease. The command `node …` runs in this
interpreter, forked, which is quicker than a second one; any other is executed. SIGTERM and SIGINT are passed on, orphans are
reaped, and the command's exit code is ours (128 + N for signal N). Only the standard library's smallest parts are imported: this
runs without site-packages and costs a container some 5 MB.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # as the type checkers know it; typing itself takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

TOKEN = "KADSTORM_LEASE"  # noqa: S105  the variable's name
LEASE = 30.0  # s, unless told
PATIENT = 4  # leases that a frozen command has, and one that is held until the keeper is first heard
REDIAL = 1.0  # s between two tries to reach the keeper
REDIAL_HELD = 0.1  # s, while the command is held
GRACE = 2.0  # s between SIGTERM and SIGKILL when the lease has run out
LOOK = 1.0  # s at most between two looks at the clock
LONGEST_LINE = 256  # bytes of a renewal
RENEWED, STILL, GO = b".", b"!", b">"  # what the keeper passes on
MOST_CALLERS = 4096


class Lease:
    """When it ends, and who hears of its renewals."""

    def __init__(self, seconds: float, now: float) -> None:
        self.seconds = seconds
        self.ends = now + seconds
        self.sockets: dict[socket.socket, bytes] = {}  # socket -> what it has sent of a line
        self.still = False  # whether the command is to be frozen
        self.held = False  # whether it is to wait until it may go
        self.over = False  # once it has run out it is not renewed

    def renew(self, now: float) -> None:
        if self.over:
            return
        self.ends = now + self.seconds * (PATIENT if self.still else 1)

    def prepare(self, now: float) -> None:
        """Dial or listen, if that is due."""

    def readable(self, sock: socket.socket, now: float) -> None:
        raise NotImplementedError

    def _forget(self, sock: socket.socket) -> None:
        del self.sockets[sock]
        sock.close()


class Keeper(Lease):
    """Listens for renewals and passes them on."""

    def __init__(self, seconds: float, now: float, port: int, token: bytes) -> None:
        super().__init__(seconds, now)
        self._token = token
        self._may_go = False  # whether those that hold may run their commands
        self._door = socket.socket()
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._door.bind(("0.0.0.0", port))  # noqa: S104  inside a container; the token guards it
        self._door.listen(1024)
        self._door.settimeout(0)
        self.sockets[self._door] = b""

    def readable(self, sock: socket.socket, now: float) -> None:
        if sock is self._door:
            self._let_in()
            return
        heard = _heard(sock)
        line = self.sockets[sock] + heard
        if not heard or len(line) > LONGEST_LINE:
            self._forget(sock)
        elif line.endswith(b"\n"):
            self.sockets[sock] = b""
            self._told(line.splitlines()[-1], sock, now)
        else:
            self.sockets[sock] = line

    def _told(self, said: bytes, by: socket.socket, now: float) -> None:
        if said == b"?":
            if self._may_go:
                self._pass_on_to(by, GO)
            return
        word, _, what = said.partition(b" ")
        if word != self._token or what not in (b"", b"still", b"go"):
            return
        self.renew(now)
        self._may_go = self._may_go or what == b"go"
        self._pass_on({b"still": STILL, b"go": GO}.get(what, RENEWED))

    def _let_in(self) -> None:
        try:
            caller, _ = self._door.accept()
        except OSError:
            return  # it has gone again
        caller.settimeout(0)
        self.sockets[caller] = b""
        if len(self.sockets) > MOST_CALLERS:
            self._forget(caller)

    def _pass_on(self, what: bytes) -> None:
        for sock in list(self.sockets):
            if sock is not self._door:
                self._pass_on_to(sock, what)  # the renewer hears it as well: that is its acknowledgement

    def _pass_on_to(self, sock: socket.socket, what: bytes) -> None:
        try:
            sock.send(what)
        except BlockingIOError:
            return  # it has a thousand unread renewals: it lives, and is slow or frozen
        except OSError:
            self._forget(sock)


class Follower(Lease):
    """Hears of renewals from the keeper."""

    def __init__(self, seconds: float, now: float, address: tuple[str, int], *, held: bool = False) -> None:
        super().__init__(seconds, now)
        self._address, self.held = address, held
        if held:  # the keeper may be started along with us, by an engine that has much to do
            self.ends = now + PATIENT * seconds
        self._dial_at = now
        self._silent_at = now  # when the connection has said nothing for too long

    def prepare(self, now: float) -> None:
        if now >= self._silent_at:  # a keeper that vanished without a word leaves a connection that never ends
            for sock in list(self.sockets):
                self._forget(sock)
        if not self.sockets and now >= self._dial_at:
            self._dial(now)

    def _dial(self, now: float) -> None:
        """Begin to connect; that this has failed is read like an end. Nobody waits for it: signals are to be passed on."""
        self._dial_at, self._silent_at = now + (REDIAL_HELD if self.held else REDIAL), now + self.seconds / 2
        sock = socket.socket()
        sock.settimeout(REDIAL_HELD if self.held else 0)  # while nothing runs, there is nobody to pass a signal on to
        self.sockets[sock] = b""
        try:
            sock.connect(self._address)
            if self.held:
                sock.sendall(b"?\n")
                sock.settimeout(0)
        except BlockingIOError:
            return
        except OSError:
            self._forget(sock)

    def readable(self, sock: socket.socket, now: float) -> None:
        heard = _heard(sock)
        if heard:
            self.still = self.still or STILL in heard
            self.held = self.held and GO not in heard
            self.renew(now)
            self._silent_at = now + self.seconds / 2
        else:
            self._forget(sock)


def _heard(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except BlockingIOError:
        return RENEWED
    except OSError:
        return b""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options, command = _parse(argv)
    wakeup, waker = os.pipe()
    for end in (wakeup, waker):
        os.set_blocking(end, False)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda number, _: asked.append(number))
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    lease = _make_lease(options)
    if (told := _hold(lease, wakeup, asked)) is not None:
        return told
    child = os.fork()
    if not child:
        os.close(wakeup)
        os.close(waker)
        for sock in lease.sockets:
            sock.close()
        _become(command)
    return Watch(child, lease, wakeup, asked).until_it_ends()


def _hold(lease: Lease, wakeup: int, asked: list[int]) -> int | None:
    """Wait until the command may run; None, or the exit code if it never is to."""
    while lease.held:
        lease.prepare(time.monotonic())
        _wait(lease, wakeup, REDIAL_HELD)
        if lease.held and time.monotonic() >= lease.ends:
            _hear_all(lease, wakeup)
            if time.monotonic() >= lease.ends:
                sys.stderr.write("init: nobody let the command go before its lease ran out: ending\n")
                return 1
        if told := [number for number in asked if number != signal.SIGCHLD]:
            return 128 + told[0]
    return None


def _parse(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    rest = list(argv)
    options: dict[str, str] = {}
    while rest and rest[0].startswith("--"):
        option = rest.pop(0)
        if option == "--":
            break
        if option == "--hold":
            options[option] = ""
            continue
        if option not in ("--lease", "--keep", "--follow") or not rest:
            sys.exit(f"init: unknown option, or one without its value: {option}")
        options[option] = rest.pop(0)
    if "--hold" in options and "--follow" not in options:
        sys.exit("init: --hold needs --follow: nobody else could let the command go")
    if not rest:
        sys.exit("init: no command")
    return options, rest


def _make_lease(options: dict[str, str]) -> Lease:
    now, seconds = time.monotonic(), float(options.get("--lease", LEASE))
    if "--keep" in options:
        return Keeper(seconds, now, int(options["--keep"]), os.environ[TOKEN].encode())
    if "--follow" in options:
        host, _, port = options["--follow"].rpartition(":")
        return Follower(seconds, now, (host, int(port)), held="--hold" in options)
    return Lease(float("inf"), now)


def _wait(lease: Lease, wakeup: int, seconds: float) -> None:
    """Wait for a signal or for something to read, and read it."""
    poll = select.poll()
    sockets = {sock.fileno(): sock for sock in lease.sockets}
    for number in (wakeup, *sockets):
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(1000 * seconds):
        if number == wakeup:
            os.read(wakeup, 4096)
        elif sockets[number] in lease.sockets:
            lease.readable(sockets[number], time.monotonic())


def _hear_all(lease: Lease, wakeup: int) -> None:
    """Read what is there: we may have been frozen for longer than a lease, and what renewed it meanwhile not been read."""
    for _ in range(2):  # who calls is let in first, and heard then
        _wait(lease, wakeup, 0.0)


def _become(command: list[str]) -> NoReturn:
    """In the child: the command, with default signals."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.environ.pop(TOKEN, None)
    try:
        if command[0] != "node":
            os.execvp(command[0], command)  # noqa: S606
        here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib takes long to import
        # at the end: whatever of the standard library is imported is not looked for here first
        sys.path += [os.path.dirname(here), os.path.join(os.path.dirname(here), "packages")]  # noqa: PTH118, PTH120
        import gc
        import runpy

        gc.disable()  # while modules are imported there is next to nothing to collect, and looking takes a tenth of the time
        sys.argv = command
        runpy.run_module("node", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
    except OSError as error:
        sys.stderr.write("init: cannot run " + command[0] + ": " + str(error) + "\n")
        code = 127
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Watch:
    """What the first process does while its command runs: signals, orphans, the lease."""

    def __init__(self, child: int, lease: Lease, wakeup: int, asked: list[int]) -> None:
        self._child, self._lease, self._wakeup, self._asked = child, lease, wakeup, asked
        self._ending = self._frozen = False

    def until_it_ends(self) -> int:
        """Returns the command's exit code."""
        while (code := self._reaped()) is None:
            self._pass_signals_on()
            now = time.monotonic()
            if now >= self._lease.ends:
                _hear_all(self._lease, self._wakeup)
                if now >= self._lease.ends:
                    self._end_it(now)
            if self._lease.still and not self._frozen:
                self._frozen = True
                os.kill(self._child, signal.SIGSTOP)
            self._lease.prepare(now)
            _wait(self._lease, self._wakeup, min(LOOK, max(0.0, self._lease.ends - now)))
        return code

    def _pass_signals_on(self) -> None:
        while self._asked:
            number = self._asked.pop(0)
            if number != signal.SIGCHLD:
                os.kill(self._child, number)

    def _end_it(self, now: float) -> None:
        if not self._ending:
            sys.stderr.write(f"init: the lease was not renewed for {self._lease.seconds:g} s: ending\n")
            sys.stderr.flush()
        os.kill(self._child, signal.SIGKILL if self._ending else signal.SIGTERM)
        self._ending = self._lease.over = True
        self._lease.ends = now + GRACE

    def _reaped(self) -> int | None:
        """Reap what has ended; the command's exit code if it is among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if not pid:
                return None
            if pid == self._child:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
