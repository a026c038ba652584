"""Samples every node while a run goes on: its counters in `nodes.arrow`, now and then its routing table in `tables.arrow`.

Both are Arrow streams that a crash leaves readable. Tables are looked at with every sample of small clusters, and more
rarely the larger the cluster is: they have a row per contact. Nodes are asked one after another, so that the asking makes no
bursts of its own: all rows of a sample, and of a look at the tables, bear the time at which it began.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

from harness.cluster import Cluster, Pace
from harness.events import Events
from harness.records import NODE_COLUMNS, TABLE_COLUMNS, TABLES_STREAM

PERIOD = 1.0  # s between two samples, longer for large clusters: PERIOD_PER_NODE
PERIOD_PER_NODE = 0.02
SPREAD = 0.45  # of the period, over which nodes are asked for their counters; and again for their tables
TABLES_PER_NODE = 0.05  # s between two looks at all tables, per node


class Sampler:
    """A thread that asks all nodes for their counters once a period, from the clock's start until `close`."""

    def __init__(self, cluster: Cluster, events: Events, path: Path) -> None:
        self._cluster = cluster
        self._events = events
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_closed, name="kadstorm-sampler", daemon=True)
        self.alive: int = 0
        import pyarrow as pa  # a third of a second: here, before the clock starts, and not where errors are told

        self._arrow = pa
        self._schema = self._schema_of(NODE_COLUMNS)
        self._tables_schema = self._schema_of(TABLE_COLUMNS)
        self._names = {address.id: name for name, address in cluster.addresses.items()}
        self._tables_due = 0.0  # CLOCK_MONOTONIC

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def close(self) -> None:
        """Take no further samples; returns when the file is closed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample_until_closed(self) -> None:
        pa = self._arrow
        period = max(PERIOD, PERIOD_PER_NODE * len(self._cluster.addresses))
        pace = Pace(SPREAD * period, self._stop.wait)
        tables = self._path.with_name(TABLES_STREAM)
        try:
            with (
                pa.OSFile(str(self._path), "wb") as sink,
                pa.ipc.new_stream(sink, self._schema) as stream,
                pa.OSFile(str(tables), "wb") as tables_sink,
                pa.ipc.new_stream(tables_sink, self._tables_schema) as tables_stream,
            ):
                while not self._stop.is_set():
                    began = time.monotonic()
                    stream.write_batch(pa.RecordBatch.from_pylist(self._rows(pace), schema=self._schema))
                    sink.flush()
                    if began >= self._tables_due:
                        self._tables_due = began + TABLES_PER_NODE * len(self._names)
                        batch = pa.RecordBatch.from_pylist(self._table_rows(pace), schema=self._tables_schema)
                        tables_stream.write_batch(batch)
                        tables_sink.flush()
                    self._stop.wait(max(0.0, period - (time.monotonic() - began)))
        except OSError as error:
            self._events.emit("error", detail={"message": f"{self._path}: no more samples of nodes: {error}"})

    def _rows(self, pace: Pace) -> list[dict[str, Any]]:
        now = self._events.now() or 0.0
        samples = self._cluster.samples(pace)
        self.alive = sum(sample is not None for sample in samples.values())
        silent = dict.fromkeys(NODE_COLUMNS, -1)
        return [
            {**(sample or silent), "t": now, "name": name, "up": sample is not None} for name, sample in samples.items()
        ]

    def _table_rows(self, pace: Pace) -> list[dict[str, Any]]:
        now = self._events.now() or 0.0
        known = {name: ids for name, ids in self._cluster.tables(pace).items() if ids is not None}
        return [
            {"t": now, "name": name, "contact": contact}
            for name, ids in known.items()
            for contact in sorted(self._names[id_] for id_ in ids if id_ in self._names) or [""]
        ]

    def _schema_of(self, columns: dict[str, str]) -> Any:
        pa = self._arrow
        return pa.schema([(name, pa.type_for_alias(cast(Any, alias))) for name, alias in columns.items()])
