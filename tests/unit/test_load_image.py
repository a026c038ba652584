"""What goes into the image of Locust's masters and workers."""

from __future__ import annotations

import ast

import pytest

from harness.containers import load_image
from harness.errors import ImageFailed

OURS = ("harness", "node", "loadtests", "chaos", "reports")


def test_every_module_of_ours_that_is_imported_in_it_is_in_it() -> None:
    code = {path: content for path, content in load_image.code().items() if path.endswith(".py")}
    assert "code/loadtests/locustfile.py" in code
    for path, content in code.items():
        for module in _imported(content):
            place = f"code/{module.replace('.', '/')}"
            assert f"{place}.py" in code or f"{place}/__init__.py" in code, f"{path} imports {module}"


def _imported(content: bytes) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {module for module in found if module.split(".")[0] in OURS}


def test_what_a_package_requires_here_comes_with_it() -> None:
    found = load_image.requirements(load_image.NEEDS)
    assert {"locust", "gevent", "greenlet", "msgpack", "pyarrow", "numpy"} <= set(found)


def test_a_package_that_is_not_here_is_named() -> None:
    with pytest.raises(ImageFailed, match="the package no-such-thing is not installed here"):
        load_image.requirements(("no-such-thing",))
