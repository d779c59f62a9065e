"""Redis is told until it takes it, and never what it cannot take."""

from __future__ import annotations

import asyncio

import pytest
import redis

from tasks.serving.patience import until_told


def test_it_is_told_again_until_it_is_taken() -> None:
    answers = [redis.ConnectionError("away"), redis.ResponseError("OOM"), OSError("reset"), None]

    async def command() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "taken"

    assert asyncio.run(until_told(command)) == "taken"
    assert answers == []


def test_what_cannot_be_sent_is_not_tried_again() -> None:
    async def command() -> None:
        raise redis.DataError("Invalid input of type: 'list'")

    with pytest.raises(redis.DataError):
        asyncio.run(asyncio.wait_for(until_told(command), 5))
