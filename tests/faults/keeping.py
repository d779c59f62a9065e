"""Requests that nobody waits for (`Prefer: respond-async`)."""

from __future__ import annotations

import http.client
import json
import time

from tests.faults.client import Ask
from tests.faults.system import System


def accept(port: int, what: Ask) -> tuple[str, str]:
    """Hand in a request that nobody waits for. Returns its address, and what its answer must say."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = what.all_headers() | {"Prefer": "respond-async"}
        connection.request("POST", "/v1/chat/completions", what.body(), headers)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 202, body
        return response.headers["Location"], what.expected
    finally:
        connection.close()


def state_of(system: System, path: str) -> str:
    """Return the request's status as its owner sees it."""
    status, body = system.gateways[0].get(path)
    return str(json.loads(body)["status"]) if status == 200 else f"{status}: {body[:100]!r}"


def result_of(system: System, path: str, expected: str, *, within_s: float = 30.0) -> str:
    """Return "ok" once the kept answer is there and right, else what is wrong."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        status, body = system.gateways[0].get(f"{path}/result")
        if status == 200:
            text = json.loads(body)["choices"][0]["message"]["content"]
            return "ok" if text == expected else f"wrong text: {text[:40]!r}"
        if status not in (0, 202, 503):
            return f"{status}: {body[:100]!r}"
        time.sleep(0.2)
    return f"not answered within {within_s:g} s"
