"""How lines are put together to be queued."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.bulk.admission import packs
from tasks.bulk.records import Taken
from tests.tasks.bulk.ledger_rows import batch_id, line

_MIB = 1 << 20


def taken(number: int, length: int) -> Taken:
    return Taken(batch=batch_id(1), line=line(number, length=length), attempt=1, request_id=f"req_{number}")


@given(st.lists(st.integers(1, 9 * _MIB), max_size=300))
def test_lines_are_queued_in_order_and_large_ones_apart(lengths: list[int]) -> None:
    lines = [taken(number, length) for number, length in enumerate(lengths)]
    made = list(packs(lines))
    assert [one for pack in made for one in pack] == lines
    for pack in made:
        assert 1 <= len(pack) <= 100
        assert len(pack) == 1 or sum(one.line.length for one in pack) <= 4 * _MIB


def test_small_lines_are_queued_a_hundred_at_a_time() -> None:
    assert [len(pack) for pack in packs([taken(number, 500) for number in range(250)])] == [100, 100, 50]
