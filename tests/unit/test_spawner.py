"""How the end of a process is told."""

from __future__ import annotations

import pytest

from harness.spawner import describe_exit


@pytest.mark.parametrize(("code", "told"), [
    (None, "still running"),
    (0, "exit code 0"),
    (3, "exit code 3"),
    (128, "exit code 128"),
    (-9, "killed by SIGKILL"),
    (128 + 9, "killed by SIGKILL"),  # as a container's init passes it on
    (128 + 64, "killed by SIGRTMAX"),
    (128 + 65, "exit code 193"),
    (255, "exit code 255"),
    (-40, "killed by signal 40"),
])  # fmt: skip
def test_an_exit_code_is_told_as_people_say_it(code: int | None, told: str) -> None:
    assert describe_exit(code) == told
