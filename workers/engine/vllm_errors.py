"""What vLLM says about a request that failed → our refusal, in words safe to show.

vLLM's own texts repeat what the client sent, and an unexpected exception may name
paths. So a refused value is never repeated, only its field and the rule it broke; and
a fault on vLLM's side gets a text of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from workers.engine.base import RequestRefusedError

_MAX_TEXT = 400
_ENGINE_FAILED = "The engine failed on this request; nothing is known to be wrong with the request itself."
# Which field of the body holds the prompt, by endpoint.
_PROMPT_FIELD = {"chat": "messages", "completion": "prompt", "embedding": "input"}
_TOO_LONG = re.compile(r"maximum\s+(context|model)\s+length|cannot be greater than max_model_len", re.IGNORECASE)
# vLLM's validation errors end with the rejected value.
_ECHO = re.compile(r"\s*\((parameter|value)=.*\)\s*$", re.DOTALL)
# Advice to whoever runs vLLM, not to its client.
_ADVICE = re.compile(r"\s*To increase (the|this) limit, set the VLLM_\w+ environment variable\.?")
# What vLLM calls the prompt's length in an error is no field of the body.
_NO_FIELD = frozenset({"input_text", "input_tokens"})


def refusal(endpoint: str, status: int, message: str, param: str | None = None) -> RequestRefusedError:
    """Translate one vLLM error, given by its HTTP status."""
    if status >= 500:
        return RequestRefusedError("engine_failed", _ENGINE_FAILED)
    text = _text(message)
    param = None if param in _NO_FIELD else param
    if _TOO_LONG.search(text):
        return RequestRefusedError("context_length_exceeded", text, param=param or _PROMPT_FIELD.get(endpoint))
    return RequestRefusedError("invalid_request", text, param=param)


def invalid_body(body: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> RequestRefusedError:
    """Translate the `errors()` of a pydantic ValidationError about `body`.

    Of the many errors of a field with several allowed types, the one that got deepest
    into the body, and not for its type, is the nearest to what the client meant.
    """
    if not errors:
        return RequestRefusedError("invalid_request", "The request body is not valid.")
    field, error = max(((_field(body, e), e) for e in errors), key=_nearness)
    text = _text(str(error.get("msg", "is not valid")).removeprefix("Value error, "))
    path = ".".join(str(part) for part in field)
    return RequestRefusedError("invalid_request", f"{path}: {text}" if path else text, param=path or _parameter(error))


def _nearness(found: tuple[tuple[str | int, ...], Mapping[str, Any]]) -> tuple[int, bool]:
    field, error = found
    return len(field), not str(error.get("type", "")).endswith("_type")


def unsupported(endpoint: str, offered: frozenset[str], model: str) -> RequestRefusedError:
    able = ", ".join(sorted(offered)) or "nothing"
    return RequestRefusedError(
        "unsupported_endpoint", f"The model {model!r} does not support {endpoint} requests; it supports: {able}."
    )


def _field(body: Any, error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Return the part of pydantic's location that is a path into the body.

    The rest are names of types and validators, of which clients know nothing.
    """
    path: list[str | int] = []
    node = body
    for part in error.get("loc", ()):
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    if error.get("type") == "missing":
        path.append(error["loc"][-1])
    return tuple(path)


def _parameter(error: Mapping[str, Any]) -> str | None:
    """Return the field that a validator of vLLM over the whole body complained about."""
    named: str | None = getattr(error.get("ctx", {}).get("error"), "parameter", None)
    return named


def _text(message: str) -> str:
    """Return the first line: what follows is mostly the offending text itself."""
    first = _ADVICE.sub("", _ECHO.sub("", message)).strip().partition("\n")[0]
    text = " ".join(first.split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
