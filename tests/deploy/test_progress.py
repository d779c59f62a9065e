"""What is said while it works."""

from __future__ import annotations

import io
from pathlib import Path

from deploy.local import without_password
from deploy.log_echo import LogEcho
from deploy.preflight import free_port
from deploy.progress import Progress
from deploy.readiness import base_url, gateway_answers


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_ready_goes_to_stdout() -> None:
    out, lines = io.StringIO(), io.StringIO()
    progress = Progress(out, lines)
    progress.say("redis", "ok")
    progress.block(["a", "b"])
    progress.ready("http://127.0.0.1:1/v1")
    assert out.getvalue() == "ready http://127.0.0.1:1/v1\n"
    assert lines.getvalue() == "redis      ok\n           | a\n           | b\n"


def test_a_wait_is_told_now_and_then_where_nobody_watches() -> None:
    lines = io.StringIO()
    progress = Progress(io.StringIO(), lines)
    for second in range(31):
        progress.waiting("demo", "loading", second)
    assert lines.getvalue() == "demo       loading (0 s)\ndemo       loading (15 s)\ndemo       loading (30 s)\n"


def test_a_terminal_shows_one_line_that_changes() -> None:
    lines = Terminal()
    progress = Progress(io.StringIO(), lines)
    progress.waiting("demo", "loading", 1)
    progress.waiting("demo", "loading", 2)
    progress.say("demo", "ready")
    assert lines.getvalue() == "demo       loading (1 s)\r\x1b[Kdemo       loading (2 s)\r\x1b[Kdemo       ready\n"


def test_logs_are_followed_by_whole_lines_from_where_they_were(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    log.write_text("before\n")
    echo = LogEcho(tmp_path)
    with log.open("a") as file:
        file.write("one\ntw")
    (tmp_path / "new.log").write_text("first\n")
    assert list(echo.new_lines()) == [("demo", "one"), ("new", "first")]
    with log.open("a") as file:
        file.write("o\n")
    assert list(echo.new_lines()) == [("demo", "two")]
    log.write_text("anew\n")
    assert list(echo.new_lines()) == [("demo", "anew")]
    (tmp_path / "replicas").mkdir()
    (tmp_path / "replicas" / "demo-1a2b3c.log").write_text("engine ready\n")
    (tmp_path / "gone.log").symlink_to(tmp_path / "nowhere")
    assert list(echo.new_lines()) == [("demo-1a2b3c", "engine ready")]


def test_a_password_is_not_shown() -> None:
    assert without_password("redis://:secret@host:6379/0") == "redis://host:6379/0"
    assert without_password("unix:///a/b.sock") == "unix:///a/b.sock"


def test_an_address_is_written_as_clients_need_it() -> None:
    assert base_url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert base_url("::1", 80) == "http://[::1]:80"


def test_a_gateway_that_is_not_there_does_not_answer() -> None:
    assert not gateway_answers("127.0.0.1", free_port("127.0.0.1"))
