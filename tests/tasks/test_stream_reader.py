from __future__ import annotations

import pytest

from tasks.stream_reader import follows


@pytest.mark.parametrize(
    ("last", "record", "whole"),
    [
        (b"0", b"1-0", True),
        (b"1-0", b"1-1", True),
        (b"1-9", b"1-10", True),
        (b"1-4", b"2-0", True),
        (b"1-4", b"1-6", False),
        (b"0", b"1-1", False),
        (b"1-4", b"2-1", False),
    ],
)
def test_a_missing_record_is_noticed(last: bytes, record: bytes, whole: bool) -> None:
    assert follows(last, record) is whole
