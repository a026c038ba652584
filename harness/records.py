"""The schemas of a run folder: what is written where, with names, types and units.

Pure: no I/O, no clock. Writers (the journal, the load recorder, the sampler) and readers (`reports/`) meet here and
nowhere else. Times are seconds since the experiment's clock started unless a name says otherwise; before the start they
are negative. Additions are welcome, renames are not: users' tools read these files.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

SCHEMA: Final = 1

EXPERIMENT_FILE: Final = "experiment.yaml"
PLAN_FILE: Final = "plan.json"
EVENTS_FILE: Final = "events.jsonl"
OPERATIONS_FILE: Final = "operations.parquet"
OPERATIONS_DIR: Final = "operations"  # one Arrow IPC stream per worker: <worker>.arrow
NODES_FILE: Final = "nodes.parquet"
NODES_STREAM: Final = "nodes.arrow"  # the same while the run goes on
TABLES_FILE: Final = "tables.parquet"
TABLES_STREAM: Final = "tables.arrow"  # the same while the run goes on
NODE_LOGS_DIR: Final = "nodes"
DATA_DIR: Final = "data"  # one folder per node, if a fault of the plan keeps data over a restart
TOXIPROXY_LOG: Final = "toxiproxy.log"
TUNNEL_LOG: Final = "tunnel.log"
LOAD_LOGS_DIR: Final = "load"  # what each load worker said
SUMMARY_FILE: Final = "summary.json"
JUNIT_FILE: Final = "junit.xml"
MARKDOWN_FILE: Final = "summary.md"
REPORT_FILE: Final = "report.html"

Phase = Literal["preload", "load", "readback"]
Kind = Literal["store", "lookup"]
Outcome = Literal["ok", "not_found", "timeout", "refused", "wrong_value", "error"]
Verdict = Literal["pass", "fail", "unknown"]
RunVerdict = Literal["pass", "fail", "inconclusive", "error", "interrupted"]

# Column name -> Arrow type name (as pyarrow.type_for_alias takes it). One row per operation.
OPERATION_COLUMNS: Final[dict[str, str]] = {
    "kind": "string",  # store | lookup
    "key": "string",  # hexadecimal
    "intended": "float64",  # s; when the operation was due
    "started": "float64",  # s; when the request was sent (null-free: = intended if it never was)
    "finished": "float64",  # s; when its outcome was known
    "outcome": "string",
    "error": "string",  # empty when ok; too_few_acks, shed, connection_lost, …
    "gateway": "string",  # the member that was asked; empty if none
    "hops": "int32",  # as the gateway reports; -1 where unknown
    "rpcs": "int32",
    "acks": "int32",  # stores: holders that acknowledged; -1 where unknown
    "phase": "string",  # load | preload | readback
    "worker": "string",
    "version": "int64",  # version of the value that was stored, or that came back; -1 where none
    "attempts": "int32",  # how often it was sent before its outcome stood; more than one only with `load.retry`
    "site": "string",  # the site that its client is in; empty: beside the gateway
}
# Columns that came later, and what they are in files that were written before.
ADDED_OPERATION_COLUMNS: Final[dict[str, Any]] = {"attempts": 1, "site": ""}

# One row per node and sample.
NODE_COLUMNS: Final[dict[str, str]] = {
    "t": "float64",
    "name": "string",
    "up": "bool",  # false: it did not answer; the other columns are then -1
    "table": "int32",  # contacts in the routing table
    "records": "int32",
    "rpcs_in": "int64",  # since the process started, observers' RPCs left out
    "rpcs_out": "int64",
    "observer_rpcs": "int64",  # those of the harness's own probes
    "timeouts": "int64",
    "bytes_in": "int64",
    "bytes_out": "int64",
    "memory": "int64",  # resident bytes
}

# One row per contact in a node's routing table, at some moments; `t` and `name` as in a row of NODE_COLUMNS.
TABLE_COLUMNS: Final[dict[str, str]] = {
    "t": "float64",
    "name": "string",  # whose table
    "contact": "string",  # who is in it, by the plan's names; a node with an empty table has one row with an empty contact
}


class Event(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One line of the journal.

    ``event`` is one of EVENT_KINDS; ``detail`` holds what only that kind has. ``effective`` is written for `observe`
    and `heal-observed` only, where null means that it cannot be known (the target was down).
    """

    t: float | None  # s since the clock started; null before it is set
    wall: str  # RFC 3339, UTC
    event: str
    name: str = ""  # the timeline entry's label, or a member's name
    fault: str = ""
    action: int | None = None  # index into the plan's actions
    targets: list[str] = []
    asked: dict[str, Any] = {}
    observed: dict[str, Any] = {}
    effective: bool | msgspec.UnsetType | None = msgspec.UNSET
    detail: dict[str, Any] = {}


# event -> what it means. The journal refuses others.
EVENT_KINDS: Final[dict[str, str]] = {
    "session": "the run began; detail: id, versions, environment, seed",
    "phase": "the runner entered a phase; name: boot, ready, preload, load, settle, readback, teardown",
    "ready": "every node knows its closest nodes; detail: seconds, nodes, links",
    "clock": "t = 0 was set",
    "before": "the value before a fault was measured; observed",
    "inject": "an action is about to be dispatched; asked",
    "injected": "it has been applied; detail: lateness_s, skew_s",
    "observe": "its effect was measured; observed, effective",
    "heal": "a fault is about to be taken back",
    "healed": "it has been taken back; detail: lateness_s, skew_s",
    "heal-observed": "the end of its effect was measured; observed, effective (true: it has ended)",
    "skipped": "an action's target was unexpectedly absent",
    "escalated": "a heal went on failing and stronger means were taken; detail: why, means",
    "started": "so many members of the first ones serve; detail: nodes, of",
    "toxiproxy-lost": "Toxiproxy ended or does not answer, and is started again; detail: why",
    "toxiproxy-restarted": "it is back, with the state that is wanted; detail: why, gap_s",
    "member-exit": "a member ended unasked; detail: exit, log",
    "member-up": "a member serves again after a restart; detail: seconds",
    "load": "the load's workers reported; detail: worker, state, counts",
    "worker-exit": "a load worker ended unasked; detail: exit, log",
    "expectation": "fail-fast: an expectation failed during the run",
    "error": "something went wrong and the run could not go on, or went on without it; detail: message",
    "interrupted": "a signal asked the run to end; detail: signal",
    "end": "the run ended; detail: reasons, timings",
}


class PlannedNode(msgspec.Struct):
    """A node that the plan will ever have; joiners too. ``id`` is 40 hexadecimal digits, ``site`` a site's name."""

    name: str
    id: str
    site: str


class Action(msgspec.Struct, kw_only=True):
    """One timed step of the plan: its effects hold in [at_us, until_us), or from at_us on if that is null.

    Microseconds since the clock's start. ``targets`` are site names for link faults and member names for member faults,
    in the order of the plan's nodes; ``options`` holds what the fault needs to compute its effects again, resolved (no
    selectors, no units, no randomness left).
    """

    at_us: int
    until_us: int | None
    fault: str
    name: str  # the timeline entry's label
    entry: int  # index into the experiment's timeline
    targets: list[str]
    options: dict[str, Any] = {}


class Plan(msgspec.Struct, kw_only=True):
    """`plan.json`: all that a run needs; ``experiment`` is the resolved experiment as plain JSON values."""

    schema: int
    seed: int
    experiment: dict[str, Any]
    nodes: list[PlannedNode]
    actions: list[Action]
