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
from node.storage import PUBLISHER_SHARE, Kept, MemoryStorage, Storage, _Share, held
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
def test_the_newest_version_and_publisher_wins(storage: Storage, first: Record, second: Record, wins: bytes) -> None:
    assert put(storage, first) == put(storage, second) == ""
    found = storage.get(KEY, wall=0.0)
    assert found is not None
    assert found.value == wins


def test_of_one_version_the_one_that_was_put_later_wins(storage: Storage) -> None:
    put(storage, record(expires_at=30.0))
    assert put(storage, record(b"later", expires_at=3600.0)) == ""
    assert put(storage, record(b"late", expires_at=30.0)) == ""
    storage.expire(wall=60.0)
    found = storage.get(KEY, wall=60.0)
    assert found is not None
    assert found.value == b"later"


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
        self.kept: dict[bytes, Kept] = {}

    def put(self, new: Kept, wall: float) -> bool:
        """Whether it is acknowledged."""
        old = self.kept.get(new.record.key)
        if new.record.expires_at <= wall:
            return False
        if old is not None and old.record.expires_at > wall and not self.wins(new, old):
            old.republish_at = new.republish_at
            return True
        if not self.fits(new):
            return False
        self.kept[new.record.key] = new
        return True

    def wins(self, new: Kept, old: Kept) -> bool:
        """The newest (version, publisher), and of the same the one that lives longer; a copy never against a record."""
        if new.cached and not old.cached:
            return False
        ones, others = ((r.version, r.publisher, r.expires_at) for r in (new.record, old.record))
        return ones > others or (old.cached and not new.cached and ones[:2] == others[:2])

    def fits(self, new: Kept) -> bool:
        """Whether what there would be with it, of all and of its publisher, is within the quota or no more than before."""
        before = [kept.record for kept in self.kept.values()]
        after = [record for record in before if record.key != new.record.key] + [new.record]

        def within(then: list[Record], now: list[Record], share: float) -> bool:
            amounts = [(len(each), sum(len(record.value) for record in each)) for each in (then, now)]
            return all(b <= a or b <= share * most for a, b, most in zip(*amounts, MOST, strict=True))

        def own(records: list[Record]) -> list[Record]:
            return [record for record in records if record.publisher == new.record.publisher]

        return within(before, after, 1.0) and within(own(before), own(after), PUBLISHER_SHARE)

    def expire(self, wall: float) -> int:
        """How many are dropped."""
        before = len(self.kept)
        self.kept = {key: kept for key, kept in self.kept.items() if kept.record.expires_at > wall}
        return before - len(self.kept)

    def reopen(self, wall: float, republish_at: float) -> None:
        """Records that live are there after a restart, copies are not; all take their turn later."""
        self.expire(wall)
        self.kept = {key: Kept(kept.record, 0.0, republish_at) for key, kept in self.kept.items() if not kept.cached}


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
        def told(all_kept: Iterable[Kept]) -> dict[bytes, tuple[Record, float, bool]]:
            return {kept.record.key: (kept.record, kept.republish_at, kept.cached) for kept in all_kept}

        expected = self.model.kept.values()
        assert told(self.storage.kept()) == told(expected)
        assert (len(self.storage), self.storage.size) == (
            len(expected),
            sum(len(kept.record.value) for kept in expected),
        )
        for key in KEYS:
            kept = self.model.kept.get(key)
            alive = kept.record if kept is not None and kept.record.expires_at > self.wall else None
            assert self.storage.get(key, wall=self.wall) == alive


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
