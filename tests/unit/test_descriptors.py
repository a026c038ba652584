"""How far a process raises its limit on open files, with the kernel's part played here."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import tenacity.nap
from docker.errors import APIError

from harness import descriptors
from harness.containers import ulimits
from harness.containers.engine import Engine
from harness.errors import EngineFailed

ENDLESS = resource.RLIM_INFINITY


class Kernel:
    """getrlimit and setrlimit, of a process that may raise its hard limit or may not."""

    def __init__(self, soft: int, hard: int, *, privileged: bool, nr_open: int) -> None:
        self.limits, self._privileged, self._nr_open = (soft, hard), privileged, nr_open

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        soft, hard = limits
        if hard != self.limits[1] and not self._privileged:
            raise ValueError("not allowed to raise maximum limit")
        if (soft > hard and hard != ENDLESS) or soft > self._nr_open or (hard > self._nr_open and hard != ENDLESS):
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "hard", "needed", "privileged", "then"),
    [
        (1024, 20_000, 1456, False, (20_000, 20_000)),  # any process may go up to its hard limit
        (1024, 20_000, 43_456, False, (20_000, 20_000)),
        (1024, 20_000, 43_456, True, (43_456, 43_456)),  # and root beyond
        (20_000, 20_000, 43_456, True, (43_456, 43_456)),
        (20_000, 20_000, 9_999_999, True, (1_000_000, 1_000_000)),  # as far as the kernel lets anybody
        (20_000, 20_000, 9_999_999, False, (20_000, 20_000)),
        (20_000, 20_000, 500, True, (20_000, 20_000)),  # never down
        (1024, ENDLESS, 43_456, False, (1_000_000, ENDLESS)),
        (2_000_000, 2_000_000, 9_999_999, False, (2_000_000, 2_000_000)),  # nr_open was lowered meanwhile
    ],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(
    soft: int, hard: int, needed: int, privileged: bool, then: tuple[int, int],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "nr_open").write_text("1000000\n")
    kernel = Kernel(soft, hard, privileged=privileged, nr_open=1_000_000)
    monkeypatch.setattr(descriptors, "NR_OPEN", tmp_path / "nr_open")
    monkeypatch.setattr(resource, "getrlimit", kernel.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", kernel.setrlimit)
    assert descriptors.allow(needed) == then[0]
    assert kernel.limits == then
    assert descriptors.allow(needed) == then[0], "again, there is nothing to do"
    assert descriptors.hard() == (1_000_000 if then[1] == ENDLESS else min(then[1], 1_000_000))


def test_a_kernel_that_does_not_tell_its_most_is_taken_by_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "NR_OPEN", tmp_path / "none")
    assert descriptors.most() == descriptors.NR_OPEN_DEFAULT


def test_what_this_process_may_open_it_can_raise_to_its_hard_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 512), before[1]))
    assert descriptors.allow(600) == before[1]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])


class Refuser:
    """An engine's client that starts no container, or all; it notes which it made and has not removed."""

    def __init__(self, said: str) -> None:
        self._said, self.there, self.made = said, set[str](), list[dict[str, Any]]()

    def create_host_config(self, **settings: Any) -> dict[str, Any]:
        return settings

    def create_container(self, image: str, **settings: Any) -> dict[str, str]:
        self.made.append(settings)
        self.there.add(image)
        return {"Id": image}

    def start(self, container: str) -> None:
        if self._said:
            raise failure(self._said)

    def remove_container(self, container: str, *, force: bool) -> None:
        self.there.remove(container)


def failure(said: str) -> APIError:
    response = requests.Response()
    response.status_code = 500
    return APIError("500", response=response, explanation=said)


def test_a_trial_that_ends_while_podman_removes_it_is_removed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda _: None))
    api = Refuser("")
    refusals = [failure("cannot remove container 71f2 as it could not be stopped: container state improper")]
    remove = api.remove_container

    def at_the_second_try(container: str, *, force: bool) -> None:
        if refusals:
            raise refusals.pop()
        remove(container, force=force)

    monkeypatch.setattr(api, "remove_container", at_the_second_try)
    assert ulimits.can_be_set(Engine(api, "unix://", "4", "1", is_podman=True), "image", 100, {})
    assert api.there == set()


def test_podman_is_asked_whether_a_container_can_be_told_its_files() -> None:
    for said, can in (("", True), ("runc: error setting rlimit type 6: operation not permitted", False)):
        api = Refuser(said)
        podman = Engine(api, "unix://", "4", "1", is_podman=True)
        assert ulimits.can_be_set(podman, "image", 100, {}) is can
        assert len(api.made) == 1
        assert api.there == set()
        assert ulimits.can_be_set(Engine(api, "unix://", "20", "1"), "image", 100, {})
        assert len(api.made) == 1, "Docker needs no trial"


def asked(api: Refuser, needed: int) -> int:
    return ulimits.allowed(Engine(api, "unix://", "1", "1"), "image", needed, {"a": "label"})


def test_a_container_is_tried_only_for_more_files_than_we_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "hard", lambda: 20_000)
    monkeypatch.setattr(descriptors, "most", lambda: 100_000)
    api = Refuser("")
    assert (asked(api, 20_000), api.made) == (20_000, [])
    assert asked(api, 43_456) == 43_456
    assert asked(api, 10**9) == 100_000
    assert [one["labels"] for one in api.made] == [{"a": "label"}] * 2, "so that `cleanup` finds one that is left"
    assert api.there == set()


def test_an_engine_that_may_not_raise_the_limit_gives_what_we_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "hard", lambda: 20_000)
    for said in ("error setting rlimit type 7: operation not permitted", "crun: setrlimit `RLIMIT_NOFILE`: …"):
        api = Refuser(said)
        assert asked(api, 43_456) == 20_000
        assert api.there == set()
    api = Refuser("no space left on device")
    with pytest.raises(EngineFailed, match="no space left"):
        asked(api, 43_456)
    assert api.there == set()
