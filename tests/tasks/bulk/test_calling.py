"""Where tasks that users call by name go, and what is shown of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.bulk.calling import as_task_error, route
from tasks.bulk.filling import filled
from tasks.errors import ModelNotFoundError
from tasks.messages import Endpoint


@pytest.mark.parametrize("name", ["tasks.chat", "tasks.complete", "tasks.embed", "tasks.batch"])
def test_they_go_to_the_queue_of_bulk_work_without_their_arguments_in_clear(name: str) -> None:
    assert route(name, (), {}, {}) == {"queue": "batch", "argsrepr": "-", "kwargsrepr": "-"}


def test_others_go_elsewhere() -> None:
    assert route("tasks.loader.load", (), {"input": "x"}, {}) is None


def test_a_path_is_made_absolute_where_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    for given, made in (("a.jsonl", tmp_path / "a.jsonl"), ("/b", Path("/b")), ("~/c", Path("/somebody/c"))):
        kwargs: dict[str, Any] = {"input": given}
        route("tasks.batch", (), kwargs, {})
        assert kwargs == {"input": str(made)}


def test_a_chat_has_no_path() -> None:
    kwargs = {"input": "text"}
    route("tasks.embed", (), kwargs, {})
    assert kwargs == {"input": "text"}


def test_an_error_says_its_code_in_its_text() -> None:
    error = as_task_error(ModelNotFoundError("There is no such model.", param="model"))
    assert isinstance(error, ModelNotFoundError)
    assert str(error) == "model_not_found: There is no such model."


def test_a_line_gets_what_it_lacks_and_nothing_else() -> None:
    lines = [b'{"prompt":"a"}\n', b'{"custom_id":"x","body":{"model":"m"}}\n', b'{"custom_id":"y","body":{}}\n']
    assert list(filled(lines, endpoint=None, model="d")) == [
        b'{"prompt":"a","model":"d"}\n',
        lines[1],
        b'{"custom_id":"y","body":{"model":"d"}}\n',
    ]
    (whole, *_) = filled(lines, endpoint=Endpoint.COMPLETION, model=None)
    assert whole == b'{"custom_id":"line-1","method":"POST","url":"/v1/completions","body":{"prompt":"a"}}\n'


def test_a_line_that_cannot_be_read_stays_for_the_batch_to_say_so() -> None:
    lines = [b"{no json\n", b"[1]\n", b"\n", b'{"body":7}']
    assert list(filled(lines, endpoint=Endpoint.CHAT, model="d")) == [*lines[:3], b'{"body":7}\n']
