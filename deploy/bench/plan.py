"""What a load asks for, and the bytes of its requests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, cycle, islice
from typing import Any

from deploy.gateway_http import Address

# Mostly one token each, whatever the tokenizer.
_WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "with", "as", "it", "be", "by", "at")
# In front of every made prompt, so that no prefix of it is one that a server has seen.
_NUMBER = "%08d"


class Endpoint(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"

    @property
    def path(self) -> str:
        return "/chat/completions" if self is Endpoint.CHAT else "/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked, how often, and for how long."""

    models: tuple[str, ...]
    """Asked in turn."""
    endpoint: Endpoint = Endpoint.CHAT
    stream: bool = True
    tokens: int = 64
    prompt: str | None = None
    """Sent as it is with every request; None makes a prompt for each."""
    prompt_tokens: int = 16
    """About how long a made prompt is."""
    ignore_eos: bool = False
    usage: bool = True
    """Whether streams are asked how many tokens they had."""
    concurrency: int | None = None
    """Connections that each ask again at once; with a rate, how many there are at most."""
    rate: float | None = None
    """Requests a second that come by chance, whether the ones before are answered or not."""
    seed: int = 0
    """Of the times at which they come."""
    seconds: float | None = None
    requests: int | None = None
    warmup_s: float = 1.0
    timeout_s: float = 120.0

    def body(self, model: str) -> dict[str, Any]:
        """Return the body of a request to a model; a prompt that is made has `_NUMBER` in it."""
        prompt = self.prompt if self.prompt is not None else _made(self.prompt_tokens)
        body: dict[str, Any] = {"model": model, "max_tokens": self.tokens, "stream": self.stream}
        if self.endpoint is Endpoint.CHAT:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if self.stream and self.usage:
            body["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": self.tokens}
        return body


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of a plan as they go over the wire: one a model, alike but for a number in them."""

    parts: tuple[tuple[bytes, bytes | None], ...]
    """What is before the number and behind it; None behind one that has no number."""

    def numbered(self, number: int) -> bytes:
        before, after = self.parts[number % len(self.parts)]
        return before if after is None else b"%b%08d%b" % (before, number % 100_000_000, after)


def requests_of(plan: Plan, address: Address) -> Requests:
    """Return the bytes of what `plan` asks at `address`. Raises CommandError for what is no address."""
    return Requests(tuple(_request(plan, model, address) for model in plan.models))


def _request(plan: Plan, model: str, address: Address) -> tuple[bytes, bytes | None]:
    parts = address.parts()
    body = json.dumps(plan.body(model)).encode()
    made = plan.prompt is None
    length = len(body) + (len(_NUMBER % 0) - len(_NUMBER) if made else 0)
    head = [
        f"POST {parts.path}{plan.endpoint.path} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *([f"Authorization: Bearer {address.key}"] if address.key else []),
    ]
    whole = "\r\n".join(head).encode() + b"\r\n\r\n" + body
    if not made:
        return whole, None
    before, _, after = whole.rpartition(_NUMBER.encode())
    return before, after


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Yield the seconds at which requests come: by chance, `rate` of them a second, the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    return accumulate(iter(lambda: chance.expovariate(rate), None))


def _made(tokens: int) -> str:
    return " ".join([_NUMBER, *islice(cycle(_WORDS), max(0, tokens - 1))])
