"""Churn at three severities, as whole experiments: what is acknowledged is not lost, and lookups go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.alone  # its verdict is judged by what it measures

SEVERITIES = {  # share of the nodes, mean session, mean downtime, lookups that succeed meanwhile at least
    "mild": ("25%", "20s", "1s", 85),
    "rough": ("40%", "10s", "2s", 70),
    "wild": ("60%", "6s", "2s", 50),
}


def experiment(severity: str, seconds: int) -> dict[str, Any]:
    share, session, downtime, least = SEVERITIES[severity]
    churn = {
        "nodes": share,
        "session": {"weibull": {"shape": 0.5, "mean": session}},
        "downtime": {"exponential": {"mean": downtime}},
        "keep_data": True,
    }
    return {
        "name": f"churn-{severity}",
        "seed": 17,
        "cluster": {"nodes": 12, "node": {"k": 6}},
        "network": {"latency": "1ms"},
        "load": {"rate": "40/s", "keys": 60, "timeout": "5s"},
        "duration": f"{seconds + 6}s",
        "settle": "3s",
        "timeline": [{"at": "3s", "for": f"{seconds}s", "churn": churn}],
        "expect": [f"lookup.success >= {least}% during churn", "lost == 0", "wrong == 0"],
    }


@pytest.mark.parametrize("severity", SEVERITIES)
def test_nothing_is_lost_in_a_short_churn(storm: Callable[..., Any], tmp_path: Path, severity: str) -> None:
    path = tmp_path / "churn.yaml"
    path.write_text(json.dumps(experiment(severity, 12)))
    summary = storm(path)
    assert summary["verdict"] == "pass", summary["reasons"]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_nothing_is_lost_in_a_long_churn(storm: Callable[..., Any], tmp_path: Path, severity: str) -> None:
    path = tmp_path / "churn.yaml"
    path.write_text(json.dumps(experiment(severity, 180)))
    summary = storm(path)
    assert summary["verdict"] == "pass", summary["reasons"]
