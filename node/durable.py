"""Records that survive the process: `MemoryStorage` with every change written through to one SQLite file.

A record is in the file before it is acknowledged. The journal is a write-ahead log, synchronous=NORMAL: what was
acknowledged survives the process being killed at any moment; a power failure may take the last moments. The file is
locked for one process. All records are in memory too: reads never touch the disk.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from node.errors import StorageError
from node.storage import Kept, MemoryStorage
from node.wire import Record

FILE = "records.sqlite"
SCHEMA = """CREATE TABLE IF NOT EXISTS records (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    publisher BLOB NOT NULL,
    expires_at REAL NOT NULL
) WITHOUT ROWID"""


class DurableStorage(MemoryStorage):
    """See `Storage`. ``folder`` is made if it does not exist. Raises StorageError if it cannot be used."""

    def __init__(self, folder: Path, *, wall: float, now: float, republish_pause: float) -> None:
        super().__init__()
        self._file = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._file, timeout=0.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"cannot keep records in {self._file}: {error}") from error
        try:
            self._load(wall=wall, now=now, republish_at=now + republish_pause)
        except sqlite3.Error as error:
            self._database.close()
            raise StorageError(f"cannot keep records in {self._file}: {error}") from error

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def _load(self, *, wall: float, now: float, republish_at: float) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(SCHEMA)
        self._database.execute("DELETE FROM records WHERE expires_at <= ?", (wall,))
        for row in self._database.execute("SELECT key, value, version, publisher, expires_at FROM records").fetchall():
            self._records.keep(Kept(Record(*row), now, republish_at))

    def _write(self, record: Record) -> str:
        row = (record.key, record.value, record.version, record.publisher, record.expires_at)
        try:
            self._database.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", row)
        except (sqlite3.Error, OverflowError) as error:
            return f"cannot be written to {FILE}: {error}"
        return ""

    def _erase(self, keys: list[bytes]) -> None:
        # What a full disk does not let go of has expired, and goes when the file is next opened.
        with suppress(sqlite3.Error):
            self._database.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in keys])
