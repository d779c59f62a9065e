"""One plain answer, written as the engine steps: its outputs come in where vLLM would queue them for a task.

A task switch, two dozen calls and four pydantic objects a token are what vLLM's serving
layer costs; here a token costs its text's JSON between two constants. Knows of vLLM only
what its outputs look like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson

from workers.engine.base import Frames, Result
from workers.engine.vllm_patterns import FramePatterns, Pattern
from workers.engine.vllm_trail import encode


class AnswerFailedError(Exception):
    """The engine gave this answer up."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What vLLM's serving layer asks its engine for, and under which id it answers."""

    prompt: Any
    params: Any
    request_id: str
    options: dict[str, Any]
    request: Any = None
    """All of it as the engine's core takes it (vLLM's `EngineCoreRequest`), where it has been made already."""

    async def __aiter__(self) -> AsyncIterator[Self]:
        """Give itself as if it were an output: vLLM wants one of a completion before it comes to write the answer."""
        yield self


class PlainRun:
    """Stands in for vLLM's `RequestOutputCollector`. Everything happens on the engine's loop.

    `put` is called within the engine's step, with every other request's, and must not raise.
    """

    # Takes in what the engine has said of this request: the one choice that there is.
    _take: Callable[[Sequence[Any]], None]

    def __init__(self, prompt_tokens: int, on_token: Callable[[], None]) -> None:
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._prompt_tokens = prompt_tokens
        self._on_token = on_token

    def put(self, output: Any) -> None:
        if isinstance(output, Exception):
            if not self.ended.done():
                self.ended.set_exception(output)
        else:
            self.hear(output.request_id, output.outputs)

    def hear(self, _request_id: str, outputs: Sequence[Any], *_: Any) -> None:
        """Take in one output. Stands in for vLLM's own method that would wrap it up to be `put`."""
        if self.ended.done():
            return
        try:
            if outputs[0].finish_reason == "error":
                raise AnswerFailedError
            self._on_token()
            self._take(outputs)
        except Exception as error:  # noqa: BLE001 - within the engine's step: the others must get theirs
            self.ended.set_exception(error)

    def close(self) -> None:
        """Do nothing; vLLM ends an input stream here."""


class PlainStream(PlainRun):
    """A streamed answer. `deliver` gets each of its frames, and must not raise."""

    def __init__(
        self,
        patterns: FramePatterns,
        answer_id: str,
        prompt_tokens: int,
        on_token: Callable[[], None],
        deliver: Callable[[Frames], None],
    ) -> None:
        super().__init__(prompt_tokens, on_token)
        self._patterns = patterns.bind({"id": orjson.dumps(answer_id), "created": _now()})
        self._counts = "total" in patterns.token.slots
        # Nearly every frame: no slot but its text.
        self._head, self._tail = (b"", b"") if self._counts else self._patterns.token.pieces
        self._deliver = deliver
        self._noted: list[str] = []
        self._opening = self._patterns.opening
        self._tokens = 0

    def _take(self, outputs: Sequence[Any]) -> None:
        said, trail = outputs[0], encode(0, outputs)
        if self._opening is not None:
            self._write(self._opening, {}, trail)
            self._opening, trail = None, ""
        text, count = said.text, len(said.token_ids)
        finish = said.finish_reason
        if finish is None and text and not self._counts and not self._noted:
            self._tokens += count
            self._deliver(Frames(self._head + orjson.dumps(text) + self._tail, trail.encode()))
            return
        if not text and not count and not self._tokens:
            self._note(trail)  # a part of the prompt, which has no frame
            return
        self._tokens += count
        if finish is not None:
            self._end(said, text, finish, trail)
        elif text:
            self._write(self._patterns.token, {"text": orjson.dumps(text)}, trail)
        elif self._patterns.silent is not None:
            self._write(self._patterns.silent, {}, trail)
        else:
            self._note(trail)

    def _end(self, said: Any, text: str, finish: str, trail: str) -> None:
        values = {"finish": orjson.dumps(finish), "stop": orjson.dumps(said.stop_reason)}
        if text:
            self._write(self._patterns.last, values | {"text": orjson.dumps(text)}, trail)
        else:
            self._write(self._patterns.bare_last, values, trail)
        if self._patterns.usage is not None:
            self._write(self._patterns.usage, {}, "")
        self.ended.set_result(
            Result(finish_reason=finish, prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens)
        )

    def _note(self, trail: str) -> None:
        """Keep what the engine said for the next frame."""
        if trail:
            self._noted.append(trail)

    def _write(self, pattern: Pattern, values: dict[str, bytes], trail: str) -> None:
        if pattern.slots:
            values = values | _usage(self._prompt_tokens, self._tokens)
        self._note(trail)
        self._deliver(Frames(pattern.fill(values), ";".join(self._noted).encode()))
        self._noted.clear()


class PlainAnswer(PlainRun):
    """An answer that comes whole. `on_end` gets what the engine said, which it then forgets."""

    def __init__(
        self,
        pattern: Pattern,
        answer_id: str,
        prompt_tokens: int,
        on_token: Callable[[], None],
        on_end: Callable[[Sequence[Any]], None],
    ) -> None:
        super().__init__(prompt_tokens, on_token)
        self._on_end = on_end
        self._pattern = pattern
        self._answer_id = answer_id

    def _take(self, outputs: Sequence[Any]) -> None:
        self._on_end(outputs)
        said = outputs[0]
        prompt, tokens = self._prompt_tokens, len(said.token_ids)
        finish = said.finish_reason or "stop"
        values = {
            "id": orjson.dumps(self._answer_id),
            "created": _now(),
            "text": orjson.dumps(said.text),
            "finish": orjson.dumps(finish),
            "stop": orjson.dumps(said.stop_reason),
        }
        body = self._pattern.fill(values | _usage(prompt, tokens))
        self.ended.set_result(Result(finish_reason=finish, prompt_tokens=prompt, completion_tokens=tokens, body=body))


def _now() -> bytes:
    return b"%d" % time.time()


def _usage(prompt: int, completion: int) -> dict[str, bytes]:
    return {"prompt": b"%d" % prompt, "completion": b"%d" % completion, "total": b"%d" % (prompt + completion)}
