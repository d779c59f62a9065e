from __future__ import annotations

import json

import pytest

from tasks.errors import InvalidRequestError, ServingError, error_of, every_error
from tasks.openai import faces
from webapp.openai import errors


def test_every_error_has_a_face() -> None:
    assert {error.code for error in every_error()} == set(faces.FACES)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_the_envelope_always_has_its_four_keys(kind: type[ServingError]) -> None:
    said = json.loads(faces.body(kind("What to do.")))
    assert set(said) == {"error"}
    assert set(said["error"]) == {"message", "type", "param", "code"}
    assert said["error"]["code"] == kind.code
    assert said["error"]["message"] == "What to do."


def test_the_field_is_named() -> None:
    said = json.loads(faces.body(InvalidRequestError("no", param="messages[0].role")))
    assert said["error"]["param"] == "messages[0].role"


@pytest.mark.parametrize(
    ("code", "status", "headers"),
    [
        ("context_length_exceeded", 400, {}),
        ("invalid_api_key", 401, {"WWW-Authenticate": "Bearer"}),
        ("operator_key_required", 403, {}),
        ("forbidden_origin", 403, {}),
        ("model_not_found", 404, {}),
        ("request_timeout", 408, {}),
        ("request_too_large", 413, {}),
        ("unsupported_media_type", 415, {}),
        ("server_overloaded", 503, {"Retry-After": "2"}),
        ("model_load_failed", 503, {"Retry-After": "30"}),
        ("pool_exhausted", 429, {"Retry-After": "30"}),
        ("deadline_exceeded", 504, {"x-should-retry": "false"}),
        ("engine_failed", 500, {}),
        ("code_of_a_newer_release", 500, {}),
    ],
)
def test_a_code_decides_status_and_headers(code: str, status: int, headers: dict[str, str]) -> None:
    answer = errors.response(error_of(code, "text"))
    assert answer.status_code == status
    for name in ("WWW-Authenticate", "Retry-After", "x-should-retry"):
        assert answer.headers.get(name) == headers.get(name)


def test_an_error_that_would_come_again_says_so() -> None:
    answer = errors.response(error_of("engine_failed", "It broke twice.", final=True))
    assert answer.headers["x-should-retry"] == "false"


def test_an_error_that_knows_better_says_when_to_come_back() -> None:
    answer = errors.response(error_of("pool_exhausted", "No device.", retry_after_s=7.5), 1.0)
    assert (answer.headers["Retry-After"], answer.headers["retry-after-ms"]) == ("15", "15000")


@pytest.mark.parametrize(
    ("code", "luck", "seconds", "milliseconds"),
    [
        ("server_overloaded", 0.0, "2", "2000"),
        ("server_overloaded", 0.3, "3", "2600"),
        ("server_overloaded", 0.9999, "4", "4000"),
        ("service_unavailable", 0.0, "1", "1000"),
        ("service_unavailable", 0.7, "2", "1700"),
        ("model_load_failed", 0.5, "45", "45000"),
    ],
)
def test_those_who_were_refused_together_come_back_one_by_one(
    code: str, luck: float, seconds: str, milliseconds: str
) -> None:
    answer = errors.response(error_of(code, "text"), luck)
    assert (answer.headers["Retry-After"], answer.headers["retry-after-ms"]) == (seconds, milliseconds)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 414, 417, 431, 500, 501])
def test_http_errors_have_the_same_envelope(status: int) -> None:
    reason, body = errors.http_error(status)
    assert reason
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
