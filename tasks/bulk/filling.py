"""What `tasks.batch` adds to lines that leave it out: the model, and the endpoint of those that are only a body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from tasks.bulk.input import URLS
from tasks.messages import Endpoint

_URL_OF = {endpoint: url for url, endpoint in URLS.items()}
_ENVELOPE = ("custom_id", "method", "url", "body")


def filled(lines: Iterable[bytes], *, endpoint: Endpoint | None, model: str | None) -> Iterator[bytes]:
    """Yield the lines with what they lack. One that cannot be read stays as it is: its batch will say what is wrong."""
    for number, raw in enumerate(lines, 1):
        try:
            said = orjson.loads(raw)
        except orjson.JSONDecodeError:
            yield raw
            continue
        yield orjson.dumps(_line(said, number, endpoint, model)) + b"\n" if isinstance(said, dict) else raw


def _line(said: dict[str, Any], number: int, endpoint: Endpoint | None, model: str | None) -> dict[str, Any]:
    if endpoint is not None and not any(name in said for name in _ENVELOPE):
        said = {"custom_id": f"line-{number}", "method": "POST", "url": _URL_OF[endpoint], "body": said}
    body = said.get("body", said if not any(name in said for name in _ENVELOPE) else None)
    if model is not None and isinstance(body, dict) and body.get("model") in (None, ""):
        body["model"] = model
    return said
