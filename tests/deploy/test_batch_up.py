"""`celerity batch` against `celerity up`: the real gateway, feeder and workers, with the simulated engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.test_batch_input import given
from tests.deploy.test_up import COMMAND, Up, environment, running
from tests.processes import alive
from tests.waiting import wait_until
from workers.engine.sim_answers import tag_of

pytestmark = pytest.mark.integration

MODELS = """
models:
  quick: {engine: sim, pinned: true, sim: {seats: 16, ttft_ms: 0, itl_ms: 0.1}}
  slow: {engine: sim, pinned: true, sim: {seats: 2, ttft_ms: 0, itl_ms: 50}}
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("batch"), models=MODELS) as started:
        started.url()
        yield started


def body(number: int, model: str = "quick", **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 3, "messages": [{"role": "user", "content": f"number {number}"}], **more}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def the_latest(up: Up) -> dict[str, Any]:
    listed = json.loads(up.command("batch", "status", "--json").stdout)
    assert isinstance(listed, list)
    return dict(listed[0])


def test_every_line_is_answered_once_and_in_order(up: Up, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    ran = up.command("batch", "submit", str(given(tmp_path, *map(body, range(300)))), "--output", str(output))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "is completed: 300 lines, 300 done, 0 failed" in ran.stdout
    assert " 900 written" in ran.stdout
    assert [it["custom_id"] for it in lines(output)] == [f"line-{n}" for n in range(1, 301)]
    answers = [it["response"]["body"]["choices"][0]["message"]["content"] for it in lines(output)]
    assert [answer.partition(".")[0] for answer in answers] == [tag_of(f"number {n}") for n in range(300)]


def test_lines_that_fail_go_to_a_file_of_their_own(up: Up, tmp_path: Path) -> None:
    path = given(tmp_path, body(1), body(2, "nobody"), body(3, temperature=9))
    ran = up.command("batch", "submit", str(path), "--output", str(tmp_path / "out.jsonl"))
    assert ran.returncode == 1
    assert (
        "  line-2: There is no such model here; GET /v1/models lists those there are. (model_not_found)" in ran.stdout
    )
    assert [it["custom_id"] for it in lines(tmp_path / "out.jsonl")] == ["line-1"]
    assert [it["response"]["status_code"] for it in lines(tmp_path / "out.errors.jsonl")] == [404, 400]


def test_a_flaw_that_only_the_server_sees_is_told_with_its_line(up: Up, tmp_path: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body(1)}
    ran = up.command("batch", "submit", str(given(tmp_path, line, line)))
    assert ran.returncode == 2
    assert "could not be begun:\n  line 2: The custom_id of this line is that of an earlier one" in ran.stdout


def test_a_gateway_that_dies_is_watched_again_when_it_is_back(up: Up, tmp_path: Path) -> None:
    path = given(tmp_path, *(body(n, "slow", max_tokens=10) for n in range(16)))
    command = [*COMMAND, "batch", "submit", str(path), "--state-dir", str(up.state_dir), "--output", "out.jsonl"]
    env = environment(PYTHONPATH=str(Path.cwd()))
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=err, text=True, env=env)
    try:
        wait_until(lambda: "in progress" in (tmp_path / "err").read_text(), "it to run")
        gateways = [it for it in up.family() if "gunicorn" in " ".join(it.cmdline())]
        for gateway in gateways:
            gateway.kill()
        wait_until(lambda: not alive(gateways), "the gateway to be gone")
        out = process.communicate(timeout=90)[0]
    finally:
        process.kill()
        process.communicate()
    said = (tmp_path / "err").read_text()
    assert process.returncode == 0, out + said
    assert said.count("trying on. What was submitted is not lost") == 1
    assert said.count("the gateway answers again") == 1
    assert "16 lines, 16 done" in out
    assert len(lines(tmp_path / "out.jsonl")) == 16


def test_a_batch_that_is_cancelled_keeps_what_is_done(up: Up, tmp_path: Path) -> None:
    path = given(tmp_path, *(body(n, "slow", max_tokens=10) for n in range(200)))
    assert up.command("batch", "submit", str(path), "--no-wait").returncode == 0
    batch_id = the_latest(up)["id"]
    wait_until(lambda: the_latest(up)["request_counts"]["completed"] > 0, "a line to be done", timeout_s=60)
    assert "in progress" in up.command("batch", "status").stdout
    early = up.command("batch", "download", batch_id)
    assert (early.returncode, "its results can be fetched once it has ended" in early.stderr) == (2, True)
    ran = up.command("batch", "cancel", batch_id)
    assert ran.returncode == 0, ran.stderr
    assert "was cancelled: 200 lines" in ran.stdout
    fetched = up.command("batch", "download", batch_id, "--output", str(tmp_path / "out.jsonl"))
    assert fetched.returncode == 1
    done = lines(tmp_path / "out.jsonl")
    assert f"{len(done)} done, 0 failed, {200 - len(done)} without an answer" in ran.stdout
    assert 0 < len(done) < 200
    assert not (tmp_path / "out.errors.jsonl").exists()
    again = up.command("batch", "cancel", batch_id)
    assert (again.returncode, "batch_ended" in again.stderr) == (2, True)


def test_embeddings_of_plain_text(up: Up, tmp_path: Path) -> None:
    path = given(tmp_path, "one", "two")
    output = tmp_path / "out.jsonl"
    ran = up.command(
        "batch", "submit", str(path), "--model", "quick", "--endpoint", "/v1/embeddings", "--output", str(output)
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [len(it["response"]["body"]["data"]) for it in lines(output)] == [1, 1]


def test_the_example_of_the_guide_can_be_handed_in() -> None:
    from deploy.batch_input import Limits, Shape, look_through

    path = Path(__file__).parents[2] / "docs" / "prompts.jsonl"
    found = look_through(path, endpoint=None, model=None, limits=Limits(50_000, 200 << 20))
    assert (found.shape, found.lines) == (Shape.LINES, 5)
