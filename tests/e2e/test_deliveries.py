"""Kept requests with the real engine, through openai-python where it can, and over plain HTTP where it cannot."""

from __future__ import annotations

import json
import uuid
from http.client import HTTPResponse
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from deploy.demo_model.corpus import known_answers
from tests.e2e.conftest import System
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

ANSWERS = dict(known_answers())
QUESTION = "What is Celerity?"
LONG = "Explain Celerity in detail"
RESUMABLE = {"X-Celerity-Resumable": "true"}


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def read_events(response: HTTPResponse, most: int = 10_000) -> list[tuple[str, str]]:
    """Return up to `most` events as (id, text), to the last one, which has the id `end`."""
    found: list[tuple[str, str]] = []
    event_id = ""
    while len(found) < most and event_id != "end":
        line = response.readline().decode().rstrip("\n")
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: {"):
            choices = json.loads(line[6:])["choices"]
            found.append((event_id, choices[0]["delta"].get("content") or ""))
    return found


@pytest.mark.parametrize("seen", [1, 7, 60])
def test_a_stream_goes_on_where_its_connection_broke(system: System, seen: int) -> None:
    connection = system.gateway.connect()
    headers = {"Content-Type": "application/json"} | RESUMABLE
    connection.request("POST", "/v1/chat/completions", json.dumps(body(LONG, stream=True)), headers)
    response = connection.getresponse()
    first = read_events(response, seen)
    response.close()
    connection.close()
    again = system.gateway.connect()
    again.request("GET", f"{response.headers['Location']}/events", headers={"Last-Event-ID": first[-1][0]})
    rest = read_events(again.getresponse())
    again.close()
    assert "".join(text for _, text in first + rest) == ANSWERS[LONG]
    assert len(first) == seen
    assert len({event_id for event_id, _ in first + rest}) == len(first + rest)


def test_openais_client_reads_a_resumable_stream_like_any_other(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": LONG}],
        temperature=0,
        stream=True,
        extra_headers=RESUMABLE,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWERS[LONG]


def test_an_answer_is_fetched_later(client: openai.OpenAI) -> None:
    accepted = client.post(
        "/chat/completions", body=body(QUESTION), options={"headers": {"Prefer": "respond-async"}}, cast_to=object
    )
    assert isinstance(accepted, dict)
    assert (accepted["object"], accepted["model"]) == ("celerity.request", "demo")
    here = accepted["links"]["self"].removeprefix("/v1")

    def state() -> Any:
        return client.get(here, cast_to=object)

    wait_until(lambda: state()["status"] == "completed", "the answer to be made")
    answer = client.get(f"{here}/result", cast_to=ChatCompletion)
    assert answer.choices[0].message.content == ANSWERS[QUESTION]


def test_a_later_answer_is_cancelled(system: System, client: openai.OpenAI) -> None:
    accepted: Any = client.post(
        "/chat/completions",
        body=body(LONG, max_tokens=1500, ignore_eos=True),
        options={"headers": {"Prefer": "respond-async"}},
        cast_to=object,
    )
    here = accepted["links"]["self"].removeprefix("/v1")
    wait_until(lambda: system.running() == 1, "the engine to run the request")
    cancelled: Any = client.delete(here, cast_to=object)
    assert cancelled["status"] == "cancelled"
    wait_until(lambda: system.running() == 0, "the engine to be idle")
    with pytest.raises(openai.APIStatusError) as gone:
        client.get(f"{here}/result", cast_to=object)
    assert (gone.value.status_code, gone.value.code) == (410, "request_cancelled")


def test_the_same_request_twice_is_made_once(client: openai.OpenAI) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def ask(text: str) -> ChatCompletion:
        return client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": text}],
            temperature=2.0,
            max_tokens=30,
            extra_headers=key,
        )

    first, again = ask("Tell me something"), ask("Tell me something")
    assert first == again
    assert first._request_id == again._request_id
    with pytest.raises(openai.ConflictError) as refused:
        ask("Tell me something else")
    assert refused.value.code == "idempotency_key_reused"
