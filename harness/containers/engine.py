"""The container engine: finding one that answers, and its errors as ours. The only file that makes a client.

Looked for in this order: ``DOCKER_HOST`` (with its TLS variables), the context that ``DOCKER_CONTEXT`` names, the command line's
current context, and the sockets of Docker, of rootless Docker, of Docker Desktop and of Podman. The API version is negotiated.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import requests
import tenacity
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig

from harness.errors import EngineFailed, EngineUnavailable

CALL_TIMEOUT = 60.0  # s; a busy engine may take long to start a container
DEFAULT = "default"  # the context that stands for no context
PROBE_TIMEOUT = 5.0  # s to find out whether one answers
CONNECTIONS = 64
BUSY = frozenset((500, 502, 503, 504))  # answers of an engine that may do better the next time
HOPELESS = (
    "address already in use",
    "port is already allocated",
    "no such image",
    "invalid",
    "not supported",
    "denied",
    "already in use by container",
    "overlaps",
)

HOW_TO_GET_ONE = (
    "start one (Docker: `sudo systemctl start docker`; Podman: `systemctl --user start podman.socket`), install one "
    "(https://docs.docker.com/engine/install/), or name it in DOCKER_HOST; or use `--backend process`, which needs none"
)


@dataclass(frozen=True)
class Engine:
    """One engine that answers."""

    api: Any  # docker.APIClient
    url: str
    version: str
    api_version: str
    is_podman: bool = False

    def close(self) -> None:
        """Give its connections back."""
        self.api.close()


def connect(url: str | None = None) -> Engine:
    """The engine that is wanted here, or the one at ``url``, with the TLS settings under which that is known here.

    Raises:
        EngineUnavailable: none answers.
    """
    tried = []
    for where, tls in candidates() if url is None else [(url, _tls_known(url))]:
        try:
            return _connect(where, tls)
        except (DockerException, requests.RequestException, OSError) as error:
            tried.append(f"{where}: {told(error)}")
    raise EngineUnavailable("no container engine answers (" + "; ".join(tried) + "): " + HOW_TO_GET_ONE)


def candidates() -> Iterator[tuple[str, TLSConfig | None]]:
    """Where an engine may be, most wanted first. What the user named is the only one tried."""
    named = os.environ.get("DOCKER_HOST")
    if named:
        yield named, _tls_of_environment()
        return
    chosen = os.environ.get("DOCKER_CONTEXT", "")
    if chosen not in ("", DEFAULT):
        yield _context_named(chosen)
        return
    context = None if chosen else _current_context()
    if context is not None:
        yield context
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    sockets = (
        "/var/run/docker.sock",
        f"{runtime}/docker.sock",
        f"{Path.home()}/.docker/run/docker.sock",
        f"{runtime}/podman/podman.sock",
        "/run/podman/podman.sock",
    )
    there = [path for path in sockets if Path(path).exists()]
    for path in there or sockets[:1]:
        if context is None or context[0] != f"unix://{path}":
            yield f"unix://{path}", None


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Whatever the engine's client raises, as EngineFailed: what was being done, and what it said."""
    try:
        yield
    except APIError as error:
        raise EngineFailed(f"{doing}: the engine said: {error.explanation or error}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineFailed(f"{doing}: the engine does not answer as it should: {told(error)}") from error


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later: lost connections and a busy engine, never a refusal."""
    if isinstance(error, APIError):
        said = str(error.explanation or error).lower()
        return error.status_code in BUSY and not any(text in said for text in HOPELESS)
    return isinstance(error, requests.ConnectionError | requests.Timeout)


retried = tenacity.retry(
    retry=tenacity.retry_if_exception(may_pass),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=3),
    stop=tenacity.stop_after_attempt(4),
    reraise=True,
)
"""Decorator: try a call of the engine again where that is worth it, and only there."""


class _Client(docker.APIClient):  # type: ignore[misc]
    """Trusts the authority that the engine's own settings name, also where REQUESTS_CA_BUNDLE names those of the web."""

    def merge_environment_settings(self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """See `requests.Session`, which would let the environment win over ``self.verify``."""
        return super().merge_environment_settings(url, proxies, stream, self.verify if verify is None else verify, cert)


def _connect(url: str, tls: TLSConfig | None) -> Engine:
    if url.startswith("ssh://"):
        raise EngineUnavailable(
            f"{url}: forward the engine's socket, as in `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock HOST &`, and name "
            "that: DOCKER_HOST=unix:///tmp/engine.sock"
        )
    if url.startswith("unix://"):  # asked first by hand: the client leaks a socket for each one that does not answer
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(PROBE_TIMEOUT)
            knock.connect(url.removeprefix("unix://"))
    api = _Client(base_url=url, tls=tls or False, version="auto", timeout=PROBE_TIMEOUT, max_pool_size=CONNECTIONS)
    try:
        said = api.version()
    except BaseException:
        api.close()
        raise
    api.timeout = CALL_TIMEOUT
    return Engine(api, url, said.get("Version", "?"), said.get("ApiVersion", "?"), _is_podman(said))


def _is_podman(said: Mapping[str, Any]) -> bool:
    """Whether that version is Podman's, which speaks Docker's API and calls itself a component."""
    return any(str(one.get("Name")).startswith("Podman") for one in said.get("Components") or ())


def _tls_known(url: str) -> TLSConfig | None:
    try:
        return next((tls for where, tls in candidates() if where == url), None)
    except EngineUnavailable:  # a context that does not exist says nothing of this address
        return None


def _tls_of_environment() -> TLSConfig | None:
    kwargs = docker.utils.kwargs_from_env()
    return kwargs.get("tls") or None


def _current_context() -> tuple[str, TLSConfig | None] | None:
    """The context that `docker context use` has chosen, if it is not the default one."""
    try:
        from docker.context import ContextAPI

        context = ContextAPI.get_current_context()
    except Exception:  # a damaged configuration of another tool is not ours to report: the sockets are still tried
        return None
    return None if context is None or context.name == DEFAULT else _place_of(context)


def _context_named(name: str) -> tuple[str, TLSConfig | None]:
    """The context that ``DOCKER_CONTEXT`` names. Raises EngineUnavailable if there is none of that name."""
    from docker.context import ContextAPI

    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # whatever is wrong with its files
        raise EngineUnavailable(f"DOCKER_CONTEXT={name}: that context cannot be read: {told(error)}") from error
    if context is None:
        raise EngineUnavailable(
            f"DOCKER_CONTEXT={name}: there is no such context: `docker context ls` lists them; "
            "unset the variable to have Docker's own sockets tried"
        )
    return _place_of(context)


def _place_of(context: Any) -> tuple[str, TLSConfig | None]:
    return str(context.Host).replace("http+unix://", "unix://", 1), context.TLSConfig  # as the client itself spells it


def told(error: BaseException) -> str:
    """What an error of the engine's client says, in a line: the reason, where that is wrapped into others."""
    if isinstance(error, DockerException) and not isinstance(error, APIError) and error.__cause__ is not None:
        return told(error.__cause__)
    reasons = [each for each in (*error.args, getattr(error, "reason", None)) if isinstance(each, BaseException)]
    if reasons:
        words = [each.rstrip(".") for each in error.args if isinstance(each, str) and not hasattr(error, "reason")]
        return ": ".join([*words, told(reasons[-1])])
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
