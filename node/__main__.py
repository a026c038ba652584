"""`python -m node`: serve as one node, or ask one something."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import re
import signal
import sys
import time
from ipaddress import IPv4Network, IPv6Network, ip_network
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, NoReturn

from node import ids
from node.environment import Clock
from node.errors import ClientError, ConfigurationError, ListenError, StorageError
from node.maintenance import Maintenance
from node.parent import end_with_parent
from node.peer import Peer
from node.search import CUT_SHORT
from node.settings import DEFAULTS, Settings
from node.storage import MemoryStorage, Storage
from node.transport import POOL, LoopClock, TcpTransport
from node.wire import MOST_CONTACTS, Contact, GetResult, PutResult, Sender

if TYPE_CHECKING:
    from node.client import Client

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
ASK_TIMEOUT = 10.0  # s
AT, CLUSTER = "KADEMLIA_AT", "KADEMLIA_CLUSTER"  # environment variables: an image's health check knows no options
EVERYWHERE = ("", "*", "0.0.0.0", "::", "[::]")  # noqa: S104  refused
CLUSTER_LIMIT = 255  # bytes of a cluster's name: what wire.VALUE_LIMIT leaves room for
MOST_VERSION = 2**63 - 1  # what SQLite takes
UNCERTAIN = 3  # exit code
COLLECT_AFTER = (20_000, 20, 20)  # allocations, and collections of the younger generation

EPILOG = """examples:
  python -m node serve --port 4000
  python -m node serve --port 4001 --bootstrap 127.0.0.1:4000
  python -m node put  --at 127.0.0.1:4000 greeting hello
  python -m node get  --at 127.0.0.1:4001 greeting

When it serves, `serve` prints one line of JSON: {"event": "serving", "id": …, "host": …, "port": …, "pid": …}.
SIGTERM and SIGINT make it leave. Exit codes: 0 it left, or the answer was yes; 1 the address is taken, or the answer
was no; 2 wrong usage; 3 the search was cut short, so that nobody knows.

Of the values that are put under a key the one with the greatest version is kept; `put` gives it the time unless told
otherwise, so that the last one wins. `put` and `get` tell hops, RPCs and timeouts, `get` on standard error.

The dialing rule: with --egress HOST:OFFSET the node dials every other node at HOST and that node's port + OFFSET
instead of its own address. That is how a harness puts a proxy on each of its links."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except ConfigurationError as error:
        return _complain(error, 2)
    except (ListenError, StorageError, ClientError) as error:
        return _complain(error, 1)
    except BrokenPipeError:
        return 1  # whoever read our output has gone


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"node: {error}\n")
    return code


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Is told the terminal's width, to find which it would load shutil, and so three libraries for compression, at each start."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size().columns
        except OSError:  # no terminal
            columns = 80
        super().__init__(prog, width=columns - 2)


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, by an exception, instead of a screen of usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m node",
        description="A minimal Kademlia node.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve as one node until told to leave"))
    for name, run, takes, what in (
        ("put", _put, ("key", "value"), "store a value under the SHA-1 of a key"),
        ("get", _get, ("key",), "print the value under the SHA-1 of a key"),
        ("ping", _ping, (), "see whether a node answers, and how fast"),
        ("inspect", _inspect, (), "print a node's table size, records and counters as JSON"),
    ):
        command = commands.add_parser(name, help=what)
        at = os.environ.get(AT)
        said = f"the node to ask (default: what {AT} says)"
        command.add_argument("--at", type=_address, required=not at, default=at, metavar="HOST:PORT", help=said)
        _add_cluster(command, "the cluster's name")
        for argument in takes:
            command.add_argument(argument)
        if name == "put":
            said = "the greatest one of a key is kept (default: the Unix time in milliseconds)"
            command.add_argument("--version", type=_version, metavar="N", help=said)
        command.set_defaults(run=run)
    return parser


def _add_cluster(command: argparse.ArgumentParser, what: str) -> None:
    name = os.environ.get(CLUSTER) or "kademlia"
    command.add_argument("--cluster", type=_cluster, default=name, help=f"{what} (default: {CLUSTER}, else kademlia)")


