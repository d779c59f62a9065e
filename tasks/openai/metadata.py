"""What a client may keep with its work: OpenAI's `metadata`."""

from __future__ import annotations

from typing import Any

from tasks.openai.fields import refuse

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512


def check(value: Any, param: str) -> None:
    """Raise InvalidRequestError unless it is an object of a few short texts."""
    if type(value) is not dict or len(value) > MAX_PAIRS:
        refuse(param, f"must be an object of at most {MAX_PAIRS} pairs.")
    for key, text in value.items():
        if not 1 <= len(key) <= MAX_KEY or "\0" in key:
            refuse(param, f"may have only keys of 1 to {MAX_KEY} characters.")
        if type(text) is not str or len(text) > MAX_VALUE or "\0" in text:
            refuse(f"{param}.{key}", f"must be a string of at most {MAX_VALUE} characters.")
