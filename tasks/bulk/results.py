"""The lines of a batch's output and error file, as OpenAI writes them. Pure.

An answer, and an error that a request was answered with, have a response; a line that
was never answered has only an error.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from tasks.bulk.records import Outcome
from tasks.errors import BatchExpiredError

# OpenAI's words.
_MESSAGES = {BatchExpiredError.code: "This request could not be executed before the completion window expired."}


def result_line(custom_id: str, outcome: Outcome) -> bytes:
    """Return the line, with its end. The bytes of the body stand in it as they are."""
    head = {"id": _id(outcome), "custom_id": custom_id}
    return orjson.dumps(head)[:-1] + (_answered(outcome) if outcome.body else _unanswered(outcome)) + b"}\n"


def _id(outcome: Outcome) -> str:
    """Return an id that is the same whenever the file is written."""
    digest = blake2b(f"{outcome.batch}/{outcome.number}".encode(), digest_size=12)
    return f"batch_req_{digest.hexdigest()}"


def _answered(outcome: Outcome) -> bytes:
    head = orjson.dumps({"status_code": outcome.status_code, "request_id": outcome.request_id})
    # Between its tokens JSON may have line ends, and nowhere else.
    body = outcome.body.replace(b"\n", b" ").replace(b"\r", b" ")
    return b',"response":' + head[:-1] + b',"body":' + body + b'},"error":null'


def _unanswered(outcome: Outcome) -> bytes:
    code = outcome.code or ""
    error = {"code": code, "message": outcome.message or _MESSAGES.get(code, "This request was not executed.")}
    return b',"response":null,"error":' + orjson.dumps(error)
