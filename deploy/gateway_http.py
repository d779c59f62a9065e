"""One request to a gateway over its HTTP API, and what is said of one that fails. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from deploy.errors import CommandError

# Longer than the gateway keeps silent on a stream: it sends a comment every few seconds.
_TIMEOUT_S = 120.0
_NOT_NOW = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_BLOCK = 1 << 18


class UnreachableError(CommandError):
    """Nobody answers there, or not now. The same request may be answered later."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to ask, and as whom. `url` is the address, with or without a trailing /v1."""

    url: str
    key: str | None = None

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Give the response of a request that succeeded; the connection ends with the block.

        `path` is that behind /v1. A body in pieces needs its Content-Length among the headers.
        Raises CommandError for a refusal, with the server's own words, and for an answer that
        the block cannot read; UnreachableError where the same may succeed later.
        """
        parts = self.parts()
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        all_headers = dict(headers or {}) | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        try:
            response = _sent(connection, method, parts.path + path, body, all_headers)
            if response.status != HTTPStatus.OK:
                refusal = UnreachableError if _may_come(response) else CommandError
                raise refusal(_error_text(response))
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{self.url} does not answer: {error or type(error).__name__}") from None
        except (ValueError, KeyError, TypeError):
            raise CommandError(f"what answers at {self.url} does not speak the OpenAI API") from None
        finally:
            connection.close()

    def parts(self) -> SplitResult:
        """Return the address taken apart, its path with /v1. Raises CommandError for what is none."""
        try:
            parts = urlsplit(self.url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                base = parts.path.rstrip("/")
                return parts._replace(path=base if base.endswith("/v1") else base + "/v1")
        except ValueError:  # no number for a port, or a bracket that is not closed
            pass
        raise CommandError(f"{self.url!r} is no address; one looks like http://127.0.0.1:8000")


def blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what a response holds. Raises ConnectionError when it is cut, which reading by pieces does not notice."""
    missing = response.length
    while block := response.read(_BLOCK):
        if missing is not None:
            missing -= len(block)
        yield block
    if missing:
        raise ConnectionError("it broke off")


def _sent(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        # One that refuses a long body says so before it has come, and hangs up.
        connection.request(method, path, body, headers)
    return connection.getresponse()


def _may_come(response: http.client.HTTPResponse) -> bool:
    """Say whether the same request may succeed in a moment."""
    return response.status in _NOT_NOW and response.headers.get("x-should-retry") != "false"


def _error_text(response: http.client.HTTPResponse) -> str:
    try:
        error = json.loads(response.read(1_000_000))["error"]
        text = f"{error['message']} ({error.get('code') or response.status})"
    except (ValueError, KeyError, TypeError):
        text = f"the server answered {response.status} {response.reason}"
    return f"{text}; name yours with --key or CELERITY_API_KEY" if response.status == HTTPStatus.UNAUTHORIZED else text
