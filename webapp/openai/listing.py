"""Lists of records, page by page, as OpenAI's clients leaf through them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import orjson
from flask import Response, request

from tasks.errors import InvalidRequestError, UnknownParameterError


def known(*names: str) -> None:
    """Refuse a parameter in the address that is none of `names`, or is given twice."""
    for name in request.args:
        if name not in names:
            raise UnknownParameterError(f"Unknown parameter: '{name[:64]}'.", param=name[:64])
        if len(request.args.getlist(name)) > 1:
            raise InvalidRequestError(f"'{name}' is given twice.", param=name)


def limit(*, usual: int, most: int) -> int:
    """Return how many records the client wants on a page."""
    text = request.args.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidRequestError(f"'limit' must be a whole number from 1 to {most}.", param="limit")
    return int(text)


def choice(name: str, choices: Collection[str]) -> str | None:
    """Return one of `choices`, or None where the client does not say."""
    value = request.args.get(name)
    if value is not None and value not in choices:
        raise InvalidRequestError(f"'{name}' must be one of {', '.join(choices)}.", param=name)
    return value


def page(objects: Iterable[dict[str, Any]], *, more: bool) -> Response:
    data = list(objects)
    return json(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": more,
        }
    )


def json(document: dict[str, Any]) -> Response:
    """Return an object of which nobody may keep a copy: the next one may be different."""
    return Response(orjson.dumps(document), content_type="application/json", headers={"Cache-Control": "no-store"})
