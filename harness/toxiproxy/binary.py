"""Finding Toxiproxy's server, or building it, or fetching it. In this order:

1. what was named: ``--toxiproxy PATH`` or ``KADSTORM_TOXIPROXY`` (nothing else is tried then);
2. ``toxiproxy-server`` on the PATH, 2.5 or newer;
3. the cache in the user's cache folder (XDG_CACHE_HOME);
4. built with Go, into the cache (about a minute, once);
5. the release of the project, checked against its published checksums, into the cache.

Two runs that start at once build once: the second waits for the first one's lock. Whatever fails is kept, and told in
the end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from harness.errors import ToxiproxyUnavailable

VERSION = "2.12.0"
OLDEST = (2, 5)
MODULE = "github.com/Shopify/toxiproxy/v2"
RELEASES = f"https://github.com/Shopify/toxiproxy/releases/download/v{VERSION}"
BUILD_LIMIT = 600.0  # s
DOWNLOAD_LIMIT = 30.0  # s a request
PROGRESS_EVERY = 5.0  # s
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

Progress = Callable[[str], None]


def cached() -> Path:
    """Where a built or fetched binary lies."""
    return platformdirs.user_cache_path("kadstorm") / f"toxiproxy-server-{VERSION}"


def find_ready(explicit: str | None) -> Path | None:
    """A binary that is there already, or None. Raises ToxiproxyUnavailable if the one that was named is of no use."""
    if explicit:
        return _named(explicit)
    tried: list[str] = []
    return _on_path(tried) or _in_cache(tried)


def find(explicit: str | None = None, *, progress: Progress = lambda _: None, releases: str = RELEASES) -> Path:
    """A usable binary, made if need be.

    Raises:
        ToxiproxyUnavailable: the text lists all that was tried, and what to do.
    """
    named = explicit or os.environ.get("KADSTORM_TOXIPROXY")
    if named:
        return _named(named)
    tried: list[str] = []
    found = _on_path(tried) or _in_cache(tried)
    if found is None:
        found = _made(tried, progress, releases)
    if found is None:
        raise ToxiproxyUnavailable(_advice(tried))
    return found


def _made(tried: list[str], progress: Progress, releases: str) -> Path | None:
    """A binary built or fetched into the cache, by us or by another run meanwhile."""
    try:
        with _alone(progress):
            return _in_cache(tried) or _built(tried, progress) or _fetched(tried, progress, releases)
    except OSError as error:
        tried.append(
            f"{error.filename or cached().parent}: {error.strerror or error}; the cache must have room and be "
            "writable, or set XDG_CACHE_HOME to another folder"
        )
        return None


def version_of(binary: Path) -> tuple[int, ...] | None:
    """The version that a binary tells, None if it does not run or tells none."""
    try:
        told = subprocess.run([str(binary), "-version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    number = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", told.stdout + told.stderr)
    return None if number is None else tuple(int(part) for part in number.groups() if part is not None)


def _advice(tried: list[str]) -> str:
    lines = "\n".join(f"  - {line}" for line in dict.fromkeys(tried))
    return (
        f"no Toxiproxy server could be had. Tried:\n{lines}\n"
        "What helps, any one of: install Go (https://go.dev/dl) and run again; put toxiproxy-server "
        f"{_dotted(OLDEST)} or newer on the PATH; or name one with --toxiproxy PATH or KADSTORM_TOXIPROXY."
    )


def _named(path: str) -> Path:
    binary = Path(path)
    version = version_of(binary)
    if version is None:
        raise ToxiproxyUnavailable(f"{path}: not a Toxiproxy server that runs here; name the path of toxiproxy-server")
    if version < OLDEST:
        raise ToxiproxyUnavailable(
            f"{path}: Toxiproxy {_dotted(version)} is too old; {_dotted(OLDEST)} or newer is needed"
        )
    return binary.resolve()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _on_path(tried: list[str]) -> Path | None:
    found = shutil.which("toxiproxy-server")
    if found is None:
        tried.append("toxiproxy-server is not on the PATH")
        return None
    version = version_of(Path(found))
    if version is None or version < OLDEST:
        said = "does not run" if version is None else f"is version {_dotted(version)}"
        tried.append(f"{found} {said}; {_dotted(OLDEST)} or newer is needed")
        return None
    return Path(found)


def _in_cache(tried: list[str]) -> Path | None:
    if version_of(cached()) is not None:
        return cached()
    tried.append(f"{cached()} is not there")
    return None


@contextmanager
def _alone(progress: Progress) -> Iterator[None]:
    """Hold the cache's lock, waiting for whoever has it. Raises OSError where there can be no lock."""
    cached().parent.mkdir(parents=True, exist_ok=True)
    with (cached().parent / "toxiproxy.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another run that gets Toxiproxy")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _built(tried: list[str], progress: Progress) -> Path | None:
    go = shutil.which("go")
    if go is None:
        tried.append("Go is not installed, so it cannot be built")
        return None
    with tempfile.TemporaryDirectory(dir=cached().parent) as folder:
        progress(f"building Toxiproxy {VERSION} with Go (about a minute, once)")
        failure = _go_install(go, Path(folder), progress)
        if failure:
            tried.append(f"building it with {go} failed: {failure}")
            return None
        return _into_cache(Path(folder) / "server", tried)


