"""On what a run was made: for the report, so that two runs can be compared with open eyes."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import psutil

PACKAGES = ("kadstorm", "locust", "msgspec", "pandas", "uvloop")


def environment() -> dict[str, Any]:
    """Machine, Python and the packages that matter."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": {name: version(name) for name in PACKAGES},
    }
