"""What vLLM answers → frames and results, without parsing each frame.

A frame is `data: {json}\\n\\n`. Quotes inside a JSON string are escaped, so an
unescaped `"finish_reason":"` can only be the field itself, never generated text.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from workers.engine.base import Result

DONE = "data: [DONE]\n\n"
_FINISH = '"finish_reason":"'
_ERROR = 'data: {"error"'
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')


def finish_reason(frame: str) -> str | None:
    """Return why a choice ended, if this is its last frame."""
    start = frame.find(_FINISH)
    if start < 0:
        return None
    start += len(_FINISH)
    return frame[start : frame.index('"', start)]


def error(frame: str) -> tuple[int, str, str | None] | None:
    """Return (status, message, param) if vLLM reports with this frame that it gave up."""
    if not frame.startswith(_ERROR):
        return None
    said = orjson.loads(frame.removeprefix("data: "))["error"]
    return int(said["code"]), str(said["message"]), said.get("param")


def result_of_stream(finish: str, usage: Any) -> Result:
    """Return the end of a stream; `usage` is what vLLM counted beside it."""
    return Result(
        finish_reason=finish, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens or 0
    )


def result(answer: Any) -> Result:
    """Return the result of a request that does not stream: a pydantic response, or for embeddings an HTTP one."""
    if (body := getattr(answer, "body", None)) is not None:
        found = _PROMPT_TOKENS.search(body, max(0, len(body) - 512))  # `usage` stands last
        return Result(prompt_tokens=int(found[1]) if found else 0, body=bytes(body))
    return Result(
        finish_reason=answer.choices[-1].finish_reason or "",
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens or 0,
        body=answer.model_dump_json().encode(),
    )
