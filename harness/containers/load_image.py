"""The image of Locust's masters and workers, with Kadstorm's users in it: made of this machine's own Python, without a registry.

    docker run --rm --network host --user "$(id -u)" -v "$PWD/rows:/rows" kadstorm-load:… --worker -H … --operations /rows

Its entry point is ``locust -f locustfile.py``. Rows go to a folder of the host, mounted into the container, as the stream that
they are everywhere (loadtests/recorder.py): what a container that was killed had written stays readable. ``harness/`` has but one
module in it, the records' schema.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.containers import images, rootfs
from harness.containers.engine import Engine
from harness.errors import ImageFailed

NAME, BASE = "kadstorm-load", "kadstorm-load-base"
NEEDS = ("locust", "pyarrow", "numpy", "msgspec", "tenacity")
HOME = "/opt/kadstorm"
DOCKERFILE = f"""\
ARG BASE
FROM ${{BASE}}
COPY code {HOME}
ENV PYTHONPATH={HOME}:/{rootfs.PACKAGES_DIR} PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /tmp
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-P", "-m", "locust", "-f", "{HOME}/loadtests/locustfile.py"]
"""


def ensure(engine: Engine, tell: Callable[[str], None]) -> str:
    """The image's reference; it is built if it is not there.

    Raises:
        ImageFailed: this machine's Python does not fit the engine, a package is missing, or the build failed.
        EngineFailed: the engine refused something else.
    """
    if not images.fits(engine):
        raise ImageFailed(
            f"{NAME} is made of this machine's own Python, which does not run on the engine: start Locust's workers on "
            "machines of the engine's kind, as docs/load.md says"
        )
    files = rootfs.collect(requirements(NEEDS), whole=True)
    base = f"{BASE}:{rootfs.digest(files)}"
    context = {"Dockerfile": DOCKERFILE.encode()} | code()
    reference = f"{NAME}:{images.digest(base, context)}"
    if images.exists(engine, reference):
        return reference
    if not images.exists(engine, base):
        tell(f"making {base} of this machine's Python, Locust and Arrow")
        images.import_base(engine, files, base)
    tell(f"building {reference}")
    images.build_one(engine, reference, context, {"BASE": base}, tell)
    tell(f"{reference}: {images.size(engine, reference) / 1e6:.0f} MB")
    return reference


def code() -> dict[str, bytes]:
    """What is Kadstorm's own in it: path in the build's context -> content."""
    folders = {name: _folder(name) for name in ("loadtests", "node", "harness")}
    found = {
        f"code/{name}/{path.name}": path.read_bytes()
        for name in ("loadtests", "node")
        for path in sorted(folders[name].iterdir())
        if path.suffix in (".py", ".js")
    }
    found["code/harness/__init__.py"] = b""
    found["code/harness/records.py"] = (folders["harness"] / "records.py").read_bytes()
    return found


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def requirements(names: tuple[str, ...]) -> tuple[str, ...]:
    """These distributions and all that they require here. Raises ImageFailed if one is not installed."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = None
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise ImageFailed(f"the package {name} is not installed here, and the image needs it") from error
        parsed = [Requirement(text) for text in required]
        waiting += [each.name for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return tuple(sorted(found))
