"""What the measurements ask of the load client."""

from __future__ import annotations

from tests.bench.load import flags


def test_only_what_says_nothing_is_left_out() -> None:
    options = {"warmup": 0.0, "max_time": 5, "rate": None, "no_check": True, "ignore_eos": False}
    assert flags(options) == ["--warmup=0.0", "--max-time=5", "--no-check"]
