"""The spool on disk: order, bound, torn ends, full disks, locks; and, drawn by hypothesis, against a plain model."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from attn_kernels.spool import Spool, bytes_on_disk
from attn_kernels.spool_segment import Key, Parcel

SOURCE = bytes(range(16))
KIB = 1024


def parcel(seq: int, *, size: int = 100, source: bytes = SOURCE) -> Parcel:
    return Parcel(source, seq, (b"%08d" % seq) * (size // 8))


class Losses:
    """What a spool says that it lost."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []

    def __call__(self, count: int, why: str) -> None:
        self.said.append((count, why))

    @property
    def count(self) -> int:
        return sum(count for count, _ in self.said)


@pytest.fixture
def lost() -> Losses:
    return Losses()


def open_spool(root: Path, lost: Losses, *, byte_limit: int = 64 * KIB) -> Spool:
    return Spool(root, byte_limit=byte_limit, lost=lost)


def drain(spool: Spool) -> list[int]:
    """Everything not yet given out, by number."""
    return [given.seq for given in iter(spool.next_unsent, None)]


def crash(spool: Spool) -> None:
    """What the end of its process does: files and lock are let go, nothing else is done."""
    for held in (spool._writer, spool._reader):
        if held is not None:
            os.close(held[1])
    os.close(spool._lane.lock)


def test_oldest_first_and_gone_once_acknowledged(tmp_path: Path, lost: Losses) -> None:
    spool = open_spool(tmp_path, lost)
    parcels = [parcel(seq, size=2 * KIB) for seq in range(20)]
    for each in parcels:
        spool.append(each)
    assert list(iter(spool.next_unsent, None)) == parcels
    assert len(list(tmp_path.rglob("*.segment"))) > 2
    spool.rewind()
    for each in parcels:
        assert spool.next_unsent() == each
        assert spool.settle(each.key)
    assert (spool.num_batches, spool.num_bytes, list(tmp_path.rglob("*.segment"))) == (0, 0, [])
    assert not spool.settle(parcels[0].key)
    spool.close()
    assert list(tmp_path.iterdir()) == []
    assert lost.said == []


def test_beyond_the_bound_the_oldest_go_and_are_counted(tmp_path: Path, lost: Losses) -> None:
    spool = open_spool(tmp_path, lost, byte_limit=16 * KIB)
    for seq in range(100):
        spool.append(parcel(seq, size=KIB))
        on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*.segment"))
        assert on_disk == spool.num_bytes <= 16 * KIB
    kept = drain(spool)
    assert kept == list(range(100 - len(kept), 100))
    assert lost.count == 100 - len(kept)
    assert len(kept) >= 12  # what is dropped at a time is an eighth of the bound
    with pytest.raises(ValueError, match="larger than the spool"):
        spool.append(parcel(100, size=17 * KIB))
    assert drain(spool) == []
    spool.close()


def test_the_next_process_gets_what_was_left(tmp_path: Path, lost: Losses) -> None:
    spool = open_spool(tmp_path, lost)
    for seq in range(5):
        spool.append(parcel(seq))
    spool.close()
    again = open_spool(tmp_path, lost)
    again.append(parcel(0, source=b"another source.."))
    given = [again.next_unsent() for _ in range(6)]
    assert given == [*(parcel(seq) for seq in range(5)), parcel(0, source=b"another source..")]
    again.close()
    assert lost.said == []


@pytest.mark.parametrize("cut_bytes", [1, 30, 100, 131])
def test_a_torn_last_record_is_cut_and_nothing_else(tmp_path: Path, lost: Losses, cut_bytes: int) -> None:
    spool = open_spool(tmp_path, lost)
    for seq in range(5):
        spool.append(parcel(seq))
    crash(spool)
    (segment,) = tmp_path.rglob("*.segment")
    os.truncate(segment, segment.stat().st_size - cut_bytes)
    again = open_spool(tmp_path, lost)
    assert drain(again) == [0, 1, 2, 3]
    assert lost.count == 1
    assert "torn" in lost.said[0][1]
    assert segment.stat().st_size == 4 * bytes_on_disk(parcel(0))
    again.close()


def test_what_rots_on_disk_is_never_sent(tmp_path: Path, lost: Losses) -> None:
    spool = open_spool(tmp_path, lost)
    for seq in range(5):
        spool.append(parcel(seq))
    (segment,) = tmp_path.rglob("*.segment")
    with segment.open("r+b") as file:
        file.seek(2 * bytes_on_disk(parcel(0)) + 60)
        file.write(b"\xff")
    assert drain(spool) == [0, 1]
    assert lost.count == 3
    assert "cannot be read back" in lost.said[0][1]
    assert spool.settle(parcel(0).key)
    assert spool.settle(parcel(1).key)
    assert spool.num_batches == 0
    spool.append(parcel(9))
    assert drain(spool) == [9]
    spool.close()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, lost: Losses, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path, lost)
    spool.append(parcel(0))
    room = [50]
    write = os.pwrite

    def pwrite_no_space_left(descriptor: int, data: memoryview, offset: int) -> int:
        taken = min(room[0], len(data))
        room[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:taken], offset)

    monkeypatch.setattr(os, "pwrite", pwrite_no_space_left)
    with pytest.raises(OSError, match="No space left"):
        spool.append(parcel(1))
    (segment,) = tmp_path.rglob("*.segment")
    assert segment.stat().st_size == bytes_on_disk(parcel(0))
    room[0] = 10**9
    spool.append(parcel(2))
    assert drain(spool) == [0, 2]
    spool.close()


