"""X1, X5: what is no JSON body is refused, before it is read where that is possible."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData

from tasks.errors import InvalidRequestError, RequestTimeoutError, RequestTooLargeError
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat, make_app
from webapp import request_body

URL = "/v1/chat/completions"


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{", b'"x"', "{}".encode("utf-16"), b"\xef\xbb\xbf{}", b"[" * 100_000]
)
def test_a_body_that_is_no_object_is_invalid_json(client: FlaskClient, raw: bytes) -> None:
    answer = client.post(URL, data=raw, content_type="application/json")
    assert answer.status_code == 400
    assert answer.get_json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/json; charset=utf-16"],
)
def test_another_type_is_refused(client: FlaskClient, kind: str) -> None:
    answer = client.post(URL, data=json.dumps(chat()), content_type=kind)
    assert answer.status_code == 415
    assert answer.get_json()["error"]["code"] == "unsupported_media_type"


def test_a_compressed_body_is_refused(client: FlaskClient) -> None:
    answer = client.post(URL, json=chat(), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_a_large_body_is_refused(tmp_path: Path) -> None:
    client = make_app(tmp_path, FakeDispatcher(), max_body_bytes=1000).test_client()
    answer = client.post(URL, json=chat(user="x" * 1000))
    assert answer.status_code == 413
    assert answer.get_json()["error"]["code"] == "request_too_large"


class Unreadable(io.BytesIO):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self.error


def environ(body: io.BytesIO, **more: object) -> dict[str, object]:
    return {"CONTENT_TYPE": "application/json", "wsgi.input": body, "wsgi.input_terminated": True, **more}


def test_a_large_body_is_refused_unread() -> None:
    with pytest.raises(RequestTooLargeError):
        request_body.read(environ(Unreadable(AssertionError()), CONTENT_LENGTH="101"), 100)


def test_a_body_without_a_length_is_read_to_the_limit_only() -> None:
    body = io.BytesIO(b"x" * 1000)
    with pytest.raises(RequestTooLargeError):
        request_body.read(environ(body), 100)
    assert body.tell() == 101
    assert request_body.read(environ(io.BytesIO(b"{}")), 100) == b"{}"


def test_a_body_shorter_than_it_says_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        request_body.read(environ(io.BytesIO(b"{}"), CONTENT_LENGTH="3"), 100)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "\u0663"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(InvalidRequestError):
        request_body.read(environ(io.BytesIO(b"{}"), CONTENT_LENGTH=length), 100)


@pytest.mark.parametrize("error", [NoMoreData(), ChunkMissingTerminator(b""), ConnectionResetError()])
def test_a_body_that_breaks_off_is_the_clients_mistake(error: Exception) -> None:
    with pytest.raises(InvalidRequestError):
        request_body.read(environ(Unreadable(error), CONTENT_LENGTH="3"), 100)


def test_a_late_body_is_a_timeout() -> None:
    with pytest.raises(RequestTimeoutError):
        request_body.read(environ(Unreadable(TimeoutError()), CONTENT_LENGTH="3"), 100)
