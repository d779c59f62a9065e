"""What a client gets whose model has to be loaded first: it waits, comes again, or learns that neither is of use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tasks.messages import Started
from tasks.requests.cold_start import Patience
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat, make_app
from workers.placement.actions import Explanation, Outlook

LOADING = Explanation(outlook=Outlook.LOADING, text="it is being loaded", retry_after_s=20.0, progress=0.4)
NO_ROOM = Explanation(outlook=Outlook.NO_CAPACITY, text="cuda:0 of gpu-7 is full", retry_after_s=12.0)
FAILED = Explanation(outlook=Outlook.FAILED, text="/models/demo/model.safetensors: out of memory")


def post(client: FlaskClient, wait: str | None = None, **headers: str) -> Any:
    headers |= {} if wait is None else {"X-SSW-Wait": wait}
    return client.post("/v1/chat/completions", json=chat(), headers=headers)


@pytest.fixture
def cold(dispatcher: FakeDispatcher) -> FakeDispatcher:
    dispatcher.cold.add("demo")
    return dispatcher


@pytest.fixture
def deferring(tmp_path: Path, cold: FakeDispatcher) -> FlaskClient:
    return make_app(tmp_path, cold, cold_start="defer").test_client()


def test_a_client_that_says_nothing_waits_as_long_as_its_model_lets_it(
    client: FlaskClient, cold: FakeDispatcher
) -> None:
    assert post(client).status_code == 200
    assert (cold.terms[0].patience, cold.calls[0].queue_wait_s) == (Patience.WAIT, 40.0)


def test_a_client_that_does_not_wait_comes_again_and_finds_the_load_begun(
    client: FlaskClient, cold: FakeDispatcher
) -> None:
    cold.outlooks["demo"] = LOADING
    answer = post(client, "False")
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "60")
    assert answer.get_json() == {
        "object": "celerity.deferred",
        "model": "demo",
        "status": "loading",
        "progress": 0.4,
        "message": ("The model is not loaded: it is being loaded. Nothing was queued; repeat the request in a minute."),
    }
    assert (cold.calls, cold.asked) == ([], ["demo"])


def test_a_model_of_which_the_loader_has_not_heard_yet_is_queued_in_so_many_words(
    client: FlaskClient, cold: FakeDispatcher
) -> None:
    said = post(client, "false").get_json()
    assert (said["status"], said["progress"]) == ("queued", None)


def test_a_warm_model_answers_a_client_that_does_not_wait(client: FlaskClient, dispatcher: FakeDispatcher) -> None:
    assert post(client, "false").status_code == 200
    assert dispatcher.asked == []


def test_an_installation_may_defer_and_a_client_may_insist(deferring: FlaskClient, cold: FakeDispatcher) -> None:
    assert post(deferring).status_code == 202
    assert post(deferring, "true").status_code == 200
    assert (cold.terms[0].patience, cold.calls[0].queue_wait_s) == (Patience.INSIST, 180.0)


@pytest.mark.parametrize("value", ["", "1", "yes", "true,false", "trueish"])
def test_a_wait_that_is_neither_true_nor_false_is_refused(client: FlaskClient, value: str) -> None:
    answer = post(client, value)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "invalid_request")


def test_who_fetches_its_answer_later_is_queued_whatever_is_set(deferring: FlaskClient, cold: FakeDispatcher) -> None:
    cold.script = [Started("r1", 1)]
    answer = post(deferring, Prefer="respond-async")
    assert (answer.status_code, answer.get_json()["object"]) == (202, "celerity.request")
    assert len(cold.calls) == 1


def test_a_deferred_request_does_not_use_up_its_key(deferring: FlaskClient, cold: FakeDispatcher) -> None:
    assert post(deferring, **{"Idempotency-Key": "k"}).status_code == 202
    cold.cold.clear()
    answer = post(deferring, **{"Idempotency-Key": "k"})
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (200, False)


def test_where_no_room_can_be_made_the_answer_is_429_and_names_no_machine(
    client: FlaskClient, cold: FakeDispatcher
) -> None:
    cold.outlooks["demo"] = NO_ROOM
    for wait in (None, "false"):
        answer = post(client, wait)
        error = answer.get_json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (429, "pool_exhausted", "rate_limit_error")
        assert 12 <= int(answer.headers["Retry-After"]) <= 24
        assert error["message"] == "No device can be freed for the model now."
    assert cold.asked == []


def test_a_client_that_insists_waits_for_room(client: FlaskClient, cold: FakeDispatcher) -> None:
    cold.outlooks["demo"] = NO_ROOM
    assert post(client, "true").status_code == 200


def test_a_model_that_cannot_be_loaded_is_503_with_its_reason_and_no_path(
    client: FlaskClient, cold: FakeDispatcher
) -> None:
    cold.outlooks["demo"] = FAILED
    for wait in (None, "true", "false"):
        answer = post(client, wait)
        assert answer.status_code == 503
        error = answer.get_json()["error"]
        assert error["code"] == "model_load_failed"
        assert error["message"] == "The model could not be loaded: …: out of memory."


def test_deferred_requests_are_counted_by_model(client: FlaskClient, cold: FakeDispatcher) -> None:
    def count() -> float:
        lines = client.get("/metrics").get_data(as_text=True).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("celerity_requests_deferred_total"))

    before = count()
    post(client, "false")
    assert count() == before + 1
