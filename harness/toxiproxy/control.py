"""Single calls of Toxiproxy's API, through toxiproxy-python.

Its client keeps the server's address in a class attribute and has no time limit. Here each instance has a consumer of
its own, with an address, a limit and one keep-alive session. Whatever HTTP does is translated into `ToxiproxyFailed` in
this file. The package's `Toxiproxy` class is not used: its methods go to one fixed server, which may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from toxiproxy.api import APIConsumer

from harness.errors import ToxiproxyFailed, ToxiproxySilent

TIMEOUT = 10.0  # s a call


def _consumer(host: str, port: int, timeout: float) -> type[APIConsumer]:
    """The package's consumer, for one server. Its methods are class methods, so one server is one class."""
    session = requests.Session()
    session.trust_env = False  # a proxy in the environment is for the internet, not for a loopback address

    class Consumer(APIConsumer):  # type: ignore[misc]  # the package has no types
        @classmethod
        def get(cls, url: str, params: Any = None, **options: Any) -> requests.Response:
            return cls._call("GET", url, params=params, **options)

        @classmethod
        def post(cls, url: str, data: Any = None, json: Any = None, **options: Any) -> requests.Response:
            return cls._call("POST", url, data=data, json=json, **options)

        @classmethod
        def delete(cls, url: str, **options: Any) -> requests.Response:
            return cls._call("DELETE", url, **options)

        @classmethod
        def _call(cls, method: str, url: str, **options: Any) -> requests.Response:
            response = session.request(method, f"http://{host}:{port}{url}", timeout=timeout, **options)
            response.raise_for_status()
            return response

    Consumer.host, Consumer.port = host, port
    Consumer.session = session
    return Consumer


class ToxiproxyControl:
    """One Toxiproxy server. Methods raise ToxiproxyFailed."""

    def __init__(self, host: str, port: int, *, timeout: float = TIMEOUT) -> None:
        self.host, self.port = host, port
        self._api = _consumer(host, port, timeout)

    def version(self) -> str:
        """The server's version, such as 2.12.0."""
        with self._translated():
            return str(self._api.get("/version").json()["version"])

    def states(self) -> dict[str, dict[str, Any]]:
        """All proxies with their toxics, as the API tells them: name -> {listen, upstream, enabled, toxics}."""
        with self._translated():
            return dict(self._api.get("/proxies").json())

    def populate(self, proxies: list[dict[str, Any]]) -> None:
        """Make all ``proxies`` (name, listen, upstream, enabled) in one request; those that exist stay as they are."""
        with self._translated():
            self._api.post("/populate", json=proxies)

    def close(self) -> None:
        """Close the session."""
        self._api.session.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except requests.HTTPError as error:
            said = "" if error.response is None else error.response.text[:300].strip()
            raise ToxiproxyFailed(f"Toxiproxy refused a request ({error}): {said}") from error
        except requests.Timeout as error:
            raise ToxiproxySilent(
                f"Toxiproxy's API at {self.host}:{self.port} did not answer in time: {error}"
            ) from error
        except (requests.RequestException, ValueError, KeyError) as error:
            raise ToxiproxyFailed(f"Toxiproxy's API at {self.host}:{self.port} failed: {error}") from error
