"""Asking the desk of bulk work from a gateway."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import FileNotFoundHereError, ServiceUnavailableError
from tests.fake_desk import FakeDesk
from tests.stack import in_threads
from tests.waiting import wait_until
from webapp import off_loop
from webapp.bulk_desk import BulkDesk

NO_FILE = f"file-{'0' * 24}"


def test_a_gateway_that_sees_no_batch_imports_no_database() -> None:
    heavy = "{'sqlalchemy', 'psycopg'} & {name.split('.')[0] for name in sys.modules}"
    program = f"import sys, webapp.wsgi; sys.exit(str({heavy} or '') or 0)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_desk_is_built_when_it_is_first_asked_and_closed_at_the_end(tmp_path: Path) -> None:
    built: list[FakeDesk] = []

    def build() -> FakeDesk:
        built.append(FakeDesk(tmp_path))
        return built[-1]

    bulk = BulkDesk(build)
    assert not built
    for _ in range(3):
        assert bulk.ask(lambda desk: desk.files("")) == ([], False)
    assert len(built) == 1
    bulk.close()
    assert built[0].closed


def test_an_answer_that_is_an_error_is_raised_to_who_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bulk = BulkDesk(lambda: FakeDesk(tmp_path))
    with pytest.raises(FileNotFoundHereError):
        bulk.ask(lambda desk: desk.file(NO_FILE, ""))
    assert bulk.ask(lambda desk: desk.files("")) == ([], False)
    assert capfd.readouterr().err == ""
    bulk.close()


def test_a_desk_that_cannot_be_built_is_built_anew_for_the_next(tmp_path: Path) -> None:
    answers = iter([ServiceUnavailableError("away"), None])

    def build() -> FakeDesk:
        if (error := next(answers)) is not None:
            raise error
        return FakeDesk(tmp_path)

    bulk = BulkDesk(build)
    with pytest.raises(ServiceUnavailableError):
        bulk.ask(lambda desk: desk.files(""))
    assert bulk.ask(lambda desk: desk.files("")) == ([], False)
    bulk.close()


def test_each_desk_serves_one_at_a_time_and_a_slow_one_holds_up_nobody(tmp_path: Path) -> None:
    """Of four one is stuck; the others answer what sixteen ask."""
    bulk = BulkDesk(lambda: FakeDesk(tmp_path))
    let_go, stuck = threading.Event(), threading.Event()
    busy: set[int] = set()
    most: list[int] = []

    def ask(desk: object) -> None:
        assert id(desk) not in busy
        busy.add(id(desk))
        most.append(len(busy))
        busy.discard(id(desk))

    def wait(_: object) -> None:
        stuck.set()
        wait_until(let_go.is_set, "the end of the test")

    waiting = threading.Thread(target=lambda: bulk.ask(wait))
    waiting.start()
    wait_until(stuck.is_set, "the slow one")
    in_threads(16, lambda index: bulk.ask(ask))
    let_go.set()
    waiting.join()
    assert len(most) == 16
    bulk.close()


def test_work_off_the_loop_returns_and_raises(capfd: pytest.CaptureFixture[str]) -> None:
    assert off_loop.run(lambda: 7) == 7
    with pytest.raises(OSError, match="full"):
        off_loop.run(_fail)
    assert capfd.readouterr().err == ""


def _fail() -> None:
    raise OSError("full")