def test_files_are_private(tmp_path: Path, lost: Losses) -> None:
    (tmp_path / "lane-0").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        spool = open_spool(tmp_path, lost)
        spool.append(parcel(0))
    finally:
        os.umask(before)
    (segment,) = tmp_path.rglob("*.segment")
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o700
    spool.close()


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path, lost: Losses) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "lane-0").symlink_to(elsewhere)
    with pytest.raises(OSError, match="lane-0"):
        open_spool(tmp_path / "root", lost)


def test_two_processes_do_not_share(tmp_path: Path, lost: Losses) -> None:
    first = open_spool(tmp_path, lost)
    second = open_spool(tmp_path, lost)
    assert (first.shared, second.shared) == (False, True)
    assert first.path != second.path
    first.append(parcel(1))
    second.append(parcel(2))
    assert (drain(first), drain(second)) == ([1], [2])
    first.close()
    second.close()
    heir = open_spool(tmp_path, lost)
    assert sorted(drain(heir)) == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lane-0"]
    heir.close()


def test_what_another_left_is_taken_only_where_there_is_room(tmp_path: Path, lost: Losses) -> None:
    spools = [open_spool(tmp_path, lost, byte_limit=8 * KIB) for _ in range(2)]
    for number, spool in enumerate(spools):
        for seq in range(6):
            spool.append(parcel(10 * number + seq, size=KIB))
    for spool in spools:
        spool.close()
    heir = open_spool(tmp_path, lost, byte_limit=8 * KIB)
    assert heir.num_bytes <= 8 * KIB
    late = open_spool(tmp_path, lost, byte_limit=8 * KIB)
    assert sorted(drain(heir) + drain(late)) == [*range(6), *range(10, 16)]
    assert lost.said == []
    heir.close()
    late.close()


def test_a_lock_ends_with_its_process(tmp_path: Path, lost: Losses) -> None:
    code = """
import sys, os, signal
from pathlib import Path
from attn_kernels.spool import Spool
from attn_kernels.spool_segment import Parcel
spool = Spool(Path(sys.argv[1]), byte_limit=1 << 20, lost=print)
for seq in range(50):
    spool.append(Parcel(bytes(range(16)), seq, (b"%08d" % seq) * 12))
print(spool.path.name, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "lane-0\n"
        beside = open_spool(tmp_path, lost)
        assert (beside.shared, drain(beside)) == (True, [])
        beside.close()
        holder.kill()
        holder.wait()
    heir = open_spool(tmp_path, lost)
    assert not heir.shared
    assert drain(heir) == list(range(50))
    heir.close()


class AgainstModel(RuleBasedStateMachine):
    """Any order of appends, sends, acknowledgements, reconnects, stops and kills gives what a plain list gives."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.lost = Losses()
        self.waiting: OrderedDict[Key, Parcel] = OrderedDict()
        self.given: list[Key] = []
        self.next_seq = 0

    @initialize()
    def begin(self) -> None:
        self.spool = self.opened()

    def opened(self) -> Spool:
        return open_spool(self.root, self.lost, byte_limit=4 * KIB)

    @rule(size=st.integers(0, 90).map(lambda words: 8 * words))
    def append(self, size: int) -> None:
        before = self.lost.count
        new = parcel(self.next_seq, size=size)
        self.next_seq += 1
        self.spool.append(new)
        for _ in range(self.lost.count - before):
            self.waiting.popitem(last=False)
        self.waiting[new.key] = new

    @rule(count=st.integers(1, 8))
    def send(self, count: int) -> None:
        for _ in range(count):
            unsent = [key for key in self.waiting if key not in self.given]
            given = self.spool.next_unsent()
            assert given == (self.waiting[unsent[0]] if unsent else None)
            if given is not None:
                self.given.append(given.key)

    @precondition(lambda self: any(key in self.waiting for key in self.given))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key in self.given if key in self.waiting]))
        assert self.spool.settle(key)
        assert not self.spool.settle(key)
        del self.waiting[key]

    @rule()
    def reconnect(self) -> None:
        self.spool.rewind()
        self.given.clear()

    @rule(torn=st.integers(0, 200), stopped=st.booleans())
    def end_and_begin_again(self, torn: int, *, stopped: bool) -> None:
        """What was acknowledged in a file that still holds others comes back: at least once, never lost."""
        writer = self.spool._writer
        if stopped:
            self.spool.close()
        else:
            crash(self.spool)
            if writer is not None:
                with writer[0].path.open("ab") as file:
                    file.write(os.urandom(torn))
        before = self.lost.count
        self.spool = self.opened()
        assert self.lost.count - before == int(not stopped and writer is not None and torn > 0)
        self.lost.said.clear()
        left = list(iter(self.spool.next_unsent, None))
        assert [each.seq for each in left] == sorted({each.seq for each in left})
        assert [each for each in left if each.key in self.waiting] == list(self.waiting.values())
        for each in left:
            if each.key not in self.waiting:
                assert self.spool.settle(each.key)
        self.spool.rewind()
        self.given.clear()

    @invariant()
    def holds_what_waits_within_the_bound(self) -> None:
        on_disk = sum(path.stat().st_size for path in self.root.rglob("*.segment"))
        assert self.spool.num_batches == len(self.waiting)
        assert on_disk == self.spool.num_bytes <= 4 * KIB

    def teardown(self) -> None:
        self.spool.close()
        self._folder.cleanup()


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
