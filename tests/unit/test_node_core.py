"""The core of the node knows no loop, no socket and no clock; and its command line tells mistakes in one line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import node
from node.__main__ import main

FOLDER = Path(next(iter(node.__path__)))
PURE = ("ids", "routing", "lookup", "wire", "errors", "settings", "environment", "storage", "peer", "maintenance")
WORLDLY = {"asyncio", "socket", "time", "select", "threading", "uvloop", "os", "secrets"}


def imported(module: str) -> set[str]:
    """The top-level names of what a module of node/ imports, and the modules of node/ in full."""
    found: set[str] = set()
    for statement in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.add(statement.module if statement.module.startswith("node") else statement.module.partition(".")[0])
    return found


@pytest.mark.parametrize("module", PURE)
def test_the_core_imports_no_loop_socket_or_clock(module: str) -> None:
    assert not imported(module) & WORLDLY
    assert not {
        name
        for name in imported(module)
        if name in ("node.transport", "node.connections", "node.client", "node.durable")
    }


@pytest.mark.parametrize("module", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_the_node_imports_nothing_of_the_other_folders(module: str) -> None:
    assert not imported(module) & {"harness", "chaos", "loadtests", "reports"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["serve"], "--port"),
        (["serve", "--port", "70000"], "a port from 1 to 65535, not '70000'"),
        (["serve", "--port", "1", "--id", "beef"], "40 hexadecimal digits"),
        (["serve", "--port", "1", "--bootstrap", "nowhere"], "HOST:PORT, not 'nowhere'"),
        (["serve", "--port", "1", "--egress", "h:x"], "HOST:OFFSET, not 'h:x'"),
        (["serve", "--port", "1", "--republish", "60"], "with its unit (250ms, 10s, 2m, 1h), not '60'"),
        (["serve", "--port", "1", "--k", "0"], "a whole number from 1 on, not '0'"),
        (["get", "--at", "h:1"], "key"),
        (["dance"], "'dance'"),
    ],
    ids=["nothing", "no-port", "port", "id", "bootstrap", "egress", "duration", "k", "no-key", "unknown"],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err


def test_a_node_that_serves_has_loaded_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys; from node.__main__ import _parser; _parser().parse_args(['serve', '--port', '4000']); "
        "print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    )
    unneeded = ("shutil", "bz2", "lzma", "secrets", "sqlite3", "node.client", "node.durable", "node.virtual", "uvloop")
    command = [sys.executable, "-P", "-c", program, *unneeded]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
