"""What the next worker reads from a stream, and when it refuses to go on."""

from __future__ import annotations

import pytest

from tasks.messages import Delta, Event, Started
from tasks.serving.continuation import BrokenAnswerError, resume_of
from workers.engine.base import Resume

Records = list[tuple[str, Event | None]]

FIRST: Records = [
    ("1-0", Started("w", 1)),
    ("1-1", Delta(b"data: role\n\ndata: a\n\n", b"\n7")),
    ("1-2", Delta(b"data: b\n\n", b"8")),
]


def test_all_attempts_count_as_one_answer() -> None:
    records = [
        *FIRST,
        ("5-0", Started("v", 5, "1-2")),
        ("5-1", Delta(b"data: c\n\n", b"9")),
        ("9-0", Started("u", 9, "5-1")),
    ]
    resume = resume_of(records, "5-1")
    assert resume == Resume(frames=4, first=b"data: role\n\n", trail=(b"", b"7", b"8", b"9"))


@pytest.mark.parametrize(
    "records",
    [
        [],
        FIRST[:2],
        [FIRST[0], FIRST[2]],
        [*FIRST, ("5-0", Started("v", 5, "1-1"))],
        [*FIRST[:2], ("1-2", Delta(b"data: {", None))],
    ],
    ids=["nothing", "shorter", "gap", "from elsewhere", "not to be continued"],
)
def test_a_broken_answer_is_refused(records: Records) -> None:
    with pytest.raises(BrokenAnswerError):
        resume_of(records, "1-2")
