"""An engine without weights, for load tests, capacity planning and our own tests.

Its i-th token is the text `TAG.i ` (a trailing space), where TAG is the first four hex
digits of the SHA-256 of the last user message: a gap, a repeat or a token of somebody
else's answer shows at a glance. It keeps seats, limits, pacing and cancellation as a
real engine does, and writes frames of the same shape. It is never chosen unless named.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from workers.engine.base import EngineLoad, Frames, Job, RequestRefusedError, Result
from workers.registry import ModelSpec

DEFAULT_MAX_TOKENS = 64
DEFAULT_CONTEXT = 1_000_000
EMBEDDING_SIZE = 16


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one request will be answered with; a pure function of its body."""

    id: str
    model: str
    endpoint: str
    created: int
    tag: str
    prompt_tokens: int
    tokens: int
    choices: int
    finish_reason: str
    include_usage: bool

    def text(self) -> str:
        return "".join(token(self.tag, i) for i in range(self.tokens))

    def usage(self) -> dict[str, int]:
        completion = self.tokens * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion,
            "completion_tokens": completion,
        }


def token(tag: str, index: int) -> str:
    """Return the text of token `index`, counted from 0."""
    return f"{tag}.{index} "


def tag_of(text: str) -> str:
    """Return the mark that every token of the answer to `text` carries."""
    return hashlib.sha256(text.encode()).hexdigest()[:4]


class SimEngine:
    """Answers after the waits that `spec.sim` states, whatever the machine could do."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._running = 0

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset({"chat", "completion", "embedding"})

    async def start(self) -> None:
        await asyncio.sleep(self._spec.sim.load_s)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return

    def load(self) -> EngineLoad:
        seats = self._spec.sim.seats
        return EngineLoad(
            seats=seats,
            running=self._running,
            waiting=max(0, self._running - seats),
            kv_usage=min(1.0, self._running / seats),
        )

    async def run(self, job: Job) -> AsyncIterator[Frames | Result]:
        body: dict[str, Any] = orjson.loads(job.body)
        self._running += 1
        try:
            if job.endpoint == "embedding":
                await self._pause(self._spec.sim.ttft_ms)
                yield _embed(self._spec.id, job.id, body)
                return
            plan = _plan(self._spec, job, body)
            if job.stream:
                async for frames in self._stream(plan):
                    yield frames
                yield _result(plan, b"")
            else:
                await self._pause(self._spec.sim.ttft_ms + self._spec.sim.itl_ms * max(0, plan.tokens - 1))
                yield _result(plan, orjson.dumps(_answer(plan)))
        finally:
            self._running -= 1

    async def _stream(self, plan: _Plan) -> AsyncIterator[Frames]:
        clock = asyncio.get_running_loop().time
        due = clock() + self._spec.sim.ttft_ms / 1000
        for index, frames in enumerate(_frames(plan)):
            if index <= plan.tokens:
                await _until(due, clock())
                due += self._spec.sim.itl_ms / 1000 if index else 0.0
            yield Frames(frames)

    async def _pause(self, ms: float) -> None:
        await asyncio.sleep(ms / 1000)


async def _until(due: float, now: float) -> None:
    """Wait for a moment rather than for a time, so that pacing does not drift under load."""
    await asyncio.sleep(max(0.0, due - now))


def _plan(spec: ModelSpec, job: Job, body: dict[str, Any]) -> _Plan:
    prompt, words = _chat_prompt(body) if job.endpoint == "chat" else _completion_prompt(body)
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    context = spec.max_model_len or DEFAULT_CONTEXT
    if words + asked > context:
        raise RequestRefusedError(
            "context_length_exceeded",
            f"This model's context is {context} tokens; the prompt has {words} and {asked} were asked for. "
            "Shorten the prompt or lower max_tokens.",
            param="messages" if job.endpoint == "chat" else "prompt",
        )
    options = body.get("stream_options") or {}
    return _Plan(
        id=("chatcmpl-" if job.endpoint == "chat" else "cmpl-") + job.id,
        model=spec.id,
        endpoint=job.endpoint,
        created=int(time.time()),
        tag=tag_of(prompt),
        prompt_tokens=words,
        tokens=asked,
        choices=body.get("n") or 1,
        finish_reason="length",
        include_usage=bool(options.get("include_usage")),
    )


def _chat_prompt(body: dict[str, Any]) -> tuple[str, int]:
    """Return the last user message's text, and how many words all messages have."""
    texts = [(m.get("role"), _text(m.get("content"))) for m in body.get("messages", ())]
    last = next((text for role, text in reversed(texts) if role == "user"), "")
    return last, sum(len(text.split()) for _, text in texts)


