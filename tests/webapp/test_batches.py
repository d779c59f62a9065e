"""/v1/batches over a desk that keeps everything in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types import Batch
from werkzeug.test import TestResponse

from tasks.bulk.records import BatchStatus, Counts, Flaw
from tasks.messages import Endpoint
from tests.fake_desk import FakeDesk
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import make_app
from webapp import api_keys
from webapp.api_keys import KeyRing, Role

NO_BATCH = f"batch_{'0' * 24}"


@pytest.fixture
def desk(tmp_path: Path) -> FakeDesk:
    return FakeDesk(tmp_path)


@pytest.fixture
def client(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> FlaskClient:
    return make_app(tmp_path, dispatcher, desk=desk, batch_max_lines=77).test_client()


def new_file(desk: FakeDesk, owner: str = "", purpose: str = "batch") -> str:
    path = desk.new_upload()
    path.write_bytes(b"{}\n")
    return desk.keep(path, owner=owner, name="lines.jsonl", purpose=purpose).id


def body_of(file_id: str, **fields: Any) -> dict[str, Any]:
    return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | fields


def error_of(answer: TestResponse) -> tuple[int, str, str | None]:
    error = answer.get_json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_a_batch_is_made_of_a_file(client: FlaskClient, desk: FakeDesk) -> None:
    file_id = new_file(desk)
    fields = {"metadata": {"night": "1"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600}}
    made = client.post("/v1/batches", json=body_of(file_id, **fields))
    assert made.status_code == 200
    batch = made.get_json()
    assert batch == {
        "id": batch["id"],
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": None,
        "input_file_id": file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1_800_000_001,
        "in_progress_at": None,
        "expires_at": 1_800_086_401,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": {"night": "1"},
    }
    Batch.model_validate(batch, strict=True)
    assert client.get(f"/v1/batches/{batch['id']}").get_json() == batch
    assert desk.kept_batches[batch["id"]].output_expires_after_s == 3600
    assert desk.kept_batches[batch["id"]].max_lines == 77


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_a_batch_is_for_any_of_our_endpoints(client: FlaskClient, desk: FakeDesk, endpoint: str) -> None:
    made = client.post("/v1/batches", json=body_of(new_file(desk), endpoint=endpoint))
    assert (made.status_code, made.get_json()["endpoint"]) == (200, endpoint)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"x" * 65: ""}}, "metadata"),
        ({"metadata": {"": ""}}, "metadata"),
        ({"metadata": {"a\0": ""}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"metadata": {"a": "\0"}}, "metadata.a"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": 3600}, "output_expires_after"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": True}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600, "x": 1}}, "output_expires_after.x"),
        ({"priority": 1}, "priority"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(
    client: FlaskClient, desk: FakeDesk, fields: dict[str, Any], param: str
) -> None:
    status, _, named = error_of(client.post("/v1/batches", json=body_of(new_file(desk), **fields)))
    assert (status, named) == (400, param)
    assert not desk.kept_batches


def test_metadata_may_be_as_large_as_openais(client: FlaskClient, desk: FakeDesk) -> None:
    metadata = {f"{i:02}".ljust(64, "\u2013"): "\u2013" * 512 for i in range(16)}
    made = client.post("/v1/batches", json=body_of(new_file(desk), metadata=metadata))
    assert made.get_json()["metadata"] == metadata


@pytest.mark.parametrize("file_id", [f"file-{'0' * 24}", "../../etc/passwd", "file-x", "", f"file-{'0' * 24}\n"])
def test_a_file_that_is_none_is_not_found(client: FlaskClient, file_id: str) -> None:
    assert error_of(client.post("/v1/batches", json=body_of(file_id))) == (404, "file_not_found", "input_file_id")


def test_what_came_of_a_batch_is_no_input(client: FlaskClient, desk: FakeDesk) -> None:
    output = new_file(desk, purpose="batch_output")
    assert error_of(client.post("/v1/batches", json=body_of(output))) == (400, "invalid_request", "input_file_id")


def test_a_batch_shows_how_far_it_is_and_what_was_wrong(client: FlaskClient, desk: FakeDesk) -> None:
    batch_id = client.post("/v1/batches", json=body_of(new_file(desk))).get_json()["id"]
    desk.kept_batches[batch_id] = replace(
        desk.kept_batches[batch_id],
        status=BatchStatus.FAILED,
        failed_at=7,
        counts=Counts(total=5, completed=3, failed=1, prompt_tokens=40, completion_tokens=2),
        output_file_id="file-o",
        error_file_id="file-e",
        flaws=(Flaw("invalid_json", "This line is not JSON.", line=3), Flaw("empty_file", "It is empty.")),
    )
    batch = Batch.model_validate(client.get(f"/v1/batches/{batch_id}").get_json(), strict=True)
    assert (batch.status, batch.failed_at) == ("failed", 7)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 3, "failed": 1}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (40, 2, 42)
    assert (batch.output_file_id, batch.error_file_id) == ("file-o", "file-e")
    assert batch.errors is not None
    assert batch.errors.to_dict() == {
        "object": "list",
        "data": [
            {"code": "invalid_json", "message": "This line is not JSON.", "line": 3, "param": None},
            {"code": "empty_file", "message": "It is empty.", "line": None, "param": None},
        ],
    }


def test_batches_are_listed_page_by_page(client: FlaskClient, desk: FakeDesk) -> None:
    file_id = new_file(desk)
    ids = [client.post("/v1/batches", json=body_of(file_id)).get_json()["id"] for _ in range(3)][::-1]
    first = client.get("/v1/batches?limit=2").get_json()
    assert [batch["id"] for batch in first["data"]] == ids[:2]
    assert (first["object"], first["first_id"], first["last_id"], first["has_more"]) == ("list", ids[0], ids[1], True)
    rest = client.get(f"/v1/batches?after={ids[1]}").get_json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (ids[2:], False)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "order=asc", "limit=-1"])
def test_a_list_that_makes_no_sense_is_refused(client: FlaskClient, query: str) -> None:
    assert client.get(f"/v1/batches?{query}").status_code == 400


def test_nobody_has_more_open_batches_than_allowed(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> None:
    client = make_app(tmp_path, dispatcher, desk=desk, batch_max_open=1).test_client()
    file_id = new_file(desk)
    assert client.post("/v1/batches", json=body_of(file_id)).status_code == 200
    refused = client.post("/v1/batches", json=body_of(file_id))
    assert error_of(refused)[:2] == (429, "too_many_batches")
    assert refused.headers["x-should-retry"] == "false"


def test_a_batch_is_cancelled_once_it_has_not_ended(client: FlaskClient, desk: FakeDesk) -> None:
    batch_id = client.post("/v1/batches", json=body_of(new_file(desk))).get_json()["id"]
    cancelled = client.post(f"/v1/batches/{batch_id}/cancel")
    assert (cancelled.status_code, cancelled.get_json()["status"]) == (200, "cancelling")
    desk.kept_batches[batch_id] = replace(desk.kept_batches[batch_id], status=BatchStatus.CANCELLED)
    assert error_of(client.post(f"/v1/batches/{batch_id}/cancel"))[:2] == (409, "batch_ended")


@pytest.mark.parametrize("batch_id", [NO_BATCH, "batch_1", "../../etc/passwd", "5f0a7a0e-0000-4000-8000-000000000000"])
def test_an_id_of_nothing_is_not_found(client: FlaskClient, batch_id: str) -> None:
    assert error_of(client.get(f"/v1/batches/{batch_id}")) == (404, "batch_not_found", "batch_id")
    assert client.post(f"/v1/batches/{batch_id}/cancel").status_code == 404


def test_somebody_elses_batch_is_no_batch(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> None:
    alice, bob = (api_keys.add(tmp_path / "keys" / "file", name) for name in ("alice", "bob"))
    client = make_app(tmp_path, dispatcher, KeyRing(tmp_path / "keys" / "file"), desk=desk).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {alice}"
    batch_id = client.post("/v1/batches", json=body_of(new_file(desk, "alice"))).get_json()["id"]
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {bob}"
    theirs, nobodys = (client.get(f"/v1/batches/{name}") for name in (batch_id, NO_BATCH))
    assert (theirs.status_code, theirs.data) == (nobodys.status_code, nobodys.data) == (404, nobodys.data)
    assert client.post(f"/v1/batches/{batch_id}/cancel").status_code == 404
    assert client.get("/v1/batches").get_json()["data"] == []
    assert desk.kept_batches[batch_id].status is BatchStatus.VALIDATING


def test_an_operators_key_sees_to_what_is_nobodys(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> None:
    path = tmp_path / "keys" / "file"
    alice, root = api_keys.add(path, "alice"), api_keys.add(path, "root", Role.OPERATOR)
    client = make_app(tmp_path, dispatcher, KeyRing(path), desk=desk).test_client()
    file_ids = {owner: new_file(desk, owner) for owner in ("", "alice", "root")}
    ids = {o: desk.create(owner=o, input_file_id=f, endpoint=Endpoint.CHAT).id for o, f in file_ids.items()}

    def seen(key: str) -> dict[str, set[Any]]:
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        one_by_one = {o for o, id_ in ids.items() if client.get(f"/v1/batches/{id_}").status_code == 200}
        contents = {o for o, id_ in file_ids.items() if client.get(f"/v1/files/{id_}/content").status_code == 200}
        listed = {batch["id"] for batch in client.get("/v1/batches").get_json()["data"]}
        files = {file["id"] for file in client.get("/v1/files").get_json()["data"]}
        return {"batches": one_by_one, "contents": contents, "listed": listed, "files": files}

    def all_of(*owners: str) -> dict[str, set[Any]]:
        listed, files = {ids[o] for o in owners}, {file_ids[o] for o in owners}
        return {"batches": set(owners), "contents": set(owners), "listed": listed, "files": files}

    assert seen(alice) == all_of("alice")
    assert client.post(f"/v1/batches/{ids['']}/cancel").status_code == 404
    assert client.delete(f"/v1/files/{file_ids['']}").status_code == 404
    assert seen(root) == all_of("", "root")
    assert client.post(f"/v1/batches/{ids['alice']}/cancel").status_code == 404
    assert client.post(f"/v1/batches/{ids['']}/cancel").get_json()["status"] == "cancelling"


def test_what_becomes_of_batches_is_logged_and_counted(client: FlaskClient, desk: FakeDesk, caplog: Any) -> None:
    caplog.set_level("INFO")
    batch_id = client.post("/v1/batches", json=body_of(new_file(desk), metadata={"a": "secret"})).get_json()["id"]
    client.post(f"/v1/batches/{batch_id}/cancel")
    assert [(record.event, record.batch) for record in caplog.records] == [
        ("batch_created", batch_id),
        ("batch_cancelled", batch_id),
    ]
    assert not any("secret" in str(record.__dict__) for record in caplog.records)
    assert 'celerity_batches_created_total{endpoint="chat"}' in client.get("/metrics").get_data(as_text=True)
