"""What the simulated engine answers: plan, frames and bodies as pure functions of a request.

The shapes are those of a real engine's answers; the texts are those that `token` states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from workers.engine.base import Job, RequestRefusedError, Result, Resume
from workers.registry import ModelSpec

DEFAULT_MAX_TOKENS = 64
DEFAULT_CONTEXT = 1_000_000
EMBEDDING_SIZE = 16

# Before what a whole answer leaves: another engine's numbers mean something else.
_FORM = b"sim1:"


# Stands for a token while its frame is prepared; no model id or request id has it.
_MARK = "<<token>>"


@dataclass(frozen=True, slots=True)
class Plan:
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
    last_words: str
    """The last user message, or the prompt."""
    continuable: bool
    """Whether another engine may go on in the middle; a real one cannot within JSON or a tool call."""

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


def make_plan(spec: ModelSpec, job: Job, body: dict[str, Any], *, now_s: int) -> Plan:
    """Return what answers `body`. Raises RequestRefusedError."""
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
    kind = (body.get("response_format") or {}).get("type")
    return Plan(
        id=("chatcmpl-" if job.endpoint == "chat" else "cmpl-") + job.id,
        model=spec.id,
        endpoint=job.endpoint,
        created=_created(job.resume) if job.stream and job.resume else now_s,
        tag=tag_of(prompt),
        prompt_tokens=words,
        tokens=asked,
        choices=body.get("n") or 1,
        finish_reason="length",
        include_usage=bool(options.get("include_usage")),
        last_words=prompt,
        continuable=not (body.get("tools") or kind in ("json_object", "json_schema")),
    )


def pieces_sent(plan: Plan, resume: Resume | None) -> int:
    """Return how many of the plan's `pieces` the client has. Raises RequestRefusedError where nobody can say."""
    if resume is None:
        return 0
    try:
        sent = int(resume.trail[-1])
    except (IndexError, ValueError):
        raise _lost() from None
    if not 0 < sent <= plan.tokens + 3:
        raise _lost()
    return sent


def progress(given: int) -> bytes:
    """Return what an answer that does not stream leaves for its successor after so many tokens."""
    return b"%b%d" % (_FORM, given)


def tokens_given(plan: Plan, resume: Resume | None) -> int:
    """Return how many tokens of a whole answer there are already; 0 where it has to begin anew."""
    state = resume.trail[-1] if resume and resume.trail else b""
    given = state.removeprefix(_FORM)
    return min(int(given), plan.tokens) if state.startswith(_FORM) and given.isdigit() and plan.continuable else 0


def _created(resume: Resume) -> int:
    try:
        return int(orjson.loads(resume.first.removeprefix(b"data: "))["created"])
    except (ValueError, TypeError, KeyError):
        raise _lost() from None


def _lost() -> RequestRefusedError:
    return RequestRefusedError("engine_failed", "The answer cannot be continued; repeat the request.")


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


def pieces(plan: Plan) -> Iterator[bytes]:
    """Yield the role, one piece a token, the finish and perhaps the usage; each is a frame a choice, or nothing."""
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
    # What is the same in every frame is written once; a token has nothing in it that JSON would escape.
    around = b"".join(frame(piece(i, _MARK)) for i in indexes).split(_MARK.encode())
    for t in range(plan.tokens):
        yield token(plan.tag, t).encode().join(around)
    yield b"".join(frame(piece(i, "", plan.finish_reason)) for i in indexes)
    if plan.include_usage:
        yield frame(usage=plan.usage())


def answer(plan: Plan) -> dict[str, Any]:
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


def result(plan: Plan, body: bytes) -> Result:
    return Result(
        finish_reason=plan.finish_reason,
        prompt_tokens=plan.prompt_tokens,
        completion_tokens=plan.tokens * plan.choices,
        body=body,
    )


def embed(model: str, request_id: str, body: dict[str, Any]) -> Result:
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
