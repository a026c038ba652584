"""Where Toxiproxy comes from: every branch, with scripts for Go and Toxiproxy and a web server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import platform
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from harness.errors import ToxiproxyUnavailable
from harness.toxiproxy import binary

NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def server_of(version: str) -> str:
    """The script of a Toxiproxy that tells its version."""
    return f'echo "toxiproxy-server version {version}"'


@dataclass
class Machine:
    """An empty machine: a PATH and a cache of its own."""

    bin: Path
    cache: Path
    said: list[str] = field(default_factory=list)

    def find(self, explicit: str | None = None, *, releases: str = NOWHERE) -> Path:
        return binary.find(explicit, progress=self.said.append, releases=releases)

    def go(self, body: str) -> Path:
        """A Go that notes how it is called, then does ``body`` with $GOBIN set."""
        return script(
            self.bin / "go", f'echo "$@" >> {self.bin}/go.calls; echo "$CGO_ENABLED" >> {self.bin}/cgo\n{body}'
        )

    def go_calls(self) -> list[str]:
        calls = self.bin / "go.calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "bin", tmp_path / "cache" / "kadstorm")
    found.bin.mkdir()
    for tool in ("chmod", "sleep"):  # what the scripts need; nothing else of this machine is on the PATH
        (found.bin / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(found.bin))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KADSTORM_TOXIPROXY", raising=False)
    return found


BUILDS = f'printf \'#!/bin/sh\\n{server_of(binary.VERSION)}\\n\' > "$GOBIN/server"; chmod +x "$GOBIN/server"'


# --- named, PATH, cache ----------------------------------------------------------------------------------------------


def test_what_is_named_is_taken_before_all_else(machine: Machine, tmp_path: Path) -> None:
    script(machine.bin / "toxiproxy-server", server_of("2.12.0"))
    named = script(tmp_path / "mine", server_of("2.9.0"))
    assert machine.find(str(named)) == named


def test_the_variable_names_one_too(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = script(tmp_path / "mine", server_of("2.9.0"))
    monkeypatch.setenv("KADSTORM_TOXIPROXY", str(named))
    assert machine.find() == named


@pytest.mark.parametrize(
    ("body", "complaint"),
    [("exit 3", "not a Toxiproxy server that runs here"), (server_of("2.4.0"), r"2\.4\.0 is too old; 2\.5 or newer")],
)
def test_a_named_one_of_no_use_is_an_error_and_no_other_is_taken(
    machine: Machine, tmp_path: Path, body: str, complaint: str
) -> None:
    script(machine.bin / "toxiproxy-server", server_of("2.12.0"))
    named = script(tmp_path / "mine", body)
    with pytest.raises(ToxiproxyUnavailable, match=f"{named}.*{complaint}"):
        machine.find(str(named))


def test_a_named_one_that_is_not_there_is_an_error(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(ToxiproxyUnavailable, match=r"absent: not a Toxiproxy server"):
        machine.find(str(tmp_path / "absent"))


@pytest.mark.parametrize("version", ["2.5.0", "2.12.0", "3.0.1"])
def test_one_on_the_path_that_is_new_enough_is_taken(machine: Machine, version: str) -> None:
    found = script(machine.bin / "toxiproxy-server", server_of(version))
    assert machine.find() == found
    assert not machine.cache.exists()


def test_one_on_the_path_that_is_too_old_is_passed_over(machine: Machine) -> None:
    script(machine.bin / "toxiproxy-server", server_of("2.4.0"))
    machine.go(BUILDS)
    assert machine.find() == binary.cached()


def test_the_cache_is_taken_before_anything_is_built(machine: Machine) -> None:
    machine.go(BUILDS)
    script(binary.cached(), server_of("2.12.0"))
    assert machine.find() == binary.cached()
    assert machine.go_calls() == []


def test_a_broken_file_in_the_cache_is_made_anew(machine: Machine) -> None:
    script(binary.cached(), "exit 1")
    machine.go(BUILDS)
    assert binary.version_of(machine.find()) == (2, 12, 0)


def test_looking_without_making_finds_what_is_there_and_makes_nothing(machine: Machine) -> None:
    machine.go(BUILDS)
    assert binary.find_ready(None) is None
    script(binary.cached(), server_of("2.12.0"))
    assert binary.find_ready(None) == binary.cached()
    assert machine.go_calls() == []


# --- built -----------------------------------------------------------------------------------------------------------


def test_go_builds_a_static_server_of_our_version_into_the_cache(machine: Machine) -> None:
    machine.go(BUILDS)
    found = machine.find()
    assert found == binary.cached()
    assert found.is_relative_to(machine.cache)
    assert found.stat().st_mode & stat.S_IXUSR
    (call,) = machine.go_calls()
    assert call.endswith("github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0")
    assert "-X github.com/Shopify/toxiproxy/v2.Version=2.12.0" in call
    assert (machine.bin / "cgo").read_text() == "0\n"


def test_the_second_search_finds_what_the_first_one_built(machine: Machine) -> None:
    machine.go(BUILDS)
    assert machine.find() == machine.find()
    assert len(machine.go_calls()) == 1


def test_a_build_leaves_nothing_but_the_binary_and_the_lock(machine: Machine) -> None:
    machine.go(BUILDS)
    machine.find()
    assert sorted(path.name for path in machine.cache.iterdir()) == [binary.cached().name, "toxiproxy.lock"]


def test_two_searches_at_once_build_once(machine: Machine) -> None:
    gate = machine.bin / "gate"
    os.mkfifo(gate)
    machine.go(f"read go < {gate}; {BUILDS}")
    found: list[Path] = []
    waiting = threading.Event()

    def note(line: str) -> None:
        if line.startswith("waiting"):
            waiting.set()

    threads = [
        threading.Thread(target=lambda: found.append(binary.find(progress=note, releases=NOWHERE)), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert waiting.wait(10)
    gate.write_text("go\n")
    for thread in threads:
        thread.join(10)
    assert found == [binary.cached()] * 2
    assert len(machine.go_calls()) == 1


def test_a_build_says_that_it_goes_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "PROGRESS_EVERY", 0.02)
    gate = machine.bin / "gate"
    os.mkfifo(gate)
    machine.go(f"read go < {gate}; {BUILDS}")
    said: list[str] = []
    opened = threading.Event()

    def note(line: str) -> None:
        said.append(line)
        if len(said) == 3 and not opened.is_set():
            opened.set()
            gate.write_text("go\n")

    binary.find(progress=note, releases=NOWHERE)
    assert said[0].startswith("building Toxiproxy 2.12.0 with Go")
    assert said[1].startswith("building Toxiproxy: ")


def test_a_build_that_takes_too_long_is_ended(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "PROGRESS_EVERY", 0.02)
    monkeypatch.setattr(binary, "BUILD_LIMIT", 0.1)
    machine.go(f"echo $$ > {machine.bin}/pid; exec sleep 60")
    with pytest.raises(ToxiproxyUnavailable, match="longer than"):
        machine.find()
    with pytest.raises(ProcessLookupError):
        os.kill(int((machine.bin / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo first >&2; echo no route to proxy.golang.org >&2; exit 1", "first / no route to proxy.golang.org"),
        ("exit 7", "exit code 7"),
        ("exit 0", "does not run here"),
        ('printf "#!/bin/sh\\nexit 1\\n" > "$GOBIN/server"', "does not run here"),
    ],
)
def test_a_build_that_fails_is_told_with_what_go_said(machine: Machine, body: str, said: str) -> None:
    machine.go(body)
    with pytest.raises(ToxiproxyUnavailable, match=said):
        machine.find()
    assert not binary.cached().exists()


def test_a_go_that_cannot_be_run_is_a_failure_like_others(machine: Machine) -> None:
    machine.go("")
    (machine.bin / "go").write_bytes(b"\x7fELF not for this machine")
    with pytest.raises(ToxiproxyUnavailable, match="go failed: it cannot be run"):
        machine.find()


# --- downloaded ------------------------------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@dataclass
class Releases:
    """A release page with one binary for this machine."""

    url: str
    folder: Path

    def publish(self, content: bytes, *, checksum: str | None = None) -> None:
        digest = checksum or hashlib.sha256(content).hexdigest()
        names = [
            f"toxiproxy-server-{system}-{machine}" for system in ("linux", "darwin") for machine in ("amd64", "arm64")
        ]
        for name in names:
            (self.folder / name).write_bytes(content)
        (self.folder / "checksums.txt").write_text("".join(f"{digest}  {name}\n" for name in names))


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Releases]:
    folder = tmp_path / "releases"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.01))
        thread.start()
        yield Releases(f"http://127.0.0.1:{server.server_address[1]}", folder)
        server.shutdown()
        thread.join()


RELEASE = f"#!/bin/sh\n{server_of('2.12.0')}\n".encode()


def test_without_go_the_release_is_downloaded_into_the_cache(machine: Machine, releases: Releases) -> None:
    releases.publish(RELEASE)
    assert machine.find(releases=releases.url) == binary.cached()
    assert binary.cached().read_bytes() == RELEASE
    assert machine.said == ["downloading Toxiproxy 2.12.0"]


def test_after_a_failed_build_the_release_is_downloaded(machine: Machine, releases: Releases) -> None:
    machine.go("exit 1")
    releases.publish(RELEASE)
    assert machine.find(releases=releases.url) == binary.cached()


def test_a_download_with_another_checksum_is_thrown_away(machine: Machine, releases: Releases) -> None:
    releases.publish(RELEASE, checksum="0" * 64)
    with pytest.raises(ToxiproxyUnavailable, match=r"does not have the checksum that .*checksums\.txt tells"):
        machine.find(releases=releases.url)
    assert not binary.cached().exists()


def test_a_download_without_a_published_checksum_is_thrown_away(machine: Machine, releases: Releases) -> None:
    releases.publish(RELEASE)
    (releases.folder / "checksums.txt").write_text("\n")
    with pytest.raises(ToxiproxyUnavailable, match="does not have the checksum"):
        machine.find(releases=releases.url)
    assert not binary.cached().exists()


def test_a_release_that_is_not_there_is_told_with_its_address(machine: Machine, releases: Releases) -> None:
    with pytest.raises(ToxiproxyUnavailable, match=rf"downloading {releases.url}/toxiproxy-server-.* failed: 404"):
        machine.find(releases=releases.url)


def test_a_release_that_does_not_run_here_never_reaches_the_cache(machine: Machine, releases: Releases) -> None:
    releases.publish(b"\x7fELF for another machine")
    with pytest.raises(ToxiproxyUnavailable, match="does not run here"):
        machine.find(releases=releases.url)
    assert not binary.cached().exists()


@pytest.mark.parametrize(
    ("system", "machine_name", "file"),
    [
        ("Linux", "x86_64", "toxiproxy-server-linux-amd64"),
        ("Linux", "aarch64", "toxiproxy-server-linux-arm64"),
        ("Darwin", "arm64", "toxiproxy-server-darwin-arm64"),
    ],
)
def test_each_platform_has_its_own_file(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, system: str, machine_name: str, file: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine_name)
    with pytest.raises(ToxiproxyUnavailable, match=f"downloading {NOWHERE}/{file} failed"):
        machine.find()


def test_a_platform_without_a_release_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ToxiproxyUnavailable, match=r"no release for \w+ on riscv64"):
        machine.find()


# --- nothing helped --------------------------------------------------------------------------------------------------


def test_the_error_lists_all_that_was_tried_once_and_what_to_do(machine: Machine) -> None:
    script(machine.bin / "toxiproxy-server", server_of("2.1.4"))
    with pytest.raises(ToxiproxyUnavailable) as caught:
        machine.find()
    text = str(caught.value)
    told = [line for line in text.splitlines() if line.startswith("  - ")]
    for line, part in zip(
        told, ("is version 2.1.4", "is not there", "Go is not installed", "downloading"), strict=True
    ):
        assert part in line
    for remedy in ("install Go", "on the PATH", "--toxiproxy PATH", "KADSTORM_TOXIPROXY"):
        assert remedy in text


def unwritable(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder should be")


def full(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "toxiproxy.lock").symlink_to("/dev/full/none")


@pytest.mark.parametrize("spoil", [unwritable, full])
def test_a_cache_that_cannot_be_written_is_one_more_thing_that_was_tried(
    machine: Machine, spoil: Callable[[Path], None]
) -> None:
    machine.go(BUILDS)
    spoil(machine.cache)
    with pytest.raises(ToxiproxyUnavailable, match="XDG_CACHE_HOME") as caught:
        machine.find()
    assert "is not on the PATH" in str(caught.value)
