"""`celerity chat`: a conversation with a model over the gateway's own HTTP API.

Standard library only, so that it also shows what any client needs to do.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, TextIO

from deploy import readiness, running
from deploy.errors import CommandError
from deploy.gateway_http import Address
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to ask. `url` is the address, with or without a trailing /v1."""

    url: str
    key: str | None = None

    def models(self) -> list[str]:
        with self._request("GET", "/models", None) as response:
            return [model["id"] for model in json.loads(response.read())["data"]]

    def answer(self, model: str, messages: list[dict[str, str]]) -> Generator[str, None, None]:
        """Yield the pieces of an answer. Closing the iterator closes the connection, which frees the model's seat."""
        body = {"model": model, "messages": messages, "stream": True}
        with self._request("POST", "/chat/completions", body) as response:
            for event in events(response):
                if "error" in event:
                    raise CommandError(event["error"].get("message", "the answer failed"))
                for choice in event.get("choices", ()):
                    yield choice.get("delta", {}).get("content") or ""

    def _request(self, method: str, path: str, body: Any) -> contextlib.AbstractContextManager[HTTPResponse]:
        data = None if body is None else json.dumps(body).encode()
        return Address(self.url, self.key).request(method, path, data, {"Content-Type": "application/json"})


def events(lines: Iterator[bytes] | HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a stream up to `[DONE]`; comments are skipped. Raises CommandError if it is cut."""
    for line in lines:
        if line.startswith(b"data: "):
            if (data := line[6:].strip()) == b"[DONE]":
                return
            yield json.loads(data)
    raise CommandError("the answer broke off")


def local_url(settings: Settings) -> str:
    """Return the address of the gateway that runs here, else the one that the settings would give it."""
    up = running.read(settings.state_dir)
    return up.url if up is not None else readiness.base_url(settings.host, settings.port)


def run(
    model: str | None, *, url: str, key: str | None, lines: TextIO | None = None, out: TextIO | None = None
) -> None:
    """Ask line by line until there are no more. Raises CommandError, in a pipe also for an answer that failed."""
    source, sink = lines or sys.stdin, out or sys.stdout
    gateway = Gateway(url, key)
    model = model or _first(gateway.models(), url)
    typed = source.isatty()
    if typed:
        print(f"{model} at {url}. Ctrl-C stops an answer, Ctrl-D ends.", file=sink)
    messages: list[dict[str, str]] = []
    for line in _typed_lines(sink) if typed else source:
        if not (text := line.strip()):
            continue
        messages.append({"role": "user", "content": text})
        try:
            said = say(gateway.answer(model, messages), sink)
        except CommandError as error:
            if not typed:
                raise
            print(f"\n! {error}", file=sink)
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": said})


def say(pieces: Generator[str, None, None], sink: TextIO) -> str:
    """Print the pieces as they come, and return them joined; Ctrl-C ends the answer, not the program."""
    said: list[str] = []
    with contextlib.closing(pieces) as stream, contextlib.suppress(KeyboardInterrupt):
        for piece in stream:
            said.append(piece)
            print(piece, end="", file=sink, flush=True)
    print(file=sink, flush=True)
    return "".join(said)


def _typed_lines(sink: TextIO) -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - makes `input` an editor with a history
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print(file=sink)
        except EOFError:
            print(file=sink)
            return


def _first(models: list[str], url: str) -> str:
    if not models:
        raise CommandError(f"{url} serves no model")
    return models[0]
