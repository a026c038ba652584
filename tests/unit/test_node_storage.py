"""The store: newest wins, expiry is absolute, quotas hold; in memory and in a file alike."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.durable import FILE, DurableStorage
from node.errors import StorageError
from node.storage import LIFE_SHARE, OUTDONE, PUBLISHER_SHARE, Kept, MemoryStorage, Storage, _Share, held, recency
from node.wire import Record

KEY, A, B = b"k" * 20, b"a" * 20, b"b" * 20


def record(
    value: bytes = b"v", version: int = 0, publisher: bytes = A, expires_at: float = 100.0, key: bytes = KEY
) -> Record:
    return Record(key, value, version, publisher, expires_at)


def durable(folder: Path, wall: float = 0.0) -> DurableStorage:
    return DurableStorage(folder, wall=wall, now=0.0, republish_pause=3600.0)


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    kept: Storage = MemoryStorage() if request.param == "memory" else durable(tmp_path)
    yield kept
    kept.close()


def put(storage: Storage, new: Record, *, wall: float = 0.0, republish_at: float = 9.0) -> str:
    return storage.put(new, wall=wall, now=0.0, republish_at=republish_at)


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        (record(version=1), record(b"new", version=2), b"new"),
        (record(version=2), record(b"old", version=1), b"v"),
        (record(publisher=A), record(b"b's", publisher=B), b"b's"),
        (record(publisher=B), record(b"a's", publisher=A), b"v"),
    ],
    ids=["newer", "older", "greater-publisher", "smaller-publisher"],
)
def test_the_newest_version_and_publisher_wins_and_what_loses_is_not_acknowledged(
    storage: Storage, first: Record, second: Record, wins: bytes
) -> None:
    assert put(storage, first) == ""
    assert put(storage, second) == ("" if wins == second.value else OUTDONE)
    found = storage.get(KEY, wall=0.0)
    assert found is not None
    assert found.value == wins


def test_of_one_version_the_one_that_was_put_later_wins(storage: Storage) -> None:
    put(storage, record(expires_at=30.0))
    assert put(storage, record(b"later", expires_at=3600.0)) == ""
    assert put(storage, record(b"late", expires_at=30.0)) == OUTDONE
    storage.expire(wall=60.0)
    found = storage.get(KEY, wall=60.0)
    assert found is not None
    assert found.value == b"later"


def test_the_same_value_of_one_version_is_acknowledged_whoever_publishes_it(storage: Storage) -> None:
    put(storage, record(version=1, publisher=B, expires_at=100.0))
    assert put(storage, record(version=1, publisher=A, expires_at=130.0)) == "", "a client that tried another gateway"
    assert put(storage, record(version=1, publisher=A, expires_at=1000.0)) == OUTDONE, "what is kept ends long before"
    assert [kept.record.publisher for kept in storage.kept()] == [B]


def test_what_has_expired_keeps_nothing_out(storage: Storage) -> None:
    put(storage, record(version=2, expires_at=10.0))
    assert put(storage, record(b"new", version=1, expires_at=30.0), wall=11.0) == ""
    storage.expire(wall=12.0)
    assert storage.get(KEY, wall=12.0) is not None


@pytest.mark.parametrize("expires_at", [math.nan, math.inf, -math.inf])
def test_what_would_never_expire_is_refused(storage: Storage, expires_at: float) -> None:
    assert "expired, or never would" in put(storage, record(expires_at=expires_at))
    assert len(storage) == 0


def test_a_record_is_not_given_out_after_its_expiry(storage: Storage) -> None:
    put(storage, record(expires_at=10.0))
    assert storage.get(KEY, wall=9.9) is not None
    assert storage.get(KEY, wall=10.0) is None
    assert storage.expire(wall=10.0) == 1
    assert len(storage) == 0


def test_republishing_neither_prolongs_a_life_nor_repeats_the_work(storage: Storage) -> None:
    put(storage, record(expires_at=10.0), republish_at=1.0)
    put(storage, record(expires_at=10.0), wall=5.0, republish_at=2.0)
    assert held(storage)[0].expires_at == 10.0
    assert [kept.republish_at for kept in storage.kept()] == [2.0]


@pytest.mark.parametrize(
    ("other", "cached"),
    [(record(version=1), False), (record(version=2, publisher=b"\0" * 20), False), (record(version=2), True)],
    ids=["an-older-version", "another-publisher", "a-copy"],
)
def test_only_the_record_itself_puts_its_republication_off(storage: Storage, other: Record, cached: bool) -> None:
    put(storage, record(version=2), republish_at=1.0)
    storage.put(other, wall=0.0, now=0.0, republish_at=2.0, cached=cached)
    assert [kept.republish_at for kept in storage.kept()] == [1.0]


def test_what_has_expired_is_refused(storage: Storage) -> None:
    assert "expired" in put(storage, record(expires_at=5.0), wall=5.0)
    assert len(storage) == 0


def test_a_full_store_refuses_and_drops_nothing() -> None:
    storage = MemoryStorage(most_records=2, most_bytes=20)
    assert put(storage, record(b"12345", publisher=A)) == ""
    assert put(storage, record(b"12345", publisher=B, key=B)) == ""
    assert "store is full" in put(storage, record(key=A))
    assert "full" in put(storage, record(b"12345678901", version=1))
    assert put(storage, record(b"1234567890", version=1)) == "", "a new version takes the place of the old one"
    found = storage.get(KEY, wall=0.0)
    assert found is not None
    assert found.value == b"1234567890"
    assert (len(storage), storage.size) == (2, 15)


def test_no_publisher_fills_a_store_alone() -> None:
    storage = MemoryStorage(most_records=4, most_bytes=1000)
    for n in range(2):
        assert put(storage, record(key=bytes([n]) * 20, publisher=A)) == ""
    assert "this publisher's share" in put(storage, record(key=KEY, publisher=A))
    assert put(storage, record(key=KEY, publisher=B)) == ""
    storage.expire(wall=100.0)
    assert (len(storage), storage.size) == (0, 0)
    assert put(storage, record(key=KEY, publisher=A, expires_at=200.0), wall=100.0) == "", "what expired counts no more"


def test_a_cached_copy_gives_way_to_the_record_and_never_the_other_way(storage: Storage) -> None:
    full, copy = record(version=1, expires_at=90.0), record(version=1, expires_at=5.0)
    assert storage.put(copy, wall=0.0, now=0.0, republish_at=9.0, cached=True) == ""
    assert [kept.cached for kept in storage.kept()] == [True]
    put(storage, full)
    assert [(kept.cached, kept.record) for kept in storage.kept()] == [(False, full)]
    newer = record(b"new", version=2, expires_at=5.0)
    storage.put(newer, wall=0.0, now=0.0, republish_at=9.0, cached=True)
    assert [kept.record for kept in storage.kept()] == [full], "it would leave nothing behind when it ends"


def test_nothing_is_acknowledged_because_of_a_copy(storage: Storage) -> None:
    copy = record(b"copy", version=5, expires_at=5.0)
    storage.put(copy, wall=0.0, now=0.0, republish_at=9.0, cached=True)
    assert put(storage, record(b"old", version=1)) == ""
    assert storage.get(KEY, wall=0.0) == copy, "it is newer than the record, as long as it lives"
    assert [kept.record.value for kept in storage.kept() if not kept.cached] == [b"old"]
    assert storage.expire(wall=6.0) == 1
    found = storage.get(KEY, wall=6.0)
    assert found is not None
    assert found.value == b"old"
    storage.put(record(b"copy", version=6, expires_at=9.0), wall=6.0, now=0.0, republish_at=9.0, cached=True)
    put(storage, record(b"new", version=6), wall=6.0)
    assert [kept.record.value for kept in storage.kept()] == [b"new"]


def test_the_end_of_a_copy_takes_no_record_out_of_the_file(tmp_path: Path) -> None:
    first = durable(tmp_path)
    first.put(record(b"copy", version=5, expires_at=5.0), wall=0.0, now=0.0, republish_at=9.0, cached=True)
    put(first, record(b"old", version=1))
    first.expire(wall=6.0)
    first.close()
    second = durable(tmp_path, wall=6.0)
    assert [kept.record.value for kept in second.kept()] == [b"old"]
    second.close()


def test_copies_go_first_when_a_store_is_full() -> None:
    storage = MemoryStorage(most_records=4, most_bytes=1000)
    for n in range(4):
        copy = record(b"12345", key=bytes([n]) * 20, publisher=(A, B)[n % 2])
        assert storage.put(copy, wall=0.0, now=0.0, republish_at=9.0, cached=True) == ""
    full = storage.put(record(key=KEY), wall=0.0, now=0.0, republish_at=9.0, cached=True)
    assert "store is full" in full, "a copy pushes nothing out"
    for n in range(4, 6):
        assert put(storage, record(b"1", key=bytes([n]) * 20, publisher=A)) == ""
        assert put(storage, record(b"1", key=bytes([n + 9]) * 20, publisher=B)) == ""
    assert [kept.cached for kept in storage.kept()] == [False] * 4
    assert (len(storage), storage.size) == (4, 4)
    assert "store is full" in put(storage, record(key=KEY, publisher=b"c" * 20))


def test_a_cached_copy_is_not_saved(tmp_path: Path) -> None:
    first = durable(tmp_path)
    first.put(record(), wall=0.0, now=0.0, republish_at=9.0, cached=True)
    first.close()
    second = durable(tmp_path)
    assert len(second) == 0
    second.close()


def test_records_in_a_file_survive_without_a_clean_end(tmp_path: Path) -> None:
    first = durable(tmp_path)
    put(first, record(b"kept"))
    put(first, record(b"gone", key=B, expires_at=5.0))
    copy = tmp_path / "copy"  # what a killed process leaves: the file and its log, never closed
    copy.mkdir()
    for part in tmp_path.glob(FILE + "*"):
        (copy / part.name).write_bytes(part.read_bytes())
    second = durable(copy, wall=6.0)
    assert [kept.record for kept in second.kept()] == [record(b"kept")]
    first.close()
    second.close()


def test_expired_records_leave_the_file_too(tmp_path: Path) -> None:
    first = durable(tmp_path)
    put(first, record(expires_at=5.0))
    first.expire(wall=5.0)
    first.close()
    second = durable(tmp_path)
    assert len(second) == 0
    second.close()


def test_what_cannot_be_written_is_not_acknowledged_and_takes_nothing_away(tmp_path: Path) -> None:
    storage = durable(tmp_path)
    assert put(storage, record(b"old", version=1)) == ""
    assert f"cannot be written to {FILE}" in put(storage, record(version=2**64 - 1)), "SQLite's numbers end before"
    storage._database.execute("PRAGMA max_page_count = 1")  # as a full disk does: no more than there is
    assert "disk is full" in put(storage, record(bytes(10**6), version=2))
    assert storage.get(KEY, wall=0.0) == record(b"old", version=1)
    storage.close()
    again = durable(tmp_path)
    assert again.get(KEY, wall=0.0) == record(b"old", version=1)
    again.close()


def test_two_nodes_do_not_share_a_folder(tmp_path: Path) -> None:
    first = durable(tmp_path)
    put(first, record())
    with pytest.raises(StorageError, match="locked"):
        durable(tmp_path)
    first.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*records\.sqlite"):
        durable(tmp_path / "file")


MOST = 6, 30  # records, and bytes of values
KEYS = [bytes([n]) * 20 for n in range(8)]


class Model:
    """What a store should do, a rule a method, and nothing of how it does it."""

    def __init__(self) -> None:
        self.records: dict[bytes, Kept] = {}
        self.copies: dict[bytes, Kept] = {}  # the one that came last is last

    def put(self, new: Kept, wall: float) -> bool:
        """Whether it is acknowledged."""
        if new.record.expires_at <= wall:
            return False
        return self.put_copy(new, wall) if new.cached else self.put_record(new, wall)

    def put_record(self, new: Kept, wall: float) -> bool:
        """Only what is newer takes a place; what is the same puts the turn to republish off."""
        key, old = new.record.key, alive(self.records, new.record.key, wall)
        if old is not None and recency(new.record) <= recency(old.record):
            if recency(new.record) == recency(old.record):
                old.republish_at = new.republish_at
            return self.stands_for(old.record, new.record, wall)
        if not self.fits(new, self.records, [*self.records.values()]):
            return False
        self.records[key] = new
        if key in self.copies and recency(self.copies[key].record)[:2] <= recency(new.record)[:2]:
            del self.copies[key]
        while self.copies and not self.within_quota([*self.records.values(), *self.copies.values()]):
            self.copies.popitem()
        return True

    def put_copy(self, new: Kept, wall: float) -> bool:
        """A copy never takes the place of a record, and pushes nothing out."""
        key = new.record.key
        lasting, old = alive(self.records, key, wall), alive(self.copies, key, wall)
        if lasting is not None:
            return recency(lasting.record)[:2] == recency(new.record)[:2]
        if old is not None and recency(new.record) <= recency(old.record):
            return self.stands_for(old.record, new.record, wall)
        if not self.fits(new, self.copies, [*self.records.values(), *self.copies.values()]):
            return False
        self.copies.pop(key, None)
        self.copies[key] = new
        return True

    def stands_for(self, kept: Record, wanted: Record, wall: float) -> bool:
        """The same value under the same version, with at least half the life."""
        lives = kept.expires_at - wall >= LIFE_SHARE * (wanted.expires_at - wall)
        return lives and (kept.version, kept.value) == (wanted.version, wanted.value)

    def fits(self, new: Kept, among: dict[bytes, Kept], counted: list[Kept]) -> bool:
        """Whether what there would be with it, of all and of its publisher, is within the quota or no more than before."""
        before = [kept.record for kept in counted]
        replaced = among.get(new.record.key)
        after = [kept.record for kept in counted if kept is not replaced] + [new.record]

        def within(then: list[Record], now: list[Record], share: float) -> bool:
            amounts = [(len(each), sum(len(record.value) for record in each)) for each in (then, now)]
            return all(b <= a or b <= share * most for a, b, most in zip(*amounts, MOST, strict=True))

        def own(records: list[Record]) -> list[Record]:
            return [record for record in records if record.publisher == new.record.publisher]

        return within(before, after, 1.0) and within(own(before), own(after), PUBLISHER_SHARE)

    def within_quota(self, counted: list[Kept]) -> bool:
        """Whether all of these fit."""
        return len(counted) <= MOST[0] and sum(len(kept.record.value) for kept in counted) <= MOST[1]

    def get(self, key: bytes, wall: float) -> Record | None:
        """The newest that lives, be it a copy."""
        there = [kept.record for where in (self.records, self.copies) if (kept := alive(where, key, wall)) is not None]
        return max(there, key=recency, default=None)

    def all(self) -> list[Kept]:
        return [*self.records.values(), *self.copies.values()]

    def expire(self, wall: float) -> int:
        """How many are dropped."""
        before = len(self.all())
        for where in (self.records, self.copies):
            for key in [key for key in where if alive(where, key, wall) is None]:
                del where[key]
        return before - len(self.all())

    def reopen(self, wall: float, republish_at: float) -> None:
        """Records that live are there after a restart, copies are not; all take their turn later."""
        self.copies.clear()
        self.expire(wall)
        self.records = {key: Kept(kept.record, 0.0, republish_at) for key, kept in self.records.items()}


def alive(where: dict[bytes, Kept], key: bytes, wall: float) -> Kept | None:
    kept = where.get(key)
    return kept if kept is not None and kept.record.expires_at > wall else None


class StoreAgainstModel(RuleBasedStateMachine):
    """A store in memory, with small quotas, against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.wall = Model(), 0.0
        self.storage = self.open()

    def open(self) -> MemoryStorage:
        return MemoryStorage(most_records=MOST[0], most_bytes=MOST[1])

    @rule(
        key=st.sampled_from(KEYS),
        value=st.binary(max_size=9),
        version=st.integers(0, 3),
        publisher=st.sampled_from([A, B, KEY]),
        life=st.integers(0, 9),
        republish_at=st.integers(1, 99),
        cached=st.booleans(),
    )
    def store(
        self, key: bytes, value: bytes, version: int, publisher: bytes, life: int, republish_at: int, cached: bool
    ) -> None:
        new = record(value, version, publisher, self.wall + life, key)
        why = self.storage.put(new, wall=self.wall, now=0.0, republish_at=republish_at, cached=cached)
        acknowledged = self.model.put(Kept(new, 0.0, republish_at, cached), self.wall)
        assert (not why) == acknowledged, why

    @rule(passed=st.integers(1, 5))
    def wait(self, passed: int) -> None:
        self.wall += passed

    @rule()
    def expire(self) -> None:
        assert self.storage.expire(wall=self.wall) == self.model.expire(self.wall)

    @invariant()
    def agrees(self) -> None:
        def told(all_kept: Iterable[Kept]) -> dict[tuple[bytes, bool], tuple[Record, float]]:
            return {(kept.record.key, kept.cached): (kept.record, kept.republish_at) for kept in all_kept}

        expected = self.model.all()
        assert told(self.storage.kept()) == told(expected)
        size = sum(len(kept.record.value) for kept in expected)
        assert (len(self.storage), self.storage.size) == (len(expected), size)
        for key in KEYS:
            assert self.storage.get(key, wall=self.wall) == self.model.get(key, self.wall)


class DurableStoreAgainstModel(StoreAgainstModel):
    """The same in a file, which is closed and opened again now and then."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        super().__init__()

    def open(self) -> MemoryStorage:
        opened = durable(Path(self.folder.name), self.wall)
        opened._most = _Share(*MOST)
        return opened

    @rule()
    def reopen(self) -> None:
        self.storage.close()
        self.storage = self.open()
        self.model.reopen(self.wall, republish_at=3600.0)

    def teardown(self) -> None:
        self.storage.close()
        self.folder.cleanup()


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestDurableStoreAgainstModel = DurableStoreAgainstModel.TestCase
TestDurableStoreAgainstModel.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
