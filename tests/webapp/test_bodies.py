"""Completions, embeddings, model names, and what cannot fit: refused before anything is queued."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat

USER = {"role": "user", "content": "Hello"}

BAD_COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "invalid_request", "prompt"),
    ({"prompt": ""}, "invalid_request", "prompt"),
    ({"prompt": []}, "invalid_request", "prompt"),
    ({"prompt": 3}, "invalid_request", "prompt"),
    ({"prompt": [1.5]}, "invalid_request", "prompt"),
    ({"prompt": ["a", 1]}, "invalid_request", "prompt[1]"),
    ({"prompt": [1, "a"]}, "invalid_request", "prompt"),
    ({"prompt": [[1], []]}, "invalid_request", "prompt[1]"),
    ({"prompt": [-1]}, "invalid_request", "prompt"),
    ({"prompt": [True]}, "invalid_request", "prompt"),
    ({"prompt": [10**9]}, "invalid_request", "prompt"),
    ({"prompt": ["a"] * 1000}, "invalid_request", "prompt"),
    ({"prompt": ["a"] * 20, "n": 16}, "invalid_request", "prompt"),
    ({"max_tokens": 0}, "invalid_request", "max_tokens"),
    ({"logprobs": 21}, "invalid_request", "logprobs"),
    ({"logprobs": True}, "invalid_request", "logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "invalid_request", "prompt_logprobs"),
    ({"suffix": "x"}, "unsupported_parameter", "suffix"),
    ({"best_of": 3}, "unsupported_parameter", "best_of"),
    ({"prompt_embeds": "x"}, "unsupported_parameter", "prompt_embeds"),
    ({"messages": []}, "unknown_parameter", "messages"),
]


@pytest.mark.parametrize(("fields", "code", "param"), BAD_COMPLETIONS)
def test_a_bad_completion_is_refused(client: FlaskClient, fields: dict[str, Any], code: str, param: str) -> None:
    answer = client.post("/v1/completions", json={"model": "demo", "prompt": "Once"} | fields)
    assert answer.status_code == 400
    assert (answer.get_json()["error"]["code"], answer.get_json()["error"]["param"]) == (code, param)


@pytest.mark.parametrize("prompt", ["Once", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_completion_takes_text_and_tokens(client: FlaskClient, prompt: object) -> None:
    assert client.post("/v1/completions", json={"model": "demo", "prompt": prompt, "n": 2}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": ["a"] * 3000}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "bytes"}, "encoding_format"),
        ({"stream": True}, "stream"),
        ({"messages": []}, "messages"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_a_bad_embedding_is_refused(client: FlaskClient, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/embeddings", json={"model": "demo", "input": "text"} | fields)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == param


def test_an_embedding_takes_what_openai_clients_send(client: FlaskClient) -> None:
    body = {"model": "demo", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8, "user": "u"}
    assert client.post("/v1/embeddings", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("chat/completions", {"messages": [USER], "max_tokens": 64}, "max_tokens"),
        ("chat/completions", {"messages": [USER], "max_completion_tokens": 100}, "max_completion_tokens"),
        ("completions", {"prompt": [1] * 65, "max_tokens": None}, "prompt"),
        ("completions", {"prompt": [[1], [1] * 60], "max_tokens": 8}, "max_tokens"),
        ("embeddings", {"input": [1] * 65}, "input"),
    ],
)
def test_what_cannot_fit_the_context_is_refused_at_once(
    client: FlaskClient, dispatcher: FakeDispatcher, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = client.post(f"/v1/{path}", json={"model": "org/small"} | fields)
    assert answer.status_code == 400
    error = answer.get_json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert dispatcher.calls == []


@pytest.mark.parametrize(
    "name",
    [
        "gpt-9",
        "../../etc/passwd",
        "a/b",
        "%2e%2e%2f",
        "x" * 10_000,
        "demo*",
        "demo\x06\x169",
        "DEMO",
        " demo",
        "",
        "\x00",
    ],
)
def test_an_unknown_model_is_not_found_and_leaves_no_trace(
    client: FlaskClient, dispatcher: FakeDispatcher, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    answer = client.post("/v1/chat/completions", json=chat(model=name))
    assert answer.status_code == 404
    assert answer.get_json()["error"]["code"] == "model_not_found"
    assert dispatcher.calls == []
    if name:
        assert name not in caplog.text
        assert f'"{name}"' not in client.get("/metrics").get_data(as_text=True)


def test_an_alias_is_resolved_before_the_queue(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    assert client.post("/v1/chat/completions", json=chat(model="light")).status_code == 200
    call = dispatcher.calls[0]
    assert (call.model, call.queue_wait_s) == ("demo", 40.0)
