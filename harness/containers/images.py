"""The images of nodes and of Toxiproxy: named by a digest of what went in, so a stale one is never used and a fresh one
never built again.

Two ways to a base: this machine's own Python (`rootfs.py`: no registry, seconds, Linux), or a slim Python image from a
registry. `ensure` takes what is there, in that order, and builds what is missing the first way where it can.
"""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import requests
import urllib3
from docker.errors import DockerException, ImageNotFound

from harness.containers import rootfs
from harness.containers.engine import Engine, translated
from harness.errors import ImageFailed
from harness.targets import ImageRecipe

BASE, TOXIPROXY = "kadstorm-base", "kadstorm-toxiproxy"
REGISTRY_BASE = "python:3.13-slim"
LABEL = "kadstorm.image"
TOXIPROXY_DOCKERFILE = Path(__file__).with_name("toxiproxy.Dockerfile")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OUTPUT_SHOWN = 15  # lines of a failed build
NO_REGISTRY = ("pull access denied", "failed to resolve", "dial tcp", "no such host")

# What a pull or a build may end in; its stream is read past the client, which would translate it.
SILENCES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """References of the images that a session uses."""

    member: str
    toxiproxy: str


def ensure(engine: Engine, recipe: ImageRecipe, toxiproxy: Path, tell: Tell) -> Images:
    """The images of this recipe and this Toxiproxy; what is missing is built.

    Raises:
        ImageFailed: a build failed.
        EngineFailed: the engine refused something else.
    """
    for offline in (True, False):
        wanted = references(engine, recipe, toxiproxy, offline=offline) if not offline or fits(engine) else None
        if wanted and exists(engine, wanted.member) and exists(engine, wanted.toxiproxy):
            return wanted
    return build(engine, recipe, toxiproxy, tell, offline=fits(engine))


def fits(engine: Engine) -> bool:
    """Whether a base of this machine's Python runs on the engine: Linux, and the same architecture."""
    if not rootfs.can_be_made():
        return False
    with translated("asking the engine for its architecture"):
        its = str(engine.api.version().get("Arch", ""))
    return its == ARCHITECTURES.get(platform.machine(), platform.machine())


def build(engine: Engine, recipe: ImageRecipe, toxiproxy: Path, tell: Tell, *, offline: bool) -> Images:
    """Build what is missing and say what is done. See `ensure` for errors."""
    if offline and not fits(engine):
        raise ImageFailed(
            f"an image of this machine's own Python ({platform.system()}, {platform.machine()}) does not run on the engine at "
            f"{engine.url}: `kadstorm images build`, without --offline, makes one from {REGISTRY_BASE}"
        )
    if not offline and not exists(engine, REGISTRY_BASE):
        _pull(engine, REGISTRY_BASE, tell)
    wanted = references(engine, recipe, toxiproxy, offline=offline)
    base = base_reference(engine, recipe, offline=offline)
    if offline and not exists(engine, base):
        tell(f"making {base} of this machine's Python")
        import_base(engine, rootfs.collect(recipe.packages), base)
    if not exists(engine, wanted.member):
        tell(f"building {wanted.member} from {base}")
        build_one(engine, wanted.member, recipe.files, {"BASE": base}, tell)
    if not exists(engine, wanted.toxiproxy):
        tell(f"building {wanted.toxiproxy} from {toxiproxy}")
        build_one(engine, wanted.toxiproxy, toxiproxy_context(toxiproxy), {"BASE": wanted.member}, tell)
    for reference in (wanted.member, wanted.toxiproxy):
        tell(f"{reference}: {size(engine, reference) / 1e6:.0f} MB")
    return wanted


def references(engine: Engine, recipe: ImageRecipe, toxiproxy: Path, *, offline: bool) -> Images:
    """How the images are called that are made of what there is here now."""
    of_member = member_reference(engine, recipe, offline=offline)
    return Images(of_member, f"{TOXIPROXY}:{digest(of_member.partition(':')[2], toxiproxy_context(toxiproxy))}")


def member_reference(engine: Engine, recipe: ImageRecipe, *, offline: bool) -> str:
    """How the image of a member is called that is made of what there is here now."""
    return f"{recipe.name}:{digest(base_reference(engine, recipe, offline=offline), recipe.files)}"


def base_reference(engine: Engine, recipe: ImageRecipe, *, offline: bool) -> str:
    """What members' images are built from: a name that always means the same, but for a base that has not been pulled yet."""
    return _own_base(recipe.packages) if offline else _pinned(engine, REGISTRY_BASE)


