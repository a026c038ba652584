"""What `kadstorm doctor` finds of the machine, from files that say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import doctor


@pytest.mark.parametrize(
    ("content", "nodes", "told"),
    [("1\n", doctor.MANY + 1, 1), ("1\n", doctor.MANY, 0), ("0\n", 500, 0), (None, 500, 0)],
)
def test_tracked_connections_are_told_where_they_are_felt(
    content: str | None, nodes: int, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bridge-nf-call-iptables"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(doctor, "TRACKING", file)
    found = list(doctor._tracking(nodes))
    assert len(found) == told
    assert all(each.state == "warn" and "sysctl" in each.remedy for each in found)
