"""openai-python hands in batches and fetches what comes of them: gateway, ledger, feeder and an engine worker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from deploy import services
from tests.stack import REPOSITORY, Stack, Worker
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def bulk_service(running: Stack, **env: str) -> Iterator[None]:
    """Run the worker of bulk work as `celery up` does."""
    argv = services.bulk(running.settings).command.argv
    log = running.folder / "bulk.log"
    environ = os.environ | running.env | env
    with log.open("ab") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=environ)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def site(running: Stack, ledger_url: str, files: Path) -> Iterator[openai.OpenAI]:
    """Run a gateway whose batches are worked on, and give a client of it."""
    env = {"CELERITY_DATABASE_URL": ledger_url, "CELERITY_FILES_DIR": str(files)}
    gateway = running.gateway(CELERITY_DATABASE_URL=ledger_url, CELERITY_FILES_DIR=str(files))
    with bulk_service(running, **env), openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        yield client
    gateway.process.terminate()
    assert gateway.process.wait(30) == 0


@pytest.fixture
def client(running: Stack, sim: Worker, ledger_url: str, tmp_path: Path) -> Iterator[openai.OpenAI]:
    with site(running, ledger_url, tmp_path / "files") as client:
        yield client


def line(number: int, model: str = "sim", text: str = "hello", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": f"{text} {number}"}]} | fields
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def hand_in(client: openai.OpenAI, lines: list[dict[str, Any]]) -> Batch:
    content = b"".join(json.dumps(entry).encode() + b"\n" for entry in lines)
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"night": "1"}
    )


def ended(client: openai.OpenAI, batch: Batch, status: str) -> Batch:
    wait_until(lambda: client.batches.retrieve(batch.id).status == status, f"the batch to be {status}", timeout_s=120)
    return client.batches.retrieve(batch.id)


def entries(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """Return the lines of an output file by their id; each is there once."""
    assert file_id is not None
    found = [json.loads(entry) for entry in client.files.content(file_id).text.splitlines()]
    assert len({entry["custom_id"] for entry in found}) == len(found)
    return {entry["custom_id"]: entry for entry in found}


def test_a_batch_is_answered_line_by_line_as_its_requests_would_be(client: openai.OpenAI) -> None:
    bad = line(200, temperature=9)
    batch = ended(client, hand_in(client, [*(line(i) for i in range(200)), bad]), "completed")
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 201, "completed": 200, "failed": 1}
    assert batch.usage is not None
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 200
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    answers = entries(client, batch.output_file_id)
    assert set(answers) == {f"line-{i}" for i in range(200)}
    for number in (0, 99, 199):
        asked = client.chat.completions.create(**line(number)["body"])
        given = answers[f"line-{number}"]["response"]
        assert given["status_code"] == 200
        assert given["body"]["choices"][0]["message"]["content"] == asked.choices[0].message.content
    errors = entries(client, batch.error_file_id)
    assert errors["line-200"]["response"]["status_code"] == 400
    output = client.files.retrieve(batch.output_file_id or "")
    assert output.purpose == "batch_output"
    assert [file.id for file in client.files.list(purpose="batch_output", order="asc")].count(output.id) == 1


def test_a_batch_that_is_cancelled_ends_with_what_it_has_and_one_of_rubbish_fails(client: openai.OpenAI) -> None:
    """Nobody serves the first one's model, so that all of it waits."""
    batch = hand_in(client, [line(i, model="nobody") for i in range(500)])
    ended(client, batch, "in_progress")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    cancelled = ended(client, batch, "cancelled")
    assert cancelled.cancelled_at is not None
    assert client.files.delete(cancelled.input_file_id).deleted

    batch = ended(client, hand_in(client, [line(0), {"custom_id": "x"}, line(0)]), "failed")
    assert batch.errors is not None
    assert [error.line for error in batch.errors.data or []] == [2, 3]
    assert batch.output_file_id is None
