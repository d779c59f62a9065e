"""JSON that can be read in one way only, from people we do not trust.

`json.loads` takes NaN, 1e999, lone surrogates, UTF-16 and the last of two equal keys,
and falls over deep nesting. orjson refuses all of these but the equal keys, and allows
a depth of 1024; both are checked here. Whoever parses the same bytes later must come to
the same value, since the body goes to the engine as it is.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from tasks.errors import InvalidJsonError

MAX_DEPTH = 64
MAX_KEYS = 20_000

# One JSON string, and the colon that makes it a key.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"([ \t\r\n]*:)?', re.DOTALL)


def parse(raw: bytes) -> dict[str, Any]:
    """Return the one object that `raw` holds. Raises InvalidJsonError."""
    # A string that ends before a colon is a key, nearly always: enough to turn away a
    # flood of keys without building it.
    if raw.count(b'":') - raw.count(b'\\":') > MAX_KEYS:
        raise _too_many_keys()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        # orjson's text names a position only, but it changes between releases.
        raise InvalidJsonError(_reason(raw)) from None
    if not isinstance(value, dict):
        raise InvalidJsonError("The body must be one JSON object.")
    keys = _count_keys(value)
    # Every key has its colon, so equal numbers leave no room for a repeated key.
    # Only when the text has other colons are the keys counted one by one.
    if raw.count(b":") != keys and sum(1 for found in _STRING.finditer(raw) if found[1]) != keys:
        raise InvalidJsonError("An object of the body has the same key twice.")
    return value


def _reason(raw: bytes) -> str:
    if not raw.strip():
        return "The body is empty; a JSON object is expected."
    return "The body is not valid JSON in UTF-8, or is nested too deeply."


def _count_keys(value: dict[str, Any]) -> int:
    """Count the keys of all objects in `value`, level by level."""
    keys = depth = 0
    level: list[Any] = [value]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidJsonError(f"The body is nested deeper than {MAX_DEPTH} levels.")
        keys += sum(len(item) for item in level if type(item) is dict)
        if keys > MAX_KEYS:
            raise _too_many_keys()
        level = [
            inner
            for item in level
            for inner in (item.values() if type(item) is dict else item)
            if type(inner) is dict or type(inner) is list
        ]
    return keys


def _too_many_keys() -> InvalidJsonError:
    return InvalidJsonError(f"The body has more than {MAX_KEYS} keys.")
