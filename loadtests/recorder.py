"""One row per operation, readable up to the last flush whatever happens to the process.

Rules:
- The hot path appends one tuple to a list. Everything else (columns, Arrow, the disk) happens in a background greenlet.
- The file is an Arrow IPC *stream*, unbuffered, one record batch per flush: after SIGKILL all whole batches can be
  read. A Parquet file cannot, without its footer.
- Times are absolute (CLOCK_MONOTONIC) in memory and relative to the experiment's clock in the file. Rows from before
  the clock is known (the preload's, so at most as many as there are keys and their retries) wait in memory for it.
- A file that exists is never overwritten. A failed write ends the recorder: it never drops rows and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import numpy as np
import pyarrow as pa

from harness.records import OPERATION_COLUMNS, Kind, Outcome, Phase
from loadtests.errors import RecordError

FLUSH_EVERY = 0.2  # s; rows are on disk at most 0.25 s after the operation finished
TIMES = ("intended", "started", "finished")


def _arrow_type(alias: str) -> pa.DataType:
    by_name: Any = pa.type_for_alias  # its stub knows literal names only
    found: pa.DataType = by_name(alias)
    return found


SCHEMA = pa.schema([(column, _arrow_type(alias)) for column, alias in OPERATION_COLUMNS.items()])


class Operation(NamedTuple):
    """What became of one operation: the columns of OPERATION_COLUMNS, in their order. Times are CLOCK_MONOTONIC, s."""

    kind: Kind
    key: str  # hexadecimal
    intended: float
    started: float
    finished: float
    outcome: Outcome
    error: str
    gateway: str
    hops: int
    rpcs: int
    acks: int
    phase: Phase
    worker: str
    version: int
    attempts: int = 1
    site: str = ""

    @property
    def latency(self) -> float:
        """Seconds that a client waited, from the intended start."""
        return self.finished - self.intended


class Recorder:
    """Writes operations to an Arrow IPC stream.

    Raises:
        RecordError: the file exists, or cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[Operation] = []
        self._clock: float | None = None
        self._broken = False
        self.written = 0
        try:
            with path.open("xb"):
                pass
            self._file = pa.OSFile(str(path), "wb")
            self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        except FileExistsError as error:
            raise RecordError(f"{path}: exists already; nothing was overwritten") from error
        except OSError as error:
            raise RecordError(f"{path}: cannot record operations there: {error}") from error
        self.record = self._pending.append  # the hot path

    @property
    def rows(self) -> int:
        """Operations recorded so far, written or not."""
        return self.written + len(self._pending)

    def start_clock(self, clock: float) -> None:
        """Set t = 0 (CLOCK_MONOTONIC, s); from now on rows are written."""
        self._clock = clock

    def flush(self) -> None:
        """Write what is pending, if the clock is known.

        Raises:
            RecordError: the disk is full, or the file cannot be written for another reason.
        """
        if self._clock is None or not self._pending or self._broken:
            return
        rows = self._pending.copy()
        self._pending.clear()
        try:
            self._stream.write_batch(_batch(rows, self._clock))
        except OSError as error:
            self._broken = True
            raise RecordError(f"{self._path}: operations can no longer be written: {error}") from error
        self.written += len(rows)

    def flush_forever(self) -> None:
        """Flush every FLUSH_EVERY seconds; the body of the background greenlet. Raises as `flush` does."""
        while True:
            gevent.sleep(FLUSH_EVERY)
            self.flush()

    def close(self, fallback_clock: float = 0.0) -> None:
        """Write what is left and the end of the stream; if the clock never started, relative to ``fallback_clock``."""
        if self._clock is None:
            self._clock = fallback_clock
        try:
            self.flush()
            if not self._broken:
                self._stream.close()
        except OSError as error:
            raise RecordError(f"{self._path}: operations can no longer be written: {error}") from error
        finally:
            self._file.close()


def _batch(rows: Sequence[Operation], clock: float) -> pa.RecordBatch:
    columns = dict(zip(OPERATION_COLUMNS, zip(*rows, strict=True), strict=True))
    arrays = [_array(columns[name], alias, clock if name in TIMES else 0) for name, alias in OPERATION_COLUMNS.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _array(values: Sequence[Any], alias: str, zero: float) -> pa.Array[Any]:
    """A column from its buffers. `pa.array` would import pandas first: a stall of half a second and 60 MB a worker."""
    if alias == "string":
        lengths, text = _joined(values)
        offsets: Any = np.zeros(len(values) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(text))
    numbers: Any = np.array(values, dtype=alias)
    if zero:
        numbers -= zero
    return pa.Array.from_buffers(_arrow_type(alias), len(values), [None, pa.py_buffer(numbers)])


def _joined(values: Sequence[str]) -> tuple[list[int], bytes]:
    """The lengths of all texts in bytes, and their bytes; encoded at once where a character is a byte, or all are the same."""
    first, count = values[0], len(values)
    if values.count(first) == count:
        text = first.encode()
        return [len(text)] * count, text * count
    joined = "".join(values)
    if joined.isascii():
        return list(map(len, values)), joined.encode()
    encoded = [value.encode() for value in values]
    return list(map(len, encoded)), b"".join(encoded)
