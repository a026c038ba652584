"""Who may import whom (docs/how-a-run-works.md), what the node's core may know, and how large files may grow."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("harness", "node", "chaos", "loadtests", "reports")
MAY_IMPORT = {
    "node": {"node"},
    "harness": {"harness"},
    "chaos": {"chaos", "harness"},
    "loadtests": {"loadtests", "node", "harness.records"},
    "reports": {"reports", "harness.records", "harness.expectations"},
}
EXCEPTIONS = {  # the composition root, and the one target that knows the node
    "harness.cli": {"reports"},
    "harness.targets.kademlia": {"node"},
}
NODE_CORE = (
    "ids",
    "routing",
    "lookup",
    "storage",
    "wire",
    "peer",
    "search",
    "budget",
    "maintenance",
    "settings",
    "environment",
)
WORLD = {"asyncio", "socket", "time", "random", "threading", "uvloop", "selectors"}
LONGEST = 650  # lines


def folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder(package).rglob("*.py")):
        if not path.name.startswith("test_"):
            inside = path.relative_to(folder(package)).with_suffix("").parts
            yield ".".join([package, *(part for part in inside if part != "__init__")]), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def allowed(name: str, importer: str, package: str) -> bool:
    roots = MAY_IMPORT[package] | EXCEPTIONS.get(importer, set())
    return any(name == root or name.startswith(f"{root}.") for root in roots)


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_import_only_those_that_they_may(package: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in PACKAGES and name != "harness" and not allowed(name, module, package)
    ]
    assert wrong == []


def test_the_nodes_core_gets_its_clock_randomness_and_network_as_arguments() -> None:
    wrong = [
        f"node.{name} imports {imported}"
        for name in NODE_CORE
        for imported in imports(folder("node") / f"{name}.py")
        if imported.split(".")[0] in WORLD and imported not in ("random", "random.Random")
    ]
    assert wrong == []


def test_faults_touch_neither_toxics_nor_processes() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules("chaos")
        for name in imports(path)
        if name.startswith(("harness.toxiproxy", "harness.reconciler", "harness.backends.process", "subprocess", "os"))
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_has_grown_out_of_its_job(package: str) -> None:
    long = {module: len(path.read_text().splitlines()) for module, path in modules(package)}
    assert {module: lines for module, lines in long.items() if lines > LONGEST} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(package: str) -> None:
    silent = [
        module
        for module, path in modules(package)
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []
