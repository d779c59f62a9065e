from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks import keys
from tasks.bulk.desk import Desk
from tasks.bulk.files import FileStore
from tasks.bulk.ledger import Ledger
from tasks.bulk.ledger_desk import LedgerDesk
from tasks.bulk.records import BatchRecord, BatchStatus, FileRecord, Kind, Line
from tasks.bulk.wake import wake
from tasks.connections import command_client
from tasks.errors import (
    BatchEndedError,
    BatchNotFoundError,
    FileInUseError,
    FileNotFoundHereError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyBatchesError,
)
from tasks.messages import Endpoint
from tasks.settings import Settings
from tests.stack import RedisServer

NOW = 1_700_000_000


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path, client: redis.Redis) -> Desk:
    return LedgerDesk(ledger, FileStore(tmp_path / "files"), client, now=lambda: NOW + 0.7)


def kept(desk: Desk, owner: str = "ann", content: bytes = b"lines", purpose: str = "batch") -> FileRecord:
    upload = desk.new_upload()
    upload.write_bytes(content)
    return desk.keep(upload, owner=owner, name="in.jsonl", purpose=purpose)


def created(desk: Desk, owner: str = "ann") -> BatchRecord:
    return desk.create(owner=owner, input_file_id=kept(desk, owner).id, endpoint=Endpoint.CHAT)


def woken(client: redis.Redis) -> list[bytes]:
    entries: Any = client.xrange(keys.BULK_WAKE)
    return [fields[b"batch"] for _, fields in entries]


def test_a_file_is_kept_read_and_deleted_by_its_owner(desk: Desk) -> None:
    upload = desk.new_upload()
    upload.write_bytes(b"some lines")
    file = desk.keep(upload, owner="ann", name="a\0.jsonl", purpose="batch", expires_after_s=3600)
    assert (file.name, file.size, file.created_at, file.expires_at) == ("a.jsonl", 10, NOW, NOW + 3600)
    assert desk.file(file.id, "ann") == file
    with desk.open(file.id, "ann") as content:
        assert content.read() == b"some lines"
    desk.delete_file(file.id, "ann")
    for ask in (desk.file, desk.open, desk.delete_file):
        with pytest.raises(FileNotFoundHereError):
            ask(file.id, "ann")


@pytest.mark.parametrize("name", ["", "file-1", "../../etc/passwd", "file-" + "a" * 24, "\0"])
def test_nobody_has_a_file_of_another_name(desk: Desk, name: str) -> None:
    for ask in (desk.file, desk.open, desk.delete_file):
        with pytest.raises(FileNotFoundHereError):
            ask(name, "ann")
    assert desk.files("ann", after=name) == ([], False)


def test_who_sees_to_others_has_what_is_theirs_too_and_nothing_else(desk: Desk) -> None:
    batches = [created(desk, owner) for owner in ("ann", "", "bob")]
    for one in batches[:2]:
        assert desk.batch(one.id, "ann", "") == one
        assert desk.file(one.input_file_id, "ann", "").owner == one.owner
        with desk.open(one.input_file_id, "ann", "") as content:
            assert content.read() == b"lines"
    assert {one.owner for one in desk.batches("ann", "")[0]} == {one.owner for one in desk.files("ann", "")[0]}
    page, more = desk.batches("ann", "", limit=1)
    assert more
    rest, more = desk.batches("ann", "", after=page[0].id)
    assert ({one.id for one in (*page, *rest)}, more) == ({one.id for one in batches[:2]}, False)
    for ask in (desk.batch, desk.cancel):
        with pytest.raises(BatchNotFoundError):
            ask(batches[2].id, "ann", "")
    with pytest.raises(FileNotFoundHereError):
        desk.delete_file(batches[2].input_file_id, "ann", "")
    assert desk.cancel(batches[1].id, "ann", "").status is BatchStatus.CANCELLING


