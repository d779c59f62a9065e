"""`celerity batch` against a server that answers as OpenAI's does."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deploy import batch as commands
from deploy.batch_client import BatchClient
from deploy.batch_input import CHAT
from deploy.cli import main
from deploy.errors import CommandError
from deploy.gateway_http import Address, UnreachableError
from tests.deploy.openai_batches import Batches, error, serving
from tests.deploy.test_batch_input import given, line
from tests.deploy.test_chat import Screen
from tests.processes import HEARS_CTRL_C
from tests.waiting import wait_until

DONE = {"status": "completed", "completed_at": 1_700_000_060, "in_progress_at": 1_700_000_001}
USAGE = {"input_tokens": 30, "output_tokens": 60, "total_tokens": 90}


def counts(total: int, completed: int, failed: int = 0) -> dict[str, Any]:
    return {"request_counts": {"total": total, "completed": completed, "failed": failed}}


def going(completed: int, total: int = 3) -> dict[str, Any]:
    return {"status": "in_progress", "in_progress_at": 1_700_000_001, **counts(total, completed)}


@pytest.fixture
def api() -> Iterator[Batches]:
    with serving() as api:
        yield api


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return given(tmp_path, *(line(n) for n in range(3)))


@pytest.fixture
def runs(api: Batches, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command, which looks as often as it can."""
    monkeypatch.setattr(commands, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(commands, "_TRY_EVERY_S", 0.0)

    def run(*args: object) -> Result:
        clean = {f"CELERITY_{name}": None for name in ("URL", "API_KEY", "STATE_DIR", "PORT")}
        return CliRunner().invoke(main, ["batch", *map(str, args), "--url", api.url], env=clean)

    return run


def test_a_batch_is_handed_in_watched_and_fetched(
    api: Batches, runs: Callable[..., Result], prompts: Path, tmp_path: Path
) -> None:
    results = api.file(b'{"custom_id": "c-0"}\n')
    api.plan = [going(0), going(1), {**DONE, **counts(3, 3), "output_file_id": results, "usage": USAGE}]
    output = tmp_path / "out.jsonl"
    ran = runs("submit", prompts, "--output", output, "--metadata", "run=7", "--key", "sk-x")
    assert ran.exit_code == 0, ran.output
    (batch,) = api.batches.values()
    assert (batch["endpoint"], batch["metadata"], batch["completion_window"]) == (CHAT, {"run": "7"}, "24h")
    assert api.files[batch["input_file_id"]] == prompts.read_bytes() + b"\n"
    assert api.names[batch["input_file_id"]] == "prompts.jsonl"
    assert set(api.keys) == {"Bearer sk-x"}
    assert output.read_bytes() == api.files[results]
    assert ran.stdout == (
        f"{batch['id']} is completed: 3 lines, 3 done, 0 failed, in 1 min\n"
        f"30 tokens read, 60 written\nresults in {output}\n"
    )
    assert [name.name for name in tmp_path.iterdir()] == ["prompts.jsonl", "out.jsonl"]


def test_without_a_terminal_it_says_a_line_where_something_is_new(
    api: Batches, runs: Callable[..., Result], prompts: Path
) -> None:
    api.plan = [going(0, 100), *(going(done, 100) for done in range(30)), {**DONE, **counts(100, 100)}]
    ran = runs("submit", prompts)
    (batch_id,) = api.batches
    # How fast it goes is said when a second has passed, which it seldom has here.
    assert re.sub(", [0-9.,]+ lines/s.*", "", ran.stderr).splitlines() == [
        f"{batch_id}: 3 lines (batch lines) of prompts.jsonl for /v1/chat/completions",
        f"{batch_id}: validating",
        f"{batch_id}: in progress, 0/100",
        f"{batch_id}: in progress, 10/100",
        f"{batch_id}: in progress, 20/100",
        f"{batch_id}: completed, 100/100",
    ]


def test_lines_that_failed_are_counted_and_the_first_are_shown(
    api: Batches, runs: Callable[..., Result], prompts: Path, tmp_path: Path
) -> None:
    refused = {"error": {"message": "No such model.", "code": "model_not_found"}}
    errors = [
        {"custom_id": "a", "response": {"status_code": 404, "body": refused}, "error": None},
        {"custom_id": "b", "response": None, "error": {"code": "batch_expired", "message": "Too late."}},
        {"custom_id": "c", "response": {"status_code": 500, "body": {"error": {"message": "x" * 500}}}},
        {"custom_id": "d"},
    ]
    failed = api.file(b"".join(json.dumps(error).encode() + b"\n" for error in errors))
    api.plan = [{**DONE, **counts(5, 1, 4), "error_file_id": failed}]
    output = tmp_path / "out.jsonl"
    ran = runs("submit", prompts, "--output", output)
    assert ran.exit_code == 1
    assert "5 lines, 1 done, 4 failed, in 1 min\n" in ran.stdout
    assert "the first errors:\n  a: No such model. (model_not_found)\n  b: Too late. (batch_expired)\n" in ran.stdout
    assert re.search(r"  c: x{197}…\n", ran.stdout)
    assert "  d:" not in ran.stdout
    assert ran.stdout.endswith(f"errors in {tmp_path / 'out.errors.jsonl'}\n")
    assert not output.exists()
    assert (tmp_path / "out.errors.jsonl").read_bytes() == api.files[failed]


def test_a_batch_that_could_not_be_begun_says_why(api: Batches, runs: Callable[..., Result], prompts: Path) -> None:
    flaw = {"code": "duplicate_custom_id", "message": "The custom_id is taken.", "line": 2, "param": "custom_id"}
    errors = {"object": "list", "data": [flaw, {"code": "empty", "message": "No lines.", "line": None}]}
    api.plan = [{"status": "failed", "failed_at": 1_700_000_002, "errors": errors}]
    ran = runs("submit", prompts)
    assert ran.exit_code == 2
    assert "could not be begun" in ran.stdout
    assert "  line 2: The custom_id is taken. (duplicate_custom_id)\n  No lines. (empty)\n" in ran.stdout


def test_plain_prompts_are_made_lines_on_the_way(api: Batches, runs: Callable[..., Result], tmp_path: Path) -> None:
    api.plan = [{**DONE, **counts(2, 2)}]
    assert runs("submit", given(tmp_path, "first", "second"), "--model", "demo").exit_code == 0
    (content,) = api.files.values()
    bodies = [json.loads(text)["body"] for text in content.splitlines()]
    assert bodies == [
        {"model": "demo", "messages": [{"role": "user", "content": text}]} for text in ("first", "second")
    ]


def test_without_waiting_it_says_how_to_come_back(api: Batches, runs: Callable[..., Result], prompts: Path) -> None:
    ran = runs("submit", prompts, "--no-wait")
    (batch_id,) = api.batches
    assert ran.exit_code == 0
    assert ran.stdout.endswith(f"see how far it is: celerity batch status {batch_id} --watch\n")
    assert f"GET /v1/batches/{batch_id}" not in api.asked


@pytest.mark.parametrize("wait", ["--wait", "--no-wait"])
def test_a_program_gets_the_batch_as_the_api_has_it(
    api: Batches, runs: Callable[..., Result], prompts: Path, wait: str
) -> None:
    api.plan = [{**DONE, **counts(3, 3)}]
    ran = runs("submit", prompts, "--json", wait)
    (batch,) = api.batches.values()
    assert json.loads(ran.stdout) == batch


def test_a_gateway_that_restarts_is_waited_for_and_that_is_said_once(
    api: Batches, runs: Callable[..., Result], prompts: Path, tmp_path: Path
) -> None:
    results = api.file(b"x\n")
    api.plan = [going(1), {**DONE, **counts(3, 3), "output_file_id": results}]
    usual = api.answer

    def answer(method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        found = usual(method, path, body)
        if path.startswith("/v1/batches/"):
            # Away between two looks, and again when the results are to be fetched.
            api.away = [0, 503, 0] if api.plan else [502]
        return found

    api.answer = answer  # type: ignore[method-assign]
    output = tmp_path / "out.jsonl"
    ran = runs("submit", prompts, "--output", output)
    assert ran.exit_code == 0, ran.output
    assert ran.stderr.count("trying on. What was submitted is not lost") == 2
    assert ran.stderr.count("the gateway answers again") == 2
    assert output.read_bytes() == b"x\n"


def test_a_creation_whose_answer_is_lost_says_where_to_look(
    api: Batches, runs: Callable[..., Result], prompts: Path
) -> None:
    usual = api.upload

    def upload(form: bytes, boundary: bytes) -> dict[str, Any]:
        api.away = [0]
        return usual(form, boundary)

    api.upload = upload  # type: ignore[method-assign]
    ran = runs("submit", prompts)
    assert ran.exit_code == 2
    assert re.search(r"does not answer.* was uploaded \(file-0{24}\); whether it became a batch", ran.stderr)


def test_nobody_there_is_one_line(prompts: Path) -> None:
    ran = CliRunner().invoke(main, ["batch", "submit", str(prompts), "--url", "http://127.0.0.1:1"])
    assert ran.exit_code == 2
    assert re.fullmatch(r"Error: http://127\.0\.0\.1:1 does not answer: .*\n", ran.stderr)


def test_who_is_not_let_in_learns_how_to_name_a_key(api: Batches, runs: Callable[..., Result]) -> None:
    api.away = [401]
    ran = runs("status", "--key", "sk-old")
    assert (ran.exit_code, api.keys) == (2, ["Bearer sk-old"])
    assert ran.stderr == "Error: Not now. (service_unavailable); set CELERITY_API_KEY to yours\n"


def test_a_file_that_the_server_refuses_is_told_in_its_words(
    api: Batches, runs: Callable[..., Result], tmp_path: Path
) -> None:
    api.limit = 10
    ran = runs("submit", given(tmp_path, line()))
    assert (ran.exit_code, ran.stderr) == (2, "Error: The file is too large. (request_too_large)\n")


@pytest.mark.parametrize(("status", "code"), [(403, "priority_not_allowed"), (429, "too_many_batches")])
def test_of_a_batch_that_is_refused_no_file_stays(
    api: Batches, runs: Callable[..., Result], prompts: Path, status: int, code: str
) -> None:
    api.refusal = error(status, "Not you.", code)
    ran = runs("submit", prompts)
    assert (ran.exit_code, ran.stderr, api.files) == (2, f"Error: Not you. ({code})\n", {})


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["submit", "no.jsonl"], "no.jsonl cannot be read: No such file"),
        (["submit", "PROMPTS", "--no-wait", "--output", "x"], "use `celerity batch download`"),
        (["submit", "PROMPTS", "--metadata", "seven"], "--metadata takes KEY=VALUE"),
        (["submit", "PROMPTS", "--output", "PROMPTS"], "is there already; choose another name"),
        (["status", "batch_x"], "No batch found with id 'batch_x'. (batch_not_found)"),
        (["cancel", "a/../b"], "No batch found with id 'a%2F..%2Fb'"),
        (["download", "batch_x"], "batch_not_found"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    api: Batches, runs: Callable[..., Result], prompts: Path, args: list[str], expected: str
) -> None:
    ran = runs(*(str(prompts) if arg == "PROMPTS" else arg for arg in args))
    assert ran.exit_code == 2
    assert ran.stderr.startswith("Error: ")
    assert expected in ran.stderr
    assert "POST /v1/files" not in api.asked


@pytest.mark.parametrize("args", [[], ["submit"], ["status"], ["cancel"], ["download"]])
def test_every_command_has_help(args: list[str]) -> None:
    ran = CliRunner().invoke(main, ["batch", *args, "-h"])
    assert (ran.exit_code, "Usage:" in ran.output) == (0, True)


def test_one_batch_is_told_with_how_long_it_takes(
    api: Batches, runs: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_061.0)
    batch = api.batch(**going(20, 50), usage=USAGE)
    ran = runs("status", batch["id"])
    assert ran.stdout.splitlines() == [
        f"{batch['id']} is in progress: 50 lines, 20 done, 0 failed, 30 to go",
        "/v1/chat/completions, submitted 1 min 1 s ago",
        "about 1 min 30 s left, at its pace so far",
        "what is not done in 23 h 58 min expires",
    ]
    assert json.loads(runs("status", batch["id"], "--json").stdout)["id"] == batch["id"]


def test_watching_one_ends_with_it_and_has_its_exit_code(api: Batches, runs: Callable[..., Result]) -> None:
    batch = api.batch(**going(0))
    api.plan = [going(1), going(1), {"status": "expired", "expired_at": 1_700_086_400, **counts(3, 1, 2)}]
    ran = runs("status", batch["id"], "--watch")
    assert ran.exit_code == 1
    assert "has expired: 3 lines, 1 done, 2 failed, in 1 d\n" in ran.stdout
    assert runs("status", batch["id"], "--watch").exit_code == 1
    assert runs("status", batch["id"]).exit_code == 0


def test_the_latest_are_a_table(api: Batches, runs: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs("status").stdout == "no batches; `celerity batch submit FILE` makes one\n"
    monkeypatch.setattr("time.time", lambda: 1_700_000_061.0)
    api.batch(**going(20, 50))
    api.batch(**DONE, **counts(50_000, 49_998, 2))
    ran = runs("status")
    assert [re.split(r"  +", row.strip()) for row in ran.stdout.splitlines()] == [
        ["batch", "status", "done", "failed", "age", "end"],
        [f"batch_{1:024x}", "completed", "49998/50000", "2", "1m", "1s ago"],
        [f"batch_{0:024x}", "in progress", "20/50", "0", "1m", "1m left"],
    ]
    assert [it["id"] for it in json.loads(runs("status", "--json").stdout)] == [f"batch_{n:024x}" for n in (1, 0)]


def test_cancelling_waits_for_the_end(api: Batches, runs: Callable[..., Result]) -> None:
    batch = api.batch(**going(1))
    output = api.file(b"x\n")
    api.plan = [{}, {"status": "cancelled", "cancelled_at": 1_700_000_101, "output_file_id": output}]
    ran = runs("cancel", batch["id"])
    assert ran.exit_code == 0, ran.output
    assert "was cancelled: 3 lines, 1 done, 0 failed, 2 without an answer" in ran.stdout
    assert f"celerity batch download {batch['id']}" in ran.stdout
    again = runs("cancel", batch["id"])
    assert (again.exit_code, "batch_ended" in again.stderr) == (2, True)


def test_results_are_fetched_under_the_batch_s_name(
    api: Batches, runs: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output, errors = api.file(b"good\n" * 200_000), api.file(b"bad\n")
    batch = api.batch(**DONE, **counts(3, 2, 1), output_file_id=output, error_file_id=errors)
    name = batch["id"]
    assert runs("download", name).exit_code == 1
    assert Path(f"{name}.jsonl").read_bytes() == api.files[output]
    assert Path(f"{name}.errors.jsonl").read_bytes() == b"bad\n"
    Path(f"{name}.jsonl").write_text("mine")
    ran = runs("download", name)
    assert (ran.exit_code, "is there already" in ran.stderr) == (2, True)
    assert Path(f"{name}.jsonl").read_text() == "mine"
    assert runs("download", name, "--force", "--errors", "e").exit_code == 1
    assert Path(f"{name}.jsonl").read_bytes() == api.files[output]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["e", f"{name}.jsonl", f"{name}.errors.jsonl"])


def test_what_goes_on_cannot_be_fetched_yet(api: Batches, runs: Callable[..., Result]) -> None:
    ran = runs("download", api.batch(**going(1))["id"])
    assert ran.exit_code == 2
    assert "is in progress: 3 lines, 1 done" in ran.stderr


def test_a_batch_that_left_nothing_says_so(api: Batches, runs: Callable[..., Result]) -> None:
    ran = runs("download", api.batch(status="cancelled", cancelled_at=1_700_000_000)["id"])
    assert (ran.exit_code, ran.stdout) == (1, "it left no results behind\n")


def test_a_fetch_that_breaks_off_leaves_nothing(api: Batches, runs: Callable[..., Result], tmp_path: Path) -> None:
    batch = api.batch(**DONE, **counts(1, 1), output_file_id=api.file(b"good\n" * 1000))
    api.cut = True
    target = tmp_path / "out"
    ran = runs("download", batch["id"], "--output", target)
    assert (ran.exit_code, "does not answer: it broke off" in ran.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
    target.write_text("mine")
    assert runs("download", batch["id"], "--output", target, "--force").exit_code == 2
    assert target.read_text() == "mine"


def test_a_disk_that_cannot_be_written_is_no_fault_of_the_connection(
    api: Batches, runs: Callable[..., Result], tmp_path: Path
) -> None:
    batch = api.batch(**DONE, **counts(1, 1), output_file_id=api.file(b"good\n"))
    ran = runs("download", batch["id"], "--output", tmp_path / "no" / "out")
    assert ran.exit_code == 2
    assert "cannot be written: No such file or directory" in ran.stderr


def test_results_and_errors_need_two_names(api: Batches, runs: Callable[..., Result]) -> None:
    ran = runs("download", api.batch(**DONE)["id"], "--output", "x", "--errors", "x")
    assert "cannot both go to x" in ran.stderr


def test_what_speaks_another_language_is_said(api: Batches) -> None:
    api.batch(id="b", status="dreaming")
    with pytest.raises(CommandError, match="does not speak the OpenAI API"):
        BatchClient(Address(api.url)).batch("b")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:port", "http://[::1"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(CommandError, match="is no address; one looks like http://"):
        BatchClient(Address(url)).latest(1)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_who_answers_not_now_may_later(api: Batches, status: int) -> None:
    api.away = [status]
    with pytest.raises(UnreachableError, match=r"Not now\."):
        BatchClient(Address(api.url)).latest(1)


def test_ctrl_c_ends_the_watching_only(api: Batches, prompts: Path) -> None:
    api.plan = [going(1)]
    command = [sys.executable, "-m", "deploy", "batch", "submit", str(prompts), "--url", api.url]
    env = {name: value for name, value in os.environ.items() if not name.startswith("CELERITY_")}
    process = subprocess.Popen(
        [*HEARS_CTRL_C, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    try:
        wait_until(lambda: not api.plan, "it to watch")
        (batch_id,) = api.batches
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert f"{batch_id} goes on. Watch it again: celerity batch status {batch_id} --watch" in err
    assert (out, api.batches[batch_id]["status"]) == ("", "in_progress")


def test_a_list_that_is_watched_is_shown_again_where_something_is_new(
    api: Batches, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = api.batch(**going(1))
    pauses = 0

    def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 2:
            batch.update(going(2))
            api.away = [0, 0]
        if pauses == 5:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        commands.overview(BatchClient(Address(api.url)), watch=True, as_json=False, pause=pause)
    out, err = capsys.readouterr()
    assert re.findall(r"[0-9]/[0-9]", out) == ["1/3", "2/3"]
    assert [line.rpartition(" ")[2] for line in err.splitlines()] == ["lost", "again"]


class Terminal:
    """A command at a terminal of 100 columns."""

    def __init__(self, api: Batches, *args: str) -> None:
        ours, theirs = pty.openpty()
        env = {name: value for name, value in os.environ.items() if not name.startswith("CELERITY_")}
        env |= {"TERM": "xterm", "COLUMNS": "100"}
        command = [sys.executable, "-m", "deploy", "batch", *args, "--url", api.url]
        self.process = subprocess.Popen(
            [*HEARS_CTRL_C, *command], stdin=theirs, stdout=theirs, stderr=theirs, env=env, process_group=0
        )
        os.close(theirs)
        self._ours = ours
        self.screen = Screen(ours)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def at_terminal(api: Batches) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_(*args: str) -> Terminal:
        opened.append(Terminal(api, *args))
        return opened[-1]

    yield open_
    for terminal in opened:
        terminal.close()


def test_at_a_terminal_a_bar_moves(
    api: Batches, at_terminal: Callable[..., Terminal], prompts: Path, tmp_path: Path
) -> None:
    results = api.file(b"x\n")
    terminal = at_terminal("submit", str(prompts), "--output", str(tmp_path / "out"))
    terminal.screen.wait_for("validating")
    api.plan.append(going(1, 4))
    terminal.screen.wait_for("1/4")
    api.away = [0, 0]
    terminal.screen.wait_for("does not answer")
    terminal.screen.wait_for("the gateway answers again")
    api.plan.append(going(3, 4))
    terminal.screen.wait_for("75 %")
    terminal.screen.wait_for("lines/s")
    api.plan.append({**DONE, **counts(4, 4), "output_file_id": results})
    terminal.screen.wait_for("is completed: 4 lines, 4 done, 0 failed")
    terminal.screen.wait_for("results in")
    assert terminal.process.wait(20) == 0


def test_at_a_terminal_the_list_is_kept_up_to_date(api: Batches, at_terminal: Callable[..., Terminal]) -> None:
    batch = api.batch(**going(1))
    terminal = at_terminal("status", "--watch")
    terminal.screen.wait_for("1/3")
    batch.update(going(2))
    terminal.screen.wait_for("2/3")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(20) == 130
