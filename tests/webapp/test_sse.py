from __future__ import annotations

from webapp import sse


def test_a_frame_is_one_data_line() -> None:
    assert sse.frame(b'{"a":1}') == b'data: {"a":1}\n\n'


def test_a_ping_is_a_comment_and_nothing_else() -> None:
    # openai-python takes a comment for an event once it has seen `id:`, `retry:` or `event:`.
    assert sse.PING.startswith(b":")
    assert sse.PING.endswith(b"\n\n")
    assert sse.PING.count(b"\n") == 2
