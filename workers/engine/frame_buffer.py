"""Frames on their way from an engine's step to a task that iterates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

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

    async def of(self, playing: Coroutine[Any, Any, Result]) -> AsyncGenerator[Frames | Result, None]:
        """Yield what `playing` puts here, and in the end what it returns. To close this breaks it off."""
        task = asyncio.ensure_future(playing)
        try:
            async for frames in self.until(task):
                yield frames
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