def _add_serve(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    add(
        "--host", type=_host, default="127.0.0.1", help="address to advertise, which others dial (default: %(default)s)"
    )
    add("--port", type=_port, required=True, help="port to listen on and to advertise")
    add("--listen", default="", metavar="ADDRESS", help="listen there; 0.0.0.0 is everywhere (default: at --host)")
    _add_cluster(serve, "frames of other clusters are refused")
    add("--id", type=_identifier, help="40 hexadecimal digits (default: drawn at random)")
    add(
        "--bootstrap",
        type=_address,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a node to join through; repeatable",
    )
    add("--egress", type=_egress, metavar="HOST:OFFSET", help="the dialing rule, see below")
    add(
        "--accept-from",
        type=_network,
        action="append",
        default=[],
        metavar="CIDR",
        help="take connections from there only; repeatable (default: from everywhere)",
    )
    add(
        "--k",
        type=_bucket_size,
        default=DEFAULTS.k,
        help="size of a bucket, holders of a record (default: %(default)s)",
    )
    add(
        "--alpha",
        type=_positive,
        default=DEFAULTS.alpha,
        help="queries in flight in a lookup (default: %(default)s)",
    )
    add(
        "--beta",
        type=_positive,
        default=DEFAULTS.beta,
        help="closest that must answer first (default: %(default)s)",
    )
    add("--republish", type=_duration, default=DEFAULTS.republish, metavar="TIME", help="default: 1h")
    add("--refresh", type=_duration, default=DEFAULTS.refresh, metavar="TIME", help="of buckets, default: 1h")
    add(
        "--expire",
        type=_duration,
        default=DEFAULTS.expire,
        metavar="TIME",
        help="life of a record, default: 24h",
    )
    add(
        "--rpc-timeout",
        type=_duration,
        default=DEFAULTS.rpc_timeout,
        metavar="TIME",
        help="until a contact's round-trip time is known, default: 500ms",
    )
    add(
        "--cache",
        type=_life,
        default=DEFAULTS.cache,
        metavar="TIME",
        help="most life of a copy on a lookup's path, or off; default: 1m",
    )
    add("--paths", type=_positive, default=DEFAULTS.paths, help="disjoint paths of a lookup (default: %(default)s)")
    add(
        "--subnet-bucket",
        type=_count,
        default=DEFAULTS.subnet_bucket,
        metavar="N",
        help="most contacts of one public subnet in a bucket, 0 for any number (default: %(default)s)",
    )
    add(
        "--subnet-table",
        type=_count,
        default=DEFAULTS.subnet_table,
        metavar="N",
        help="the same in the whole table (default: %(default)s)",
    )
    add(
        "--connections",
        type=_positive,
        default=POOL,
        help="outgoing connections to keep (default: %(default)s)",
    )
    add("--data-dir", metavar="DIR", help="keep the records there, in SQLite (default: in memory only)")
    add("--seed", type=int, help="of this node's random choices (default: from the system)")
    add("--exit-with-parent", action="store_true", help="end when the parent process or standard input ends")
    add("--parent-pid", type=_positive, metavar="PID", help="the parent, to notice one that has ended already")
    add("--log-level", choices=("debug", "info", "warning"), default="info", help="default: %(default)s")
    add("--log-format", choices=("text", "json"), default="text", help="json: an object a line (default: %(default)s)")
    serve.set_defaults(run=_serve)


# --- options ------------------------------------------------------------------------------------


def _duration(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"a time above zero with its unit (250ms, 10s, 2m, 1h), not {text!r}")
    return float(found[1]) * SECONDS[found[2]]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


def _bucket_size(text: str) -> int:
    size = _positive(text)
    if size > MOST_CONTACTS:
        raise argparse.ArgumentTypeError(
            f"at most {MOST_CONTACTS}, as many contacts as an answer may carry, not {text}"
        )
    return size


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0 on, not {text!r}")
    return int(text)


def _version(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_VERSION:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to {MOST_VERSION}, not {text!r}")
    return int(text)


def _life(text: str) -> float:
    return 0.0 if text == "off" else _duration(text)


def _cluster(text: str) -> str:
    if not 0 < len(text.encode(errors="replace")) <= CLUSTER_LIMIT or not text.isprintable():  # it is in every frame
        raise argparse.ArgumentTypeError(f"a name of 1 to {CLUSTER_LIMIT} bytes that can be printed, not {text[:40]!r}")
    return text


def _host(text: str) -> str:
    if text in EVERYWHERE:
        raise argparse.ArgumentTypeError(
            f"an address that other nodes can dial, not {text!r}; --listen 0.0.0.0 listens everywhere"
        )
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"a port from 1 to 65535, not {text!r}")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):  # as URLs write an IPv6 address
        host = host[1:-1]
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"HOST:PORT, not {text!r}")
    return host, _port(port)


def _egress(text: str) -> tuple[str, int]:
    host, colon, offset = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"-?\d+", offset):
        raise argparse.ArgumentTypeError(f"HOST:OFFSET, not {text!r}")
    return host, int(offset)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a network such as 10.1.0.0/16 or 10.1.0.2/32: {error}") from error


def _identifier(text: str) -> bytes:
    try:
        return ids.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"40 hexadecimal digits: {error}") from error


# --- serve --------------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.exit_with_parent:
        end_with_parent(arguments.parent_pid)
    _log_to_stderr(arguments.log_level, arguments.log_format)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve_until_told(arguments))
    else:
        uvloop.run(_serve_until_told(arguments))
    return 0


