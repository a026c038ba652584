"""One row per operation, into an Arrow IPC stream that stays readable whatever happens to its writer.

The hot path appends to a list. Every FLUSH_EVERY seconds the rows go out as one record batch. Times are monotonic until the
clock's start is known; rows wait for that (they are the preload's, so their number is bounded).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from harness.records import OPERATION_COLUMNS

FLUSH_EVERY = 0.25  # s
SCHEMA = pa.schema([(name, pa.type_for_alias(cast(Any, alias))) for name, alias in OPERATION_COLUMNS.items()])


class Row(NamedTuple):
    """One operation; times are monotonic seconds. The columns are those of `records.OPERATION_COLUMNS`, in order."""

    kind: str
    key: str
    intended: float
    started: float
    finished: float
    outcome: str
    error: str
    gateway: str
    hops: int
    rpcs: int
    acks: int
    phase: str
    worker: str
    version: int


class Recorder:
    """Writes rows to a new file. Raises OSError if that cannot be done."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, SCHEMA)
        self._sink.flush()
        self._rows: list[Row] = []
        self._zero: float | None = None
        self.written = 0

    def add(self, row: Row) -> None:
        """Note an operation; cheap."""
        self._rows.append(row)

    def start_clock(self, zero: float) -> None:
        """From now on rows can be written: their times are relative to the monotonic time ``zero``."""
        self._zero = zero

    def flush(self) -> None:
        """Write what there is, if the clock is known."""
        if not self._rows or self._zero is None:
            return
        rows, self._rows = self._rows, []
        columns = list(zip(*rows, strict=True))
        zero = self._zero
        for index, name in enumerate(OPERATION_COLUMNS):
            if name in ("intended", "started", "finished"):
                columns[index] = tuple(time - zero for time in columns[index])
        arrays = [pa.array(column, type_) for column, type_ in zip(columns, SCHEMA.types, strict=True)]
        self._stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._sink.flush()
        self.written += len(rows)

    def close(self, fallback_zero: float) -> None:
        """Write what is left and end the stream; without a clock, times are relative to ``fallback_zero``."""
        if self._zero is None:
            self._zero = fallback_zero
        self.flush()
        self._stream.close()
        self._sink.close()
