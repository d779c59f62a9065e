"""The bytes of requests, and when they come."""

from __future__ import annotations

import json
from itertools import islice, pairwise

import pytest

from deploy.bench.plan import Endpoint, Plan, arrivals, requests_of
from deploy.errors import CommandError
from deploy.gateway_http import Address


def taken_apart(request: bytes) -> tuple[str, dict[str, str], dict[str, object]]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return first, headers, json.loads(body)


def test_a_request_is_what_the_api_asks_for() -> None:
    plan = Plan(models=("m",), tokens=5, prompt="Grüße %08d", usage=False)
    requests = requests_of(plan, Address("http://127.0.0.1:8000", "sk-1"))
    first, headers, body = taken_apart(requests.numbered(3))
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert headers["Host"] == "127.0.0.1:8000"
    assert headers["Authorization"] == "Bearer sk-1"
    messages = [{"role": "user", "content": "Grüße %08d"}]
    assert body == {"model": "m", "max_tokens": 5, "stream": True, "messages": messages}


def test_options_are_in_the_body() -> None:
    plan = Plan(models=("m",), tokens=5, prompt="x", endpoint=Endpoint.COMPLETION, ignore_eos=True)
    first, headers, body = taken_apart(requests_of(plan, Address("https://h/api/v1/")).numbered(0))
    assert first == "POST /api/v1/completions HTTP/1.1"
    assert "Authorization" not in headers
    assert body["prompt"] == "x"
    assert body["ignore_eos"] is True
    assert body["min_tokens"] == 5
    assert body["stream_options"] == {"include_usage": True}


def test_no_made_prompt_begins_as_another() -> None:
    plan = Plan(models=("%08d",), prompt_tokens=4, endpoint=Endpoint.COMPLETION, stream=False)
    requests = requests_of(plan, Address("http://h"))
    _, _, body = taken_apart(requests.numbered(7))
    assert body == {"model": "%08d", "max_tokens": 64, "stream": False, "prompt": "00000007 the of and"}
    assert taken_apart(requests.numbered(10**8 + 8))[2]["prompt"] == "00000008 the of and"


def test_models_are_asked_in_turn() -> None:
    requests = requests_of(Plan(models=("one", "three"), prompt="x"), Address("http://h"))
    assert [taken_apart(requests.numbered(i))[2]["model"] for i in range(3)] == ["one", "three", "one"]


def test_the_schedule_is_that_of_its_seed() -> None:
    some = list(islice(arrivals(50, seed=3), 1000))
    assert some == list(islice(arrivals(50, seed=3), 1000))
    assert some != list(islice(arrivals(50, seed=4), 1000))
    assert some == sorted(some)
    assert some[0] > 0


def test_requests_come_by_chance_at_their_rate() -> None:
    times = [0.0, *islice(arrivals(50, seed=1), 20_000)]
    waits = [after - before for before, after in pairwise(times)]
    mean = sum(waits) / len(waits)
    assert mean == pytest.approx(1 / 50, rel=0.03)
    # That of exponential waits is their mean squared.
    assert sum((wait - mean) ** 2 for wait in waits) / len(waits) == pytest.approx(mean**2, rel=0.1)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://h", "http://", "http://h:x"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(CommandError, match="is no address"):
        requests_of(Plan(models=("m",)), Address(url))
