"""Which requests are plain: text in and one text out, in frames of which only the text differs. A decision over a body.

It names what is known to be plain, so a field that vLLM learns tomorrow is not. What is
refused is not decided here: a plain body goes through vLLM's own checks like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# They change which tokens come, not what is written around them.
_SAMPLING = frozenset(
    {
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "min_tokens",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
    }
)
_COMMON = _SAMPLING | {"model", "request_id", "stream", "stream_options", "user"}
_FIELDS = {"chat": _COMMON | {"messages"}, "completion": _COMMON | {"prompt"}}
# Plain where they say what is so without them.
_NEUTRAL: Mapping[str, Collection[Any]] = {
    "echo": (None, False),
    "logprobs": (None, False),
    "n": (None, 1),
    "response_format": (None, {"type": "text"}),
    "tool_choice": ("none",),
    "tools": (None,),
    "top_logprobs": (None, 0),
}


def is_plain(endpoint: str, body: Mapping[str, Any]) -> bool:
    """Say whether the answer to `body` is made of one text alone. `endpoint` is a `Job`'s."""
    known = _FIELDS.get(endpoint)
    if known is None or (endpoint == "completion" and not isinstance(body.get("prompt"), str)):
        return False
    return all(name in known or (name in _NEUTRAL and _is_neutral(name, body[name])) for name in body)


def _is_neutral(name: str, value: Any) -> bool:
    # 0 and False are equal, but a completion's `logprobs: 0` asks for something.
    return any(value == neutral and type(value) is type(neutral) for neutral in _NEUTRAL[name])
