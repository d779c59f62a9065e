"""openai-python's own calls for files and batches, against a gateway and a ledger; nobody works on the lines here."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import psutil
import pytest

from tasks.errors import ServerOverloadedError
from tasks.queues import Priority
from tests.stack import GatewayProcess, Stack, chat, in_threads
from tests.waiting import wait_until
from webapp import api_keys
from webapp.api_keys import Priorities

pytestmark = pytest.mark.integration

LINES = b"".join(
    json.dumps(
        {
            "custom_id": f"line-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "sim", "messages": [{"role": "user", "content": str(i)}]},
        }
    ).encode()
    + b"\n"
    for i in range(100)
)
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def keys(running: Stack) -> dict[str, str]:
    """Keys by the name of their owner."""
    path = running.folder / "keys"
    made = {name: api_keys.add(path, name) for name in ("alice", "bob")}
    return made | {"chatter": api_keys.add(path, "chatter", priorities=Priorities.INTERACTIVE)}


@pytest.fixture(scope="module")
def gateway(running: Stack, keys: dict[str, str]) -> GatewayProcess:
    return running.gateway(CELERITY_API_KEYS_FILE=str(running.folder / "keys"))


@contextlib.contextmanager
def openai_client(gateway: GatewayProcess, key: str = "none", retries: int = 0) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=retries, timeout=60) as client:
        yield client


@pytest.fixture
def alice(gateway: GatewayProcess, keys: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai_client(gateway, keys["alice"]) as client:
        yield client


@pytest.fixture
def bob(gateway: GatewayProcess, keys: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai_client(gateway, keys["bob"]) as client:
        yield client


def new_file(client: openai.OpenAI, content: bytes = LINES) -> str:
    return client.files.create(file=("lines.jsonl", content), purpose="batch").id


def new_batch(client: openai.OpenAI, file_id: str) -> str:
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"night": "1"}
    ).id


def test_openais_client_does_with_files_and_batches_what_it_does_with_openais(running: Stack, ledger_url: str) -> None:
    gateway = running.gateway(CELERITY_DATABASE_URL=ledger_url)
    with openai_client(gateway) as client:
        files = [
            client.files.create(
                file=(f"{i}.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
            )
            for i in range(5)
        ]
        # Those of one second go by their ids.
        listed = sorted(files, key=lambda file: (file.created_at, file.id))
        assert list(client.files.list(order="asc", purpose="batch")) == listed
        assert list(client.files.list(limit=2)) == listed[::-1]
        file = client.files.retrieve(files[0].id)
        assert file == files[0]
        assert (file.filename, file.bytes, file.status) == ("0.jsonl", len(LINES), "processed")
        assert file.expires_at == file.created_at + 3600
        assert client.files.content(file.id).read() == LINES

        batches = [new_batch(client, file.id) for _ in range(3)]
        assert sorted(batch.id for batch in client.batches.list(limit=2)) == sorted(batches)
        batch = client.batches.retrieve(batches[0])
        assert (batch.status, batch.input_file_id, batch.metadata) == ("validating", file.id, {"night": "1"})
        assert batch.expires_at == batch.created_at + 24 * 3600
        with pytest.raises(openai.ConflictError):
            client.files.delete(file.id)
        cancelled = client.batches.cancel(batch.id)
        assert cancelled.status == "cancelling"
        assert cancelled.cancelling_at is not None
        assert client.batches.retrieve(batch.id) == cancelled
        assert client.files.delete(files[4].id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(files[4].id)
    gateway.process.terminate()
    assert gateway.process.wait(30) == 0
    assert '"exception"' not in gateway.log.read_text()


def test_two_keys_never_see_each_others_files_and_batches(alice: openai.OpenAI, bob: openai.OpenAI) -> None:
    file_id = new_file(alice)
    batch_id = new_batch(alice, file_id)
    for ask in (
        lambda: bob.files.retrieve(file_id),
        lambda: bob.files.content(file_id),
        lambda: bob.files.delete(file_id),
        lambda: new_batch(bob, file_id),
        lambda: bob.batches.retrieve(batch_id),
        lambda: bob.batches.cancel(batch_id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert file_id not in [file.id for file in bob.files.list()]
    assert batch_id not in [batch.id for batch in bob.batches.list()]
    assert alice.batches.retrieve(batch_id).status == "validating"
    assert alice.files.content(file_id).read() == LINES


def test_a_key_for_interactive_requests_gets_no_bulk_work(gateway: GatewayProcess, keys: dict[str, str]) -> None:
    with openai_client(gateway, keys["chatter"]) as client:
        file_id = new_file(client)
        with pytest.raises(openai.PermissionDeniedError, match="--priority any"):
            new_batch(client, file_id)


def test_a_file_beyond_the_limit_is_refused_in_words(running: Stack) -> None:
    """The client sends 30 MiB before it reads; what it reads is a refusal, not a broken connection."""
    gateway = running.gateway(CELERITY_MAX_FILE_BYTES="1000")
    with openai_client(gateway) as client, pytest.raises(openai.APIStatusError, match="at most 1000 bytes") as refused:
        new_file(client, b"x" * 30 * MIB)
    assert refused.value.status_code == 413


def test_memory_does_not_grow_with_the_file(gateway: GatewayProcess, alice: openai.OpenAI, tmp_path: Path) -> None:
    """200 MB come and go, and 20 clients upload at once."""
    large = tmp_path / "large.jsonl"
    with large.open("wb") as written:
        for _ in range(200):
            written.write((LINES * 100)[:MIB])
    new_file(alice)  # builds the desk
    workers = psutil.Process(gateway.process.pid).children()
    before = sum(worker.memory_info().rss for worker in workers)

    def grown() -> int:
        return (sum(worker.memory_info().rss for worker in workers) - before) // MIB

    with large.open("rb") as file:
        made = alice.files.create(file=file, purpose="batch")
    assert made.bytes == 200 * MIB
    after_upload = grown()
    with alice.files.with_streaming_response.content(made.id) as answer:
        sizes = [len(piece) for piece in answer.iter_bytes(MIB)]
    assert sum(sizes) == 200 * MIB
    after_download = grown()
    in_threads(20, lambda index: new_file(alice, LINES * 500))
    assert max(after_upload, after_download, grown()) < 50
    alice.files.delete(made.id)


def test_other_clients_go_on_while_the_ledger_is_locked(gateway: GatewayProcess, alice: openai.OpenAI) -> None:
    """A write waits for the lock in C. What others ask for meanwhile is answered, and the write after it."""
    file_id = new_file(alice)
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {alice.api_key}"}
    ledger = gateway.log.parent / "bulk" / "ledger.db"
    with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        # All of it is sent before anything that follows.
        creation = gateway.connect()
        creation.request("POST", "/v1/batches", json.dumps(body), headers)
        for _ in range(20):
            assert alice.models.list().data
            assert alice.files.retrieve(file_id).id == file_id  # by another clerk
        assert not select.select([creation.sock], [], [], 0)[0]
        lock.execute("COMMIT")
    made = json.load(creation.getresponse())
    creation.close()
    assert alice.batches.retrieve(made["id"]).status == "validating"


def test_a_gateway_killed_within_an_upload_leaves_no_file(running: Stack, keys: dict[str, str]) -> None:
    gateway = running.gateway(CELERITY_API_KEYS_FILE=str(running.folder / "keys"))
    uploads = running.folder / "bulk" / "files" / "uploads"
    with openai_client(gateway, keys["alice"]) as client:
        before = {file.id for file in client.files.list()}
    head = "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=xyz\r\n"
    head += f"Authorization: Bearer {keys['alice']}\r\nContent-Length: 9999999\r\n\r\n"
    body = '--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + "x" * MIB
    with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
        sock.sendall((head + body).encode())
        wait_until(lambda: any(path.stat().st_size for path in uploads.iterdir()), "the upload to begin")
        (worker,) = psutil.Process(gateway.process.pid).children()
        worker.send_signal(signal.SIGKILL)
        wait_until(lambda: not worker.is_running(), "the gateway's process to end")
    with openai_client(gateway, keys["alice"], retries=5) as client:
        assert {file.id for file in client.files.list()} == before


def test_a_full_line_of_bulk_work_refuses_no_interactive_request(running: Stack) -> None:
    """The model `nobody` has room for two that wait, of each kind."""
    dispatcher = running.dispatcher()
    calls = [
        replace(chat("x", model="nobody", gateway=""), priority=priority) for priority in Priority for _ in range(3)
    ]
    interactive, bulk = calls[:3], calls[3:]
    answers = []
    for line in (bulk, interactive):
        answers += [dispatcher.submit(call, max_depth=2) for call in line[:2]]
        with pytest.raises(ServerOverloadedError):
            dispatcher.submit(line[2], max_depth=2)
    for answer in answers:
        answer.close()


def test_flex_requests_wait_in_the_line_for_bulk_work(gateway: GatewayProcess, keys: dict[str, str]) -> None:
    """Nobody serves the model, so that they stay there."""

    def ask(tier: str) -> int:
        body = {"model": "nobody", "messages": [{"role": "user", "content": "x"}], "service_tier": tier}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {keys['alice']}"}
        with contextlib.closing(gateway.connect()) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers | {"Prefer": "respond-async"})
            return connection.getresponse().status

    assert [ask("flex") for _ in range(3)] == [202, 202, 503]
    assert [ask("default") for _ in range(3)] == [202, 202, 503]
