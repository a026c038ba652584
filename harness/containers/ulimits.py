"""How many files a container may have open. What the engine can give depends on privileges that it does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from docker.errors import APIError, NotFound
from docker.types import Ulimit

from harness import descriptors
from harness.containers.engine import Engine, retried, translated

NOTHING = ["python3", "-I", "-S", "-c", ""]


def nofile(files: int) -> Ulimit:
    """The limit as the engine takes it, for a container that may open so many files."""
    return Ulimit(name="nofile", soft=files, hard=files)


def allowed(engine: Engine, image: str, needed: int, labels: Mapping[str, str]) -> int:
    """How many of ``needed`` files a container of ``image`` may have open.

    What this process may open, an engine may give; whether more, is tried with a container that does nothing. It fails to start
    where the engine is rootless, or in a container or virtual machine without CAP_SYS_RESOURCE. Raises EngineFailed.
    """
    wanted = min(needed, descriptors.most())
    if wanted <= descriptors.hard() or _starts(engine, image, wanted, labels):
        return wanted
    return descriptors.hard()


def can_be_set(engine: Engine, image: str, files: int, labels: Mapping[str, str]) -> bool:
    """Whether a container can be told how many files it may open. Raises EngineFailed.

    Docker can be told what it has itself. Podman raises each limit of which it is not told to the kernel's most as soon as it is
    told one, so where it may raise none (see `allowed`) it can be told nothing: such containers get what its settings say.
    """
    return not engine.is_podman or _starts(engine, image, files, labels)


def _starts(engine: Engine, image: str, files: int, labels: Mapping[str, str]) -> bool:
    config = engine.api.create_host_config(ulimits=[nofile(files)], network_mode="none")
    with translated("trying how many files a container may have open"):
        made = engine.api.create_container(image, entrypoint=NOTHING, labels=dict(labels), host_config=config)["Id"]
        try:
            engine.api.start(made)
        except APIError as error:
            if "rlimit" not in str(error.explanation or error).lower():
                raise
            return False
        finally:
            with suppress(NotFound):  # it is about to end by itself, at which Podman may refuse, once
                retried(engine.api.remove_container)(made, force=True)
    return True
