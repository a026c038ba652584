"""Samples every node's counters while a run goes on: `nodes.arrow`, an Arrow stream that a crash leaves readable."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

from harness.cluster import Cluster
from harness.events import Events
from harness.records import NODE_COLUMNS

PERIOD = 1.0  # s between two samples, longer for large clusters: PERIOD_PER_NODE
PERIOD_PER_NODE = 0.02


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
        self._schema = pa.schema([(name, pa.type_for_alias(cast(Any, alias))) for name, alias in NODE_COLUMNS.items()])

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def close(self) -> None:
        """Take no further samples; returns when the file is closed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample_until_closed(self) -> None:
        pa, schema = self._arrow, self._schema
        period = max(PERIOD, PERIOD_PER_NODE * len(self._cluster.addresses))
        try:
            with pa.OSFile(str(self._path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
                while not self._stop.is_set():
                    began = time.monotonic()
                    stream.write_batch(pa.RecordBatch.from_pylist(self._rows(), schema=schema))
                    sink.flush()
                    self._stop.wait(max(0.0, period - (time.monotonic() - began)))
        except OSError as error:
            self._events.emit("error", detail={"message": f"{self._path}: no more samples of nodes: {error}"})

    def _rows(self) -> list[dict[str, Any]]:
        samples = self._cluster.samples()
        now = self._events.now() or 0.0
        self.alive = sum(sample is not None for sample in samples.values())
        silent = dict.fromkeys(NODE_COLUMNS, -1)
        return [
            {**(sample or silent), "t": now, "name": name, "up": sample is not None} for name, sample in samples.items()
        ]
