"""What a client's headers ask for, and which of them are refused."""

from __future__ import annotations

import pytest
from werkzeug.datastructures import Headers

from tasks.errors import InvalidRequestError
from tasks.messages import Endpoint
from webapp.openai.preferences import LASTING_KEEP_S, RESUMABLE_KEEP_S, Delivery, delivery_of


def wanted(*, stream: bool = True, **headers: str) -> Delivery:
    return delivery_of(Headers({name.replace("_", "-"): value for name, value in headers.items()}), stream=stream)


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    assert wanted() == Delivery()
    assert wanted().keep_s == 0


@pytest.mark.parametrize(
    ("value", "resumable"),
    [("true", True), ("TRUE", True), ("1", True), (" True ", True), ("false", False), ("False", False), ("0", False)],
)
def test_a_resumable_stream_is_asked_for_in_plain_words(value: str, resumable: bool) -> None:
    delivery = wanted(X_Celerity_Resumable=value)
    assert delivery.resumable is resumable
    assert delivery.keep_s == (RESUMABLE_KEEP_S if resumable else 0)


@pytest.mark.parametrize("value", ["yes", "2", "tru", "true,true", "truefalse", "on"])
def test_any_other_word_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="X-Celerity-Resumable"):
        wanted(X_Celerity_Resumable=value)


def test_only_a_stream_is_resumable() -> None:
    assert wanted(stream=False, X_Celerity_Resumable="true") == Delivery()


@pytest.mark.parametrize(
    "value",
    [
        "respond-async",
        "Respond-Async",
        "respond-async, wait=10",
        "wait=10,respond-async",
        'return=minimal; foo="a, b" , respond-async ; x=1',
        'foo="\\"", respond-async',
        'respond-async=""',
    ],
)
def test_a_later_answer_is_asked_for_among_other_preferences(value: str) -> None:
    assert wanted(Prefer=value).respond_async
    assert wanted(Prefer=value).keep_s == LASTING_KEEP_S


@pytest.mark.parametrize(
    "value",
    [
        "",
        "wait=10",
        "respond-asynchronously",
        'foo="respond-async"',
        'foo="a, respond-async',
        "foo; respond-async",
        ",",
    ],
)
def test_other_preferences_are_nobodys_concern(value: str) -> None:
    assert not wanted(Prefer=value).respond_async


@pytest.mark.parametrize("value", ['"' + '\\"' * 4000 + "\\", '"' * 8001, "," * 8000])
def test_a_nasty_preference_costs_nothing(value: str) -> None:
    assert not wanted(Prefer=value).respond_async


@pytest.mark.parametrize("key", ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "!~", '"quoted"', "x" * 255])
def test_a_key_is_any_visible_text(key: str) -> None:
    assert wanted(Idempotency_Key=key).key == key
    assert wanted(Idempotency_Key=key).keep_s == LASTING_KEEP_S


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "caf\u00e9", "a\x7f", "a\tb"])
def test_a_key_that_is_not_plain_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="Idempotency-Key"):
        wanted(Idempotency_Key=key)


def test_a_key_stands_for_an_endpoint_and_a_body() -> None:
    delivery = wanted(Idempotency_Key="k")
    first = delivery.once(Endpoint.CHAT, b"{}")
    assert first is not None
    assert (first.key, first.ttl_s) == ("k", LASTING_KEEP_S)
    others = [delivery.once(Endpoint.CHAT, b"{ }"), delivery.once(Endpoint.COMPLETION, b"{}")]
    assert len({once.digest for once in [first, *others] if once}) == 3
    assert delivery.once(Endpoint.CHAT, b"{}") == first
    assert wanted().once(Endpoint.CHAT, b"{}") is None
