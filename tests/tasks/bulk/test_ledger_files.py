from __future__ import annotations

import pytest

from tasks.bulk.ledger import Ledger
from tasks.bulk.records import BatchStatus
from tasks.errors import FileInUseError, FileNotFoundHereError
from tests.tasks.bulk.ledger_rows import batch, batch_id, file, file_id


def test_a_file_is_found_by_its_owner_only(ledger: Ledger) -> None:
    ledger.add_file(file(1, expires_at=2000))
    assert ledger.file(file_id(1), "ann") == file(1, expires_at=2000)
    assert ledger.file(file_id(1), "bob") is None
    assert ledger.file(file_id(2), "ann") is None


def test_a_file_that_is_added_again_stays_as_it_was(ledger: Ledger) -> None:
    ledger.add_file(file(1))
    ledger.add_file(file(1, owner="bob"))
    assert ledger.file(file_id(1), "ann") == file(1)
    assert ledger.file(file_id(1), "bob") is None


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_of_files_follow_each_other_in_time_and_ties_by_id(ledger: Ledger, newest_first: bool) -> None:
    for index in range(1, 8):
        ledger.add_file(file(index, created_at=1000 + index // 3))
    ledger.add_file(file(9, owner="bob"))
    seen: list[str] = []
    while page := ledger.files("ann", after=seen[-1] if seen else None, limit=2, newest_first=newest_first):
        assert len(page) <= 2
        seen += [one.id for one in page]
    wanted = [file_id(index) for index in range(1, 8)]
    assert seen == (wanted[::-1] if newest_first else wanted)


def test_nothing_follows_a_file_that_is_not_there_or_somebody_elses(ledger: Ledger) -> None:
    ledger.add_file(file(1))
    ledger.add_file(file(2, owner="bob"))
    assert ledger.files("ann", after=file_id(2)) == []
    assert ledger.files("ann", after=file_id(3)) == []


def test_files_are_listed_by_purpose(ledger: Ledger) -> None:
    ledger.add_file(file(1))
    ledger.add_file(file(2, purpose="batch_output"))
    assert [one.id for one in ledger.files("ann", purpose="batch_output")] == [file_id(2)]


def test_a_file_is_removed_by_its_owner_only(ledger: Ledger) -> None:
    ledger.add_file(file(1))
    assert not ledger.remove_file(file_id(1), "bob")
    assert ledger.remove_file(file_id(1), "ann")
    assert not ledger.remove_file(file_id(1), "ann")
    assert ledger.file(file_id(1), "ann") is None


def test_a_file_stays_while_an_open_batch_reads_it(ledger: Ledger) -> None:
    ledger.add_file(file(1, expires_at=2000))
    ledger.add_batch(batch(1, status=BatchStatus.VALIDATING))
    with pytest.raises(FileInUseError):
        ledger.remove_file(file_id(1), "ann")
    assert ledger.expired_files(3000) == []
    ledger.move(batch_id(1), BatchStatus.FAILED, now=2500)
    assert ledger.expired_files(3000) == [file(1, expires_at=2000)]
    assert ledger.remove_file(file_id(1), "ann")


def test_a_batch_that_reads_a_file_needs_one_of_its_owners(ledger: Ledger) -> None:
    ledger.add_file(file(1, owner="bob"))
    with pytest.raises(FileNotFoundHereError):
        ledger.add_batch(batch(1), reads_file=True)
    assert ledger.batch(batch_id(1)) is None
    ledger.add_file(file(2))
    assert ledger.add_batch(batch(2), reads_file=True)


def test_files_expire_the_oldest_end_first(ledger: Ledger) -> None:
    for index, end in ((1, 3000), (2, 2000), (3, None), (4, 9000)):
        ledger.add_file(file(index, expires_at=end))
    assert [one.id for one in ledger.expired_files(3000)] == [file_id(2), file_id(1)]
    assert [one.id for one in ledger.expired_files(3000, limit=1)] == [file_id(2)]
