"""Weights are in the page cache before somebody loads them: real files, and the kernel's own word for it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.waiting import wait_until
from workers.read_ahead import Candidate, ReadAhead, Urgency, choose

SIZE = 24 << 20
ORDERED, MAKING_ROOM, IN_TURN = Urgency.ORDERED, Urgency.MAKING_ROOM, Urgency.IN_TURN


def candidate(model: str, urgency: Urgency, mib: int = 100, files: tuple[Path, ...] = ()) -> Candidate:
    return Candidate(model=model, files=files, mib=mib, urgency=urgency)


def chosen(*candidates: Candidate, free_mib: int = 10_000) -> list[str]:
    return [it.model for it in choose(candidates, free_mib=free_mib)]


def test_all_that_was_ordered_is_read_and_one_that_comes_next() -> None:
    assert chosen(
        candidate("later", IN_TURN),
        candidate("next", MAKING_ROOM),
        candidate("one", ORDERED),
        candidate("other", ORDERED),
    ) == ["one", "other", "next"]


def test_no_more_than_half_of_the_free_memory_is_filled() -> None:
    assert chosen(candidate("large", ORDERED, 600), candidate("small", IN_TURN, 400), free_mib=1000) == ["small"]
    assert chosen(candidate("a", ORDERED, 300), candidate("b", ORDERED, 300), free_mib=1000) == ["a"]
    assert chosen(candidate("a", ORDERED, 1), free_mib=0) == []


def resident(path: Path) -> float:
    """Return the part of a file that is in the page cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        libc = ctypes.CDLL(None, use_errno=True)
        asked = libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(mapped)), found)
        assert asked == 0, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in found) / pages


def cold(path: Path) -> Path:
    """Write a file and have the kernel forget its content."""
    path.write_bytes(os.urandom(SIZE))
    forget(path)
    return path


def forget(path: Path) -> None:
    """Have the kernel drop what it holds of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path) > 0.1:
        pytest.skip("the temporary folder is no disk: what is there is in memory")


@pytest.fixture
def reading() -> Iterator[ReadAhead]:
    with closing(ReadAhead()) as started:
        yield started


def test_what_is_wanted_is_in_memory_soon_and_nothing_else(tmp_path: Path, reading: ReadAhead) -> None:
    files = tuple(cold(tmp_path / f"model-{n}.safetensors") for n in range(2))
    other = cold(tmp_path / "other.safetensors")
    reading.want([candidate("m", ORDERED, files=files)])
    wait_until(lambda: all(resident(file) == 1.0 for file in files), "all weights are read")
    assert resident(other) < 0.1


def test_a_file_that_is_gone_does_not_keep_the_others_from_being_read(tmp_path: Path, reading: ReadAhead) -> None:
    there = cold(tmp_path / "there")
    reading.want([candidate("m", ORDERED, files=(tmp_path / "gone", there))])
    wait_until(lambda: resident(there) == 1.0, "the file after the missing one is read")


def test_what_is_wanted_again_is_read_again(tmp_path: Path, reading: ReadAhead) -> None:
    first, second = cold(tmp_path / "first"), cold(tmp_path / "second")
    reading.want([candidate("a", ORDERED, files=(first,))])
    wait_until(lambda: resident(first) == 1.0, "the first is read")
    reading.want([candidate("b", ORDERED, files=(second,))])
    wait_until(lambda: resident(second) == 1.0, "the second is read")
    cold(first)
    reading.want([candidate("a", ORDERED, files=(first,))])
    wait_until(lambda: resident(first) == 1.0, "the first is read again")


def test_a_reader_that_was_closed_reads_no_more(tmp_path: Path) -> None:
    file = cold(tmp_path / "file")
    reading = ReadAhead()
    reading.close()
    reading.want([candidate("m", ORDERED, files=(file,))])
    assert resident(file) < 0.1