def _pinned(engine: Engine, tag: str) -> str:
    """The digest or id that a tag, which may move, stands for in the engine now; the tag itself if that is not there."""
    with translated(f"looking for the image {tag}"):
        try:
            found = engine.api.inspect_image(tag)
        except ImageNotFound:
            return tag
    return next(iter(found.get("RepoDigests") or ()), None) or str(found["Id"])


def _pull(engine: Engine, reference: str, tell: Tell) -> None:
    """Have the engine fetch an image. Raises ImageFailed."""
    tell(f"pulling {reference}")
    repository, _, tag = reference.partition(":")
    output: list[str] = []
    try:
        for line in engine.api.pull(repository, tag=tag, stream=True, decode=True):
            _note(line, output, tell)
    except SILENCES as error:
        output.append(str(error))
    if not exists(engine, reference):
        raise ImageFailed(_failure("pulling", reference, output))


@cache
def _own_base(packages: tuple[str, ...]) -> str:
    """The base of this machine's Python, which stays as it is while this process runs: a look takes a quarter of a second."""
    return f"{BASE}:{rootfs.digest(rootfs.collect(packages))}"


def toxiproxy_context(binary: Path) -> dict[str, bytes]:
    """The files that go into Toxiproxy's image. Raises ImageFailed for a binary that needs libraries."""
    content = binary.read_bytes()
    if content[:4] != b"\x7fELF":
        raise ImageFailed(
            f"{binary} is no program for Linux: set KADSTORM_TOXIPROXY to a static Linux build of toxiproxy-server "
            "(the release files of github.com/Shopify/toxiproxy are)"
        )
    return {"Dockerfile": TOXIPROXY_DOCKERFILE.read_bytes(), "toxiproxy-server": content}


def exists(engine: Engine, reference: str) -> bool:
    """Whether the engine has an image of that name."""
    with translated(f"looking for the image {reference}"):
        try:
            engine.api.inspect_image(reference)
        except ImageNotFound:
            return False
    return True


def tags(engine: Engine) -> list[str]:
    """Names of all images that Kadstorm has built. Raises EngineFailed."""
    with translated("listing images"):
        found = engine.api.images(filters={"label": [LABEL]})
    return sorted(tag for one in found for tag in one["RepoTags"] or [])


def size(engine: Engine, reference: str) -> int:
    """Bytes of an image, all its layers together."""
    with translated(f"looking at the image {reference}"):
        return int(engine.api.inspect_image(reference)["Size"])


def digest(base: str, context: Mapping[str, bytes]) -> str:
    """Twelve hexadecimal digits that stand for a base and a build context (path -> content), whatever their order."""
    made = hashlib.sha256(base.encode())
    for name, content in sorted(context.items()):
        made.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return made.hexdigest()[:12]


def import_base(engine: Engine, files: dict[str, Path], reference: str) -> None:
    """Make an image of these files alone. Raises EngineFailed."""
    with translated(f"importing {reference}"):  # in one word: Podman does not hear of a tag beside it
        engine.api.import_image_from_data(rootfs.archive(files), repository=reference)


def build_one(
    engine: Engine, reference: str, context: Mapping[str, bytes], arguments: dict[str, str], tell: Tell
) -> None:
    """Build an image of a context (path -> content, with a Dockerfile) and build arguments; ``tell`` gets its steps.

    Raises:
        ImageFailed: the build failed; the message has the end of its output.
        EngineFailed: the engine refused something else.
    """
    output: list[str] = []
    try:
        for line in engine.api.build(
            fileobj=io.BytesIO(_tar(context)), custom_context=True, tag=reference, buildargs=arguments,
            labels={LABEL: reference}, rm=True, forcerm=True, decode=True,
        ):  # fmt: skip
            _note(line, output, tell)
    except SILENCES as error:
        raise ImageFailed(f"building {reference}: {error}") from error
    if not exists(engine, reference):
        raise ImageFailed(_failure("building", reference, output))


def _note(line: dict[str, Any], output: list[str], tell: Tell) -> None:
    said = str(line.get("error") or line.get("stream") or line.get("status") or "").rstrip()
    if said:
        output.append(said)
    if said.lower().startswith("step "):  # Podman shouts
        tell(f"  {said}")


def _failure(doing: str, reference: str, output: list[str]) -> str:
    shown = "\n".join(output[-OUTPUT_SHOWN:])
    hint = ""
    if doing == "pulling" or any(sign in shown for sign in NO_REGISTRY):
        hint = "\nThe registry cannot be reached: `kadstorm images build --offline` needs none"
    return f"{doing} {reference} failed; the end of its output:\n{shown}{hint}"


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(rootfs.folders_of(files)):
            rootfs.add_folder(tar, name)
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