class JsonFormatter(logging.Formatter):
    """One object a line: time (Unix seconds), level, event, and what else was said of it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 6), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "said", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        said = "".join(f" {name}={value}" for name, value in getattr(record, "said", {}).items())
        return super().format(record) + said


def _log_to_stderr(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _log(event: str, **said: object) -> None:
    logging.info(event, extra={"said": said})


def collect_rarely() -> None:
    """Have the garbage collector look less often, and never at what is there already: there are hardly any cycles.

    A fifth of the CPU time of a lookup, measured in a process of many nodes.
    """
    gc.collect()  # what the command line's parser left: frozen, its place would never be used again
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def _serve_until_told(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    rng = Random(arguments.seed)
    contact = Contact(arguments.id or ids.random_id(rng), arguments.host, arguments.port)
    # drawn from the system, whatever the seed: a node that starts again with the same seed is in another life
    transport = TcpTransport(
        Sender(contact, 1 + SystemRandom().getrandbits(62)),
        arguments.cluster,
        arguments.egress,
        listen_at=arguments.listen,
        connections=arguments.connections,
    )
    transport.admitted = tuple(arguments.accept_from)
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__struct_fields__})
    clock = LoopClock(loop)
    storage = _storage(arguments.data_dir, clock, settings)
    peer = Peer(contact, settings, clock=clock, rng=rng, transport=transport, storage=storage)
    peer.memory = resident_bytes
    transport.handler = peer.handle
    collect_rarely()
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    await transport.listen()
    maintenance = Maintenance(peer, arguments.bootstrap)
    maintenance.start()
    _say(
        {
            "event": "serving",
            "id": contact.id.hex(),
            "host": contact.host,
            "port": contact.port,
            "pid": os.getpid(),
        }
    )
    _log("serving", id=contact.id.hex(), host=contact.host, port=contact.port, loop=type(loop).__module__)
    await leave.wait()
    _log("leaving", records=len(peer.storage), contacts=peer.table.alive())
    handed_over = asyncio.Event()
    maintenance.leave(handed_over.set)
    await handed_over.wait()
    _log("left", **peer.counters())
    await transport.close()
    storage.close()


def _storage(folder: str | None, clock: Clock, settings: Settings) -> Storage:
    if folder is None:
        return MemoryStorage()
    from pathlib import Path

    from node.durable import DurableStorage  # most nodes need no SQLite, and start faster without

    return DurableStorage(Path(folder), wall=clock.wall(), now=clock.monotonic(), republish_pause=settings.republish)


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the platform does not say."""
    try:
        with open("/proc/self/statm") as statm:  # noqa: PTH123  pathlib is slow to import, and this is all that needs it
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


# --- one-shot clients ---------------------------------------------------------------------------


def _client(arguments: argparse.Namespace) -> Client:
    from node.client import Client  # a node that serves asks nobody by it

    host, port = arguments.at
    return Client(host, port, arguments.cluster)


def _ping(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    client.ping(timeout=ASK_TIMEOUT)  # the first one connects as well
    before = time.monotonic()
    client.ping(timeout=ASK_TIMEOUT)
    client.close()
    _say({"round_trip_ms": round(1000 * (time.monotonic() - before), 3)})
    return 0


def _put(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    key, value = ids.key_of(os.fsencode(arguments.key)), os.fsencode(arguments.value)
    version = time.time_ns() // 1_000_000 if arguments.version is None else arguments.version
    result = client.put(key, value, version=version, timeout=ASK_TIMEOUT)
    client.close()
    _say({"version": version, "acks": result.acks, "newer": result.newer, "holds": result.holds} | _cost(result))
    if result.error:
        sys.stderr.write(f"node: {result.error}\n")
    if result.newer or not result.acks:
        return UNCERTAIN if result.error.startswith(CUT_SHORT) else 1
    return 0


def _get(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    result = client.get(ids.key_of(os.fsencode(arguments.key)), timeout=ASK_TIMEOUT)
    client.close()
    if result.found:
        sys.stdout.buffer.write(result.value + b"\n")
        sys.stdout.flush()
        sys.stderr.write(json.dumps({"version": result.version} | _cost(result)) + "\n")
        return 0
    why = result.error or f"nothing is stored under {arguments.key!r}"
    sys.stderr.write(f"node: {why} {json.dumps(_cost(result))}\n")
    return UNCERTAIN if result.error else 1


def _cost(result: PutResult | GetResult) -> dict[str, object]:
    return {"hops": result.hops, "rpcs": result.rpcs, "timeouts": result.timeouts}


def _inspect(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    seen = client.inspect(timeout=ASK_TIMEOUT)
    client.close()
    _say(
        {
            "id": seen.contact.id.hex(),
            "contacts": seen.table_size,
            "records": seen.records_count,
            "memory": seen.memory,
            "counters": seen.counters,
        }
    )
    return 0


if __name__ == "__main__":
    gc.freeze()  # what was imported stays: to look through that for garbage would take as long as a twentieth of the imports
    gc.enable()  # it was off while a container's first process imported all that
    sys.exit(main())