def test_an_owner_may_have_so_many_batches_that_have_not_ended(desk: Desk, ledger: Ledger) -> None:
    first = created(desk)
    created(desk, "bob")
    desk.call(task_id="task", endpoint=Endpoint.CHAT, model="demo", body=b"{}")
    input_file_id = kept(desk).id

    def another() -> BatchRecord:
        return desk.create(owner="ann", input_file_id=input_file_id, endpoint=Endpoint.CHAT, max_open=2)

    another()
    with pytest.raises(TooManyBatchesError):
        another()
    ledger.move(first.id, BatchStatus.FAILED, now=NOW)
    another()


def test_a_call_is_no_batch_whatever_its_id(desk: Desk) -> None:
    task_id = f"batch_{'a' * 24}"
    desk.call(task_id=task_id, endpoint=Endpoint.CHAT, model="demo", body=b"{}")
    for ask in (desk.batch, desk.cancel):
        with pytest.raises(BatchNotFoundError):
            ask(task_id, "")


def test_what_is_somebody_elses_is_not_there(desk: Desk) -> None:
    batch = created(desk)
    file_id = batch.input_file_id
    for ask in (desk.file, desk.open, desk.delete_file):
        with pytest.raises(FileNotFoundHereError):
            ask(file_id, "bob")
    with pytest.raises(FileNotFoundHereError) as caught:
        desk.create(owner="bob", input_file_id=file_id, endpoint=Endpoint.CHAT)
    assert caught.value.param == "input_file_id"
    for of_batch in (desk.batch, desk.cancel):
        with pytest.raises(BatchNotFoundError):
            of_batch(batch.id, "bob")
    assert desk.files("bob") == ([], False)
    assert desk.batches("bob") == ([], False)


def test_pages_say_whether_there_is_more(desk: Desk) -> None:
    files = sorted(kept(desk).id for _ in range(3))
    page, more = desk.files("ann", limit=2, newest_first=False)
    assert ([file.id for file in page], more) == (files[:2], True)
    page, more = desk.files("ann", limit=2, after=files[1], newest_first=False)
    assert ([file.id for file in page], more) == (files[2:], False)
    batches = sorted((created(desk).id for _ in range(3)), reverse=True)
    found, more = desk.batches("ann", limit=2)
    assert ([batch.id for batch in found], more) == (batches[:2], True)
    found, more = desk.batches("ann", limit=2, after=batches[1])
    assert ([batch.id for batch in found], more) == (batches[2:], False)
    assert desk.batches("ann", after="\0") == ([], False)


def test_a_batch_is_accepted_and_the_feeder_woken(desk: Desk, ledger: Ledger, client: redis.Redis) -> None:
    file = kept(desk)
    batch = desk.create(
        owner="ann",
        input_file_id=file.id,
        endpoint=None,
        metadata={"a": "b"},
        output_expires_after_s=3600,
        max_lines=50_000,
    )
    assert batch.status is BatchStatus.VALIDATING
    assert (batch.created_at, batch.expires_at, batch.max_lines) == (NOW, NOW + 86_400, 50_000)
    assert ledger.batch(batch.id) == desk.batch(batch.id, "ann") == batch
    assert woken(client) == [batch.id.encode()]
    assert 0 < int(client.ttl(keys.BULK_WAKE)) <= keys.BULK_WAKE_TTL_S


def test_a_file_of_another_purpose_and_another_window_are_refused(desk: Desk) -> None:
    file = kept(desk, purpose="user_data")
    with pytest.raises(InvalidRequestError, match="user_data") as caught:
        desk.create(owner="ann", input_file_id=file.id, endpoint=Endpoint.CHAT)
    assert caught.value.param == "input_file_id"
    with pytest.raises(InvalidRequestError, match="'24h'") as caught:
        desk.create(owner="ann", input_file_id=kept(desk).id, endpoint=Endpoint.CHAT, window="7d")
    assert caught.value.param == "completion_window"


def test_a_file_that_a_batch_reads_is_not_deleted(desk: Desk, ledger: Ledger) -> None:
    batch = created(desk)
    with pytest.raises(FileInUseError):
        desk.delete_file(batch.input_file_id, "ann")
    desk.cancel(batch.id, "ann")
    ledger.move(batch.id, BatchStatus.CANCELLED, now=NOW)
    desk.delete_file(batch.input_file_id, "ann")


