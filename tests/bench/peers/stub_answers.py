"""The bytes of the stub's answers: vLLM's shapes, each built once and filled in."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import orjson

DEFAULT_TOKENS = 16
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants."""

    model: str
    tokens: int
    stream: bool
    usage: bool


def asked(body: bytes) -> Asked:
    """Return what the body of a request says. Raises ValueError, KeyError or TypeError where it says it wrongly."""
    said = orjson.loads(body)
    tokens = said.get("max_completion_tokens") or said.get("max_tokens") or DEFAULT_TOKENS
    usage = bool((said.get("stream_options") or {}).get("include_usage"))
    return Asked(str(said["model"]), int(tokens), bool(said.get("stream")), usage)


class Frames:
    """The frames of one streamed answer, as chunks of the HTTP body."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        head = {"id": _id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": asked.model}
        self._head = orjson.dumps(head)[:-1]

    def role(self) -> bytes:
        return self._frame(b'{"role":"assistant","content":""}', b"null")

    def token(self, index: int) -> bytes:
        return self._frame(b'{"content":"%b"}' % word(index).encode(), b"null")

    def end(self) -> bytes:
        """The reason for the finish, the usage if it is wanted, and [DONE], which vLLM also writes at once."""
        frames = self._frame(b"{}", b'"length"')
        if self._asked.usage:
            counted = orjson.dumps(usage(self._asked.tokens))
            frames += chunk(b'data: %b,"choices":[],"usage":%b}\n\n' % (self._head, counted))
        return frames + chunk(b"data: [DONE]\n\n") + STREAM_END

    def _frame(self, delta: bytes, finish: bytes) -> bytes:
        choice = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}' % (delta, finish)
        return chunk(b'data: %b,"choices":[%b]}\n\n' % (self._head, choice))


def whole(asked: Asked) -> bytes:
    """Return the HTTP response with the whole answer."""
    message = {"role": "assistant", "content": "".join(word(i) for i in range(asked.tokens))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    head: dict[str, Any] = {"id": _id(), "object": "chat.completion", "created": int(time.time())}
    return response(200, head | {"model": asked.model, "choices": [choice], "usage": usage(asked.tokens)})


def models(names: list[str]) -> bytes:
    facts = {"object": "model", "created": 0, "owned_by": "stub", "max_model_len": 8192}
    return response(200, {"object": "list", "data": [{"id": name, **facts} for name in names]})


def refusal(status: int, message: str) -> bytes:
    return response(status, {"error": {"message": message, "type": "invalid_request_error", "code": status}})


def response(status: int, body: dict[str, Any]) -> bytes:
    data = orjson.dumps(body)
    head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data


def usage(tokens: int) -> dict[str, int]:
    """Return what an answer of so many tokens says of itself; every prompt counts as eight."""
    return {"prompt_tokens": 8, "total_tokens": tokens + 8, "completion_tokens": tokens}


def word(index: int) -> str:
    """Return the text of the token: as long as what the simulated engine says."""
    return f"stub.{index} "


def chunk(data: bytes) -> bytes:
    """Return it as one chunk of an HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _id() -> str:
    return f"chatcmpl-{secrets.token_hex(16)}"
