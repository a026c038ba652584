"""Other engines than root's Docker: Podman, and Docker and Podman of a user.

Each engine lives in namespaces of processes, mounts and network of its own, so that nothing of it outlasts its test, and its
bridges are none of this machine: it is an engine elsewhere. The user of the rootless ones is in no file of this machine.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.containers import ability, labels, leftovers
from harness.containers import engine as engines
from harness.containers.engine import Engine
from harness.errors import EngineUnavailable

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

LIMIT = 150.0  # s for one command, with the images that it builds
UID = 23_456
SUBORDINATES = "kadstorm:2000000:65536"
MOST_PROCESSES = 32_768  # what Podman's service allows itself
NODES = "2"
OLD_GROUPS = not Path("/sys/fs/cgroup/cgroup.controllers").exists()  # version 1, of which rootless engines get nothing

# As root in the engine's namespaces: the device by which slirp4netns makes a network, and a user with subordinate ones.
BECOME = f"""\
mkdir -p /dev/net
mount -t tmpfs none /dev/net
mknod /dev/net/tun c 10 200
chmod 666 /dev/net/tun
cp -a /etc "$FOLDER/etc"
echo "kadstorm:x:{UID}:{UID}::$HOME:/bin/sh" >>"$FOLDER/etc/passwd"
echo "{SUBORDINATES}" | tee "$FOLDER/etc/subuid" >"$FOLDER/etc/subgid"
mount --bind "$FOLDER/etc" /etc
setpriv --reuid {UID} --regid {UID} --clear-groups """
# The namespace's first process: one that becomes a user forgets that it is to end with its parent.
STAY = "\nexit"
PODMAN = (
    'podman --root "$FOLDER/root" --runroot "$FOLDER/run" --tmpdir "$FOLDER/tmp" --network-config-dir "$FOLDER/networks" '
    '--cgroup-manager cgroupfs system service --time 0 "unix://$FOLDER/socket"'
)
DOCKERD = (
    'rm -f /run/docker /run/containerd; exec dockerd --rootless --storage-driver overlay2 --data-root "$FOLDER/data" '
    '--exec-root "$FOLDER/exec" --pidfile "$FOLDER/pid" --host "unix://$FOLDER/socket"'
)
DOCKER = (
    "rootlesskit --net slirp4netns --mtu 65520 --copy-up /etc --copy-up /run --disable-host-loopback "
    f"--port-driver builtin --state-dir \"$FOLDER/kit\" sh -ec '{DOCKERD}'"
)


@dataclass(frozen=True)
class Kind:
    """One kind of engine: what is run, and which programs that needs."""

    script: str
    programs: tuple[str, ...]
    rootless: bool = False


USERS = ("newuidmap", "slirp4netns")
KINDS = {
    "podman": Kind("ip link set lo up\nexec " + PODMAN, ("podman", "netavark", "ip")),
    "rootless-podman": Kind(BECOME + PODMAN + STAY, ("podman", "netavark", *USERS), rootless=True),
    "rootless-docker": Kind(BECOME + DOCKER + STAY, ("dockerd", "rootlesskit", *USERS), rootless=True),
}
PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/lib/podman", "/usr/libexec/podman"))


class Other:
    """An engine of its own, in which a session is started with it; ended with ``close``."""

    def __init__(self, name: str, folder: Path) -> None:
        self.kind, self._folder = KINDS[name], folder
        # short, since a socket's path is, and where its user may be
        self._place = Path(tempfile.mkdtemp(prefix="kadstorm-", dir="/tmp"))
        self._groups = groups()
        self._daemon = start(self.kind, self._place)
        try:
            self.engine = answering(f"unix://{self._place}/socket", self._place / "log", self._daemon)
            limits = ("--set", "cluster.limits={memory: 96MiB}") if not self.kind.rootless else ()
            self._up = self._begun("up", "--nodes", NODES, "--backend", "docker", "--set", "cluster.node.k=4", *limits)
        except BaseException:
            self._end()
            raise

    def kadstorm(self, *words: str) -> tuple[int, str]:
        """Run `kadstorm` with this engine; its exit code and what it said."""
        process = self._begun(*words)
        said, _ = process.communicate(timeout=LIMIT)
        return process.returncode, said

    def _begun(self, *words: str) -> subprocess.Popen[str]:
        more = {"KADSTORM_STATE": str(self._folder / "state"), "DOCKER_HOST": self.engine.url}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "harness", *words], cwd=self._folder, env={**os.environ, **more},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def session(self) -> str:
        """The session of two nodes, each held to a limit where that can be, once it is ready."""
        said, _ = self._up.communicate(timeout=LIMIT)
        assert self._up.returncode == 0, said
        return said.split()[-1]

    def close(self) -> None:
        self._up.kill()
        self._up.communicate()
        self.engine.close()
        self._end()

    def _end(self) -> None:
        self._daemon.kill()  # and with it all processes of its namespace
        self._daemon.wait()
        shutil.rmtree(self._place, ignore_errors=True)
        for group in sorted(groups() - self._groups, reverse=True):  # what is in one comes before it
            with suppress(OSError):  # a moment after the last process; an empty one harms nobody
                group.rmdir()


def groups() -> set[Path]:
    """Control groups that Podmans have made: those of the machine know no namespace."""
    parents = [*Path("/sys/fs/cgroup").glob("libpod_parent"), *Path("/sys/fs/cgroup").glob("*/libpod_parent")]
    return {*parents, *(group for parent in parents for group in parent.iterdir() if group.is_dir())}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Other]]:
    """All that can be had here, each already at work on its session: side by side they take half as long."""
    with ExitStack() as stack:
        there: dict[str, Other] = {}
        for name in KINDS:
            if not why_not(name):
                there[name] = Other(name, tmp_path_factory.mktemp(name))
                stack.callback(there[name].close)
        yield there


@pytest.fixture(params=list(KINDS))
def other(request: pytest.FixtureRequest, others: dict[str, Other]) -> Other:
    if why_not(request.param):
        pytest.skip(f"{request.param} is not tried here: {why_not(request.param)}")
    return others[request.param]


def why_not(name: str) -> str:
    """Why a kind cannot be had on this machine; empty if it can."""
    if os.geteuid():
        return "namespaces of its own need root"
    missing = [one for one in (*KINDS[name].programs, "unshare", "setpriv") if not shutil.which(one, path=PLACES)]
    return f"there is no {', '.join(missing)}" if missing else ""


def start(kind: Kind, place: Path) -> subprocess.Popen[bytes]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # What this machine allows: Podman would ask the kernel for its most, for which root in a container may lack the right.
    limits = f'default_ulimits = ["nofile={files}:{files}", "nproc={MOST_PROCESSES}:{MOST_PROCESSES}"]'
    # crun refuses a machine with both versions of control groups
    runtime = 'runtime = "runc"' if shutil.which("runc", path=PLACES) else ""
    (place / "containers.conf").write_text(f"[containers]\n{limits}\n[engine]\n{runtime}\n")
    if kind.rootless:
        os.chown(place, UID, UID)
    environment = {
        "PATH": PLACES, "FOLDER": str(place), "HOME": str(place), "XDG_RUNTIME_DIR": str(place),
        "CONTAINERS_CONF": f"{place}/containers.conf", "STORAGE_DRIVER": "overlay",
    }  # fmt: skip
    space = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (place / "log").open("wb") as log:
        return subprocess.Popen([*space, "sh", "-ec", kind.script], env=environment, stdout=log, stderr=log, cwd=place)


def answering(url: str, log: Path, daemon: subprocess.Popen[bytes]) -> Engine:
    deadline = time.monotonic() + 60
    while True:
        try:
            return engines.connect(url)
        except EngineUnavailable:
            assert daemon.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)


def test_a_session_takes_faults_and_is_cleaned_up_after_a_sigkill(other: Other) -> None:
    def told(*words: str) -> str:
        code, said = other.kadstorm(*words)
        assert code == 0, f"{words}: {said}"
        return said

    session = other.session()
    assert "kill: in effect" in told("inject", "kill", "--nodes", "node-1")
    told("heal", "kill")
    running = other.engine.api.containers(filters={"label": [f"{labels.SESSION}={session}"]})
    assert len(running) == int(NODES) + 2, "nodes, Toxiproxy and the tunnel"
    assert "latency: in effect" in told("inject", "latency", "--latency", "80ms", "--from", "node-0", "--to", "all")
    if "pause" not in ability.lacking(other.engine):
        assert "pause: in effect" in told("inject", "pause", "--nodes", "node-0")
    left = leftovers.find(other.engine)[session]
    os.kill(int(left.labels[labels.OWNER]), signal.SIGKILL)
    if other.kind is KINDS["podman"]:
        beside(other, left.networks[0])
    told("cleanup")
    assert leftovers.find(other.engine) == {}


def beside(other: Other, network: str) -> None:
    """Somebody else's container on the session's network: it is named and left, and Podman itself would not have."""
    api = other.engine.api
    image = next(tag for one in api.images() for tag in one["RepoTags"] or () if "kadstorm-node" in tag)
    command = ["python3", "-c", "import time; time.sleep(100)"]
    host = api.create_host_config(network_mode=api.inspect_network(network)["Name"])
    foreign = api.create_container(image, command, name="foreign", host_config=host)["Id"]
    try:
        api.start(foreign)
        code, said = other.kadstorm("cleanup")
        assert (code, "other containers are on it: foreign" in said) == (3, True), said
        assert api.inspect_container(foreign)["State"]["Running"]
    finally:
        api.remove_container(foreign, force=True)


def test_what_it_cannot_do_is_refused_before_anything_is_started(other: Other, tmp_path: Path) -> None:
    if not (other.kind.rootless and OLD_GROUPS):
        assert "pause" not in ability.lacking(other.engine)
        return  # the test above has frozen a node
    cluster = {"nodes": 3, "backend": "docker", "limits": {"cpus": 0.5, "memory": "64MiB"}}
    timeline = [{"at": "1s", "for": "2s", "pause": {"nodes": 1}}]
    experiment = {"name": "refused", "duration": "5s", "load": {"rate": "10/s"}}
    (tmp_path / "refused.yaml").write_text(json.dumps(experiment | {"cluster": cluster, "timeline": timeline}))
    there = set(leftovers.find(other.engine))
    code, said = other.kadstorm("run", str(tmp_path / "refused.yaml"), "--out", str(tmp_path / "run"))
    assert code == 3, said
    asked = "`cluster.limits.cpus`, `cluster.limits.memory`, the fault `pause`"
    assert f"can do nothing for {asked}: it is rootless" in said
    assert not (tmp_path / "run").exists()
    assert set(leftovers.find(other.engine)) <= there
