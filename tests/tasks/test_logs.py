from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tasks import logs


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    logs.configure("info", stream)
    yield stream
    root.handlers, root.level = handlers, level


def test_a_line_is_json_with_the_fields_beside_the_fact(out: io.StringIO) -> None:
    logging.getLogger("x.y").info("replica ready", extra={"event": "replica_ready", "load_s": 3.1, "who": {1: "a"}})
    logging.getLogger("x.y").debug("not written")
    (line,) = out.getvalue().splitlines()
    said = json.loads(line)
    assert said.pop("time").endswith("+00:00")
    assert said == {
        "level": "info",
        "logger": "x.y",
        "message": "replica ready",
        "event": "replica_ready",
        "load_s": 3.1,
        "who": {"1": "a"},
    }


def test_a_traceback_leaves_out_what_the_exception_says(out: io.StringIO) -> None:
    try:
        raise ValueError("a prompt")
    except ValueError:
        logging.getLogger("x").exception("broke", extra={"event": "broke"})
    assert "a prompt" not in out.getvalue()
    said = json.loads(out.getvalue())
    assert said["exception"] == "ValueError"
    assert "test_a_traceback_leaves_out" in said["stack"][0]


def test_a_librarys_handler_is_adopted(out: io.StringIO) -> None:
    library = logging.getLogger("tests.library")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    library.addHandler(handler)
    logs.adopt("tests.library")
    library.warning("told %s", "so")
    library.removeHandler(handler)
    assert json.loads(stream.getvalue())["message"] == "told so"