def _go_install(go: str, folder: Path, progress: Progress) -> str:
    """Build into ``folder``; an empty string, or the end of what Go said."""
    flags = f"-s -w -X {MODULE}.Version={VERSION}"
    command = [go, "install", "-ldflags", flags, f"{MODULE}/cmd/server@v{VERSION}"]
    environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
    began = time.monotonic()
    with (folder / "log").open("w+b") as log:
        try:
            builder = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        except OSError as error:
            return f"it cannot be run: {error.strerror}"
        try:
            while (code := _exit_within(builder, PROGRESS_EVERY)) is None:
                spent = time.monotonic() - began
                if spent > BUILD_LIMIT:
                    return f"it took longer than {BUILD_LIMIT:.0f} s"
                progress(f"building Toxiproxy: {spent:.0f} s")
        finally:
            builder.kill()
            builder.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    return "" if code == 0 else " / ".join(said[-3:]) or f"exit code {code}"


def _exit_within(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _fetched(tried: list[str], progress: Progress, releases: str) -> Path | None:
    import requests

    system, machine = platform.system().lower(), ARCHITECTURES.get(platform.machine().lower())
    if system not in ("linux", "darwin") or machine is None:
        tried.append(f"there is no release for {platform.system()} on {platform.machine()}")
        return None
    name = f"toxiproxy-server-{system}-{machine}"
    progress(f"downloading Toxiproxy {VERSION}")
    try:
        checksums = requests.get(f"{releases}/checksums.txt", timeout=DOWNLOAD_LIMIT)
        checksums.raise_for_status()
        content = requests.get(f"{releases}/{name}", timeout=DOWNLOAD_LIMIT)
        content.raise_for_status()
    except requests.RequestException as error:
        tried.append(f"downloading {releases}/{name} failed: {error}")
        return None
    wanted = {line.split()[-1].lstrip("*"): line.split()[0] for line in checksums.text.splitlines() if line.split()}
    if wanted.get(name) != hashlib.sha256(content.content).hexdigest():
        tried.append(f"{releases}/{name} does not have the checksum that {releases}/checksums.txt tells")
        return None
    with tempfile.TemporaryDirectory(dir=cached().parent) as folder:
        binary = Path(folder) / "server"
        binary.write_bytes(content.content)
        return _into_cache(binary, tried)


def _into_cache(binary: Path, tried: list[str]) -> Path | None:
    """Move a new binary into the cache at once, if it runs."""
    if binary.exists():
        binary.chmod(0o755)
    if version_of(binary) is None:
        tried.append("what was built or downloaded does not run here, or tells no version")
        return None
    binary.replace(cached())
    return cached()
