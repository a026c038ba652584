"""Engines that are reached in other ways than by Docker's own socket: over TLS, and named by a context."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness import registry
from harness.backends import Exit, Ground, MemberSpec
from harness.backends.docker import DockerBackend
from harness.containers import engine as engines
from harness.errors import EngineUnavailable
from harness.session import Session
from harness.toxiproxy import binary

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

ENGINE = "/var/run/docker.sock"
SERVES = (
    "import sys, time; print('serving', flush=True); sys.stderr.write('a word'); sys.stderr.flush(); time.sleep(60)"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of it that server and client share, under the names that Docker gives them."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=authority "
        "-addext keyUsage=critical,keyCertSign",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=engine",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out cert.pem -days 2 -extfile names",
    ):
        openssl = shutil.which("openssl")
        assert openssl, "this test makes certificates with the command `openssl`"
        done = subprocess.run([openssl, *command.split()], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def port(certificates: Path) -> Iterator[int]:
    """A port at which the engine answers over TLS, to those with a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=let_in, args=(door, context), daemon=True).start()
        yield door.getsockname()[1]
        door.shutdown(socket.SHUT_RDWR)


def let_in(door: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):  # the door was closed
        while True:
            caller, _ = door.accept()
            threading.Thread(target=serve, args=(caller, context), daemon=True).start()


def serve(caller: socket.socket, context: ssl.SSLContext) -> None:
    """Pass a connection on to the engine, both ways. Each direction has its thread, and TLS its lock in OpenSSL."""
    with suppress(OSError), context.wrap_socket(caller, server_side=True) as secure:
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(ENGINE)
        back = threading.Thread(target=pump, args=(engine, secure), daemon=True)
        back.start()
        pump(secure, engine)
        back.join()
        engine.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_members_live_and_are_heard_over_tls(
    certificates: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "cert.pem"))  # of the web: none of its concern
    exits: list[Exit] = []
    ended = threading.Event()
    with Session(tmp_path, state=tmp_path / "state") as session:
        ground = Ground(
            session_id=session.id, host=session.host, state=session.state, run_dir=tmp_path, toxiproxy=binary.find(),
            spawn=session.spawn, recipe=registry.target("kademlia").image,
        )  # fmt: skip
        backend = DockerBackend.on(ground)
        backend.on_exit(lambda exit_: (exits.append(exit_), ended.set()))  # type: ignore[func-returns-value]
        try:
            hosts = backend.lay_out(["a"]).hosts
            spec = MemberSpec(
                "a", ("python3", "-c", SERVES), tmp_path / "a.log", watches_parent=False, address=hosts["a"]
            )
            backend.start([spec], deadline=time.monotonic() + 60)
            assert backend.state("a") == "running"
            backend.pause("a")
            assert backend.state("a") == "paused"
            backend.resume("a")
            backend.kill("a")
            assert ended.wait(20)
            assert exits[0].how == "killed by SIGKILL"
            assert (tmp_path / "a.log").read_text() == "a word"
        finally:
            backend.close()


def test_an_engine_that_wants_another_certificate_is_told_as_not_answering(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
    with pytest.raises(EngineUnavailable, match="no container engine answers"):
        engines.connect()


@pytest.mark.parametrize(
    ("chosen", "current", "said"),
    [
        (None, "other", "unix://{folder}/other.sock"),
        ("third", "other", "unix://{folder}/third.sock"),
        ("default", "other", f"unix://{ENGINE}"),
        ("missing", "other", "DOCKER_CONTEXT=missing: there is no such context"),
        ("other", "third", "unix://{folder}/other.sock"),
    ],
)
def test_the_context_that_is_named_or_else_current_names_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, current: str, said: str
) -> None:
    for name in ("other", "third"):
        (tmp_path / f"{name}.sock").symlink_to(ENGINE)
    if chosen is None:
        monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    else:
        monkeypatch.setenv("DOCKER_CONTEXT", chosen)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    program = (
        "from docker.context import ContextAPI; import sys\n"
        "for name in ('other', 'third'):\n"
        "    ContextAPI.create_context(name, host=f'unix://{sys.argv[1]}/{name}.sock')\n"
        "ContextAPI.set_current_context(sys.argv[2])\n"
        "from harness import errors\nfrom harness.containers import engine\n"
        "try:\n    found = engine.connect(); print(found.url); found.close()\n"
        "except errors.EngineUnavailable as error: print(error)\n"
    )
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text("{}")
    command = [sys.executable, "-c", program, str(tmp_path), current]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(said.format(folder=tmp_path)), done.stdout + done.stderr