def test_a_batch_is_cancelled_once_and_not_when_it_has_ended(desk: Desk, ledger: Ledger, client: redis.Redis) -> None:
    batch = created(desk)
    for _ in range(2):
        found = desk.cancel(batch.id, "ann")
        assert (found.status, found.cancelling_at) == (BatchStatus.CANCELLING, NOW)
    assert woken(client) == [batch.id.encode()] * 2
    ledger.move(batch.id, BatchStatus.CANCELLED, now=NOW)
    with pytest.raises(BatchEndedError, match="cancelled"):
        desk.cancel(batch.id, "ann")


def test_a_call_is_accepted_once_and_is_no_batch_of_anybodys(desk: Desk, ledger: Ledger, client: redis.Redis) -> None:
    for _ in range(2):
        desk.call(task_id="task-1", endpoint=Endpoint.COMPLETION, model="demo", body=b'{"prompt": "x"}')
    (record,) = ledger.open_batches()
    assert (record.id, record.kind, record.status) == ("task-1", Kind.CALL, BatchStatus.IN_PROGRESS)
    (taken,) = ledger.take("task-1", "demo", 5)
    assert taken.line == Line(
        number=1,
        custom_id="task-1",
        model="demo",
        endpoint=Endpoint.COMPLETION,
        length=15,
        body=b'{"prompt": "x"}',
    )
    assert desk.batches("") == ([], False)
    with pytest.raises(BatchNotFoundError):
        desk.batch("task-1", "")
    assert woken(client) == [b"task-1"] * 2


def test_the_wakes_of_a_feeder_that_is_away_do_not_pile_up(client: redis.Redis) -> None:
    for _ in range(1000):
        wake(client, "task-1")
    assert len(woken(client)) < 500


@pytest.fixture
def alone(ledger: Ledger, tmp_path: Path) -> Iterator[Desk]:
    """A desk whose Redis is not there."""
    client = command_client(f"unix://{tmp_path}/nobody.sock")
    yield LedgerDesk(ledger, FileStore(tmp_path / "files"), client)
    client.close()


def test_work_is_accepted_while_redis_is_away(alone: Desk, ledger: Ledger) -> None:
    batch = created(alone)
    alone.call(task_id="task-1", endpoint=Endpoint.CHAT, model="demo", body=b"{}")
    assert alone.cancel(batch.id, "ann").status is BatchStatus.CANCELLING
    assert {found.id for found in ledger.open_batches()} == {batch.id, "task-1"}


def test_a_ledger_that_is_away_is_said_without_where_it_is(tmp_path: Path, server: RedisServer) -> None:
    (tmp_path / "bulk").write_text("in the way")
    settings = Settings(state_dir=tmp_path, redis_url=server.url)
    desk = LedgerDesk.over(settings)
    for ask in (lambda: desk.files("ann"), lambda: desk.call(task_id="t", endpoint=Endpoint.CHAT, model="m", body=b"")):
        with pytest.raises(ServiceUnavailableError) as caught:
            ask()
        assert str(tmp_path) not in caught.value.message
    desk.close()
    with pytest.raises(ServiceUnavailableError):
        LedgerDesk.over(Settings(state_dir=tmp_path, redis_url=server.url, database_url="oracle://x"))


def test_an_upload_that_could_not_be_entered_is_no_file(tmp_path: Path, server: RedisServer) -> None:
    settings = Settings(state_dir=tmp_path, redis_url=server.url)
    desk = LedgerDesk.over(settings)
    upload = desk.new_upload()
    upload.write_bytes(b"x" * 10)
    (tmp_path / "bulk" / "ledger.db").mkdir()
    with pytest.raises(ServiceUnavailableError):
        desk.keep(upload, owner="ann", name="x", purpose="batch")
    assert [path.name for path in settings.files.iterdir()] == ["uploads"]
    (tmp_path / "bulk" / "ledger.db").rmdir()
    file = kept(desk)
    assert desk.files("ann") == ([file], False)
    desk.close()
