"""Frames on their way from an engine's step to a task that iterates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from workers.engine.base import Frames, Result


class FrameBuffer:
    """For a job without `on_frames`."""

    def __init__(self) -> None:
        self._frames: list[Frames] = []
        self._come = asyncio.Event()

    def put(self, frames: Frames) -> None:
        self._frames.append(frames)
        self._come.set()

    async def until(self, ended: asyncio.Future[Result]) -> AsyncIterator[Frames]:
        """Yield what comes until `ended` is done, and whatever came before that."""
        ended.add_done_callback(lambda _: self._come.set())
        while not ended.done() or self._frames:
            await self._come.wait()
            self._come.clear()
            frames, self._frames = self._frames, []
            for piece in frames:
                yield piece
