"""The core of the node knows no loop, no socket and no clock; and its command line tells mistakes in one line."""

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import node
from node.__main__ import JsonFormatter, _address, main
from node.client import Client
from node.wire import GetResult, Put, PutResult

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
        (["serve", "--port", "1", "--k", "1025"], "at most 1024, as many contacts as an answer may carry, not 1025"),
        (
            ["serve", "--port", "1", "--host", "0.0.0.0"],
            "an address that other nodes can dial, not '0.0.0.0'; --listen",
        ),
        (["serve", "--port", "1", "--cluster", ""], "a name of 1 to 255 bytes that can be printed, not ''"),
        (["serve", "--port", "1", "--cluster", "ö" * 128], "a name of 1 to 255 bytes"),
        (["ping", "--at", "h:1", "--cluster", "\udcff"], "a name of 1 to 255 bytes that can be printed, not '\\udcff'"),
        (["get", "--at", "h:1"], "key"),
        (["put", "--at", "h:1", "k", "v", "--version", "-1"], "a whole number from 0 to 9223372036854775807, not '-1'"),
        (["dance"], "'dance'"),
    ],
    ids=[
        "nothing",
        "no-port",
        "port",
        "id",
        "bootstrap",
        "egress",
        "duration",
        "k",
        "great-k",
        "host-that-is-everywhere",
        "no-cluster",
        "long-cluster",
        "cluster-that-is-no-text",
        "no-key",
        "version",
        "unknown",
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err


@pytest.mark.parametrize(
    ("text", "host"), [("h:4000", "h"), ("127.0.0.1:4000", "127.0.0.1"), ("::1:4000", "::1"), ("[::1]:4000", "::1")]
)
def test_an_ipv6_address_may_be_written_as_in_urls(text: str, host: str) -> None:
    assert _address(text) == (host, 4000)


def test_a_node_collects_garbage_though_its_start_in_a_container_did_not() -> None:
    program = (
        "import atexit, gc, runpy, sys; gc.disable(); sys.argv = ['node', '--help']; "
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 1000)); "
        "runpy.run_module('node', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "True True"


def test_a_node_that_serves_has_loaded_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys; from node.__main__ import _parser; _parser().parse_args(['serve', '--port', '4000']); "
        "print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    )
    unneeded = ("shutil", "bz2", "lzma", "secrets", "sqlite3", "node.client", "node.durable", "node.virtual", "uvloop")
    command = [sys.executable, "-P", "-c", program, *unneeded]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_error_is_one_object_a_line_too() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        said = logging.LogRecord("node", logging.ERROR, "", 1, "it failed", None, sys.exc_info())
    line = JsonFormatter().format(said)
    assert "\n" not in line
    assert json.loads(line)["event"] == "it failed"
    assert json.loads(line)["error"].endswith("ValueError: two\nlines")


PUT, GET = ["put", "--at", "h:1", "k", "v"], ["get", "--at", "h:1", "k"]


@pytest.mark.parametrize(
    ("arguments", "answer", "code", "said"),
    [
        (PUT, PutResult(4, True, 1, 9, 0), 0, ""),
        (PUT, PutResult(4, True, 1, 9, 0, "the search was cut short: x"), 0, "node: the search was cut short: x\n"),
        (PUT, PutResult(0, False, 1, 9, 2, "the search was cut short: x"), 3, "node: the search was cut short: x\n"),
        (PUT, PutResult(0, False, 1, 9, 0, "no node keeps it"), 1, "node: no node keeps it\n"),
        (PUT, PutResult(1, False, 1, 9, 0, "a newer one is kept", 3), 1, "node: a newer one is kept\n"),
        (GET, GetResult(True, b"v", 5, 1, 3, 0), 0, '{"version": 5, "hops": 1, "rpcs": 3, "timeouts": 0}\n'),
        (GET, GetResult(False, b"", -1, 1, 3, 0), 1, "node: nothing is stored under 'k' {"),
        (
            GET,
            GetResult(False, b"", -1, 1, 3, 2, "the search was cut short: x"),
            3,
            "node: the search was cut short: x {",
        ),
    ],
)
def test_put_and_get_tell_how_it_went_and_whether_that_is_certain(
    arguments: list[str],
    answer: PutResult | GetResult,
    code: int,
    said: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Client, "_ask", lambda *_: answer)
    assert main(arguments) == code
    told = capfd.readouterr()
    assert told.err == said or (said.endswith("{") and told.err.startswith(said))
    if isinstance(answer, PutResult):
        line = json.loads(told.out)
        assert (line["acks"], line["newer"], line["holds"]) == (answer.acks, answer.newer, answer.holds)
        assert (line["hops"], line["rpcs"], line["timeouts"]) == (answer.hops, answer.rpcs, answer.timeouts)
    else:
        assert told.out == "v\n" * answer.found


def test_of_two_puts_the_later_has_the_greater_version_unless_it_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Put] = []

    def ask(_: Client, message: Put, *__: object) -> PutResult:
        asked.append(message)
        return PutResult(1, True, 0, 0, 0)

    monkeypatch.setattr(Client, "_ask", ask)
    for moment in (1_700_000_000.0, 1_700_000_000.5):
        monkeypatch.setattr("node.__main__.time.time_ns", lambda moment=moment: int(moment * 1e9))
        main(PUT)
    main([*PUT, "--version", "7"])
    assert [message.version for message in asked] == [1_700_000_000_000, 1_700_000_000_500, 7]