def _completion_prompt(body: dict[str, Any]) -> tuple[str, int]:
    prompt = body.get("prompt", "")
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise RequestRefusedError("invalid_request", "The sim engine takes one prompt of text.", param="prompt")
        prompt = prompt[0]
    return prompt, len(prompt.split())


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _frames(plan: _Plan) -> Iterator[bytes]:
    """Yield the role frame, one frame a token, the finish frame and perhaps the usage frame."""
    head = {
        "id": plan.id,
        "object": "chat.completion.chunk" if plan.endpoint == "chat" else "text_completion",
        "created": plan.created,
        "model": plan.model,
    }

    def frame(*deltas: dict[str, Any], **extra: Any) -> bytes:
        return b"data: " + orjson.dumps(head | {"choices": list(deltas)} | extra) + b"\n\n"

    def piece(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        if plan.endpoint == "chat":
            delta = {"content": text} if finish is None else {}
            return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}

    indexes = range(plan.choices)
    role = {"role": "assistant", "content": ""}
    first = b"".join(frame({"index": i, "delta": role, "logprobs": None, "finish_reason": None}) for i in indexes)
    yield first if plan.endpoint == "chat" else b""
    for t in range(plan.tokens):
        yield b"".join(frame(piece(i, token(plan.tag, t))) for i in indexes)
    yield b"".join(frame(piece(i, "", plan.finish_reason)) for i in indexes)
    if plan.include_usage:
        yield frame(usage=plan.usage())


def _answer(plan: _Plan) -> dict[str, Any]:
    def choice(index: int) -> dict[str, Any]:
        said = {"text": plan.text()}
        if plan.endpoint == "chat":
            return {
                "index": index,
                "message": {"role": "assistant", "content": plan.text()},
                "logprobs": None,
                "finish_reason": plan.finish_reason,
            }
        return {"index": index, **said, "logprobs": None, "finish_reason": plan.finish_reason}

    return {
        "id": plan.id,
        "object": "chat.completion" if plan.endpoint == "chat" else "text_completion",
        "created": plan.created,
        "model": plan.model,
        "choices": [choice(i) for i in range(plan.choices)],
        "usage": plan.usage(),
    }


def _result(plan: _Plan, body: bytes) -> Result:
    return Result(
        finish_reason=plan.finish_reason,
        prompt_tokens=plan.prompt_tokens,
        completion_tokens=plan.tokens * plan.choices,
        body=body,
    )


def _embed(model: str, request_id: str, body: dict[str, Any]) -> Result:
    given = body.get("input", "")
    texts = given if isinstance(given, list) else [given]
    words = sum(len(str(text).split()) for text in texts)
    data = [{"object": "embedding", "index": i, "embedding": _vector(str(text))} for i, text in enumerate(texts)]
    answer = {
        "id": f"embd-{request_id}",
        "object": "list",
        "model": model,
        "data": data,
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }
    return Result(finish_reason="stop", prompt_tokens=words, body=orjson.dumps(answer))


def _vector(text: str) -> list[float]:
    """Return a vector of length 1 that depends on `text` alone."""
    raw = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:EMBEDDING_SIZE]]
    norm = sum(x * x for x in raw) ** 0.5
    return [x / norm for x in raw]
