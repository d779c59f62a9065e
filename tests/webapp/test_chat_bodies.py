"""What a chat may ask for: the rest is refused by name before anything is queued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.fakes import FakeDispatcher
from tests.webapp.chat_rows import BAD_CHATS, GOOD_CHATS
from tests.webapp.conftest import chat


@pytest.mark.parametrize(("fields", "code", "param"), [row[1:] for row in BAD_CHATS], ids=[row[0] for row in BAD_CHATS])
def test_a_bad_chat_is_refused_with_the_name_of_its_field(
    client: FlaskClient, dispatcher: FakeDispatcher, fields: dict[str, Any], code: str, param: str
) -> None:
    answer = client.post("/v1/chat/completions", json=chat(**fields))
    assert answer.status_code == 400
    error = answer.get_json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert dispatcher.calls == []
    assert client.post("/v1/chat/completions", json=chat()).status_code == 200


@pytest.mark.parametrize("fields", GOOD_CHATS, ids=[", ".join(fields) or "plain" for fields in GOOD_CHATS])
def test_a_good_chat_is_queued_byte_for_byte(
    client: FlaskClient, dispatcher: FakeDispatcher, fields: dict[str, Any]
) -> None:
    raw = json.dumps(chat(**fields), indent=1).encode()
    answer = client.post("/v1/chat/completions", data=raw, content_type="application/json; charset=utf-8")
    assert answer.status_code == 200, answer.get_json()
    assert dispatcher.calls[0].body == raw
