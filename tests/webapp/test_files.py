"""/v1/files over a desk that keeps everything in memory; X18 where it is about names and ids."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tasks.errors import ServiceUnavailableError
from tests.fake_desk import FakeDesk
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import make_app
from webapp import api_keys
from webapp.api_keys import KeyRing
from webapp.openai.spool import Spool

CONTENT = b'{"custom_id": "1"}\n' * 50_000
LIMIT = 1_000_000
NO_FILE = f"file-{'0' * 24}"


@pytest.fixture
def desk(tmp_path: Path) -> FakeDesk:
    return FakeDesk(tmp_path)


@pytest.fixture
def client(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> FlaskClient:
    return make_app(tmp_path, dispatcher, desk=desk, max_file_bytes=LIMIT).test_client()


def upload(
    client: FlaskClient, content: bytes = CONTENT, name: str = "lines.jsonl", fields: Mapping[str, str] | None = None
) -> TestResponse:
    """Send the fields first, as openai-python does. A field called `file` takes the file's place."""
    said = {"purpose": "batch"} | dict(fields or {})
    parts = [part(f'name="{field}"', value.encode()) for field, value in said.items()]
    if "file" not in said:
        parts.append(part(f'name="file"; filename="{name}"', content))
    return client.post("/v1/files", **raw_form(*parts))


def raw_form(*parts: bytes, boundary: str = "xyz", end: bytes = b"--xyz--\r\n") -> dict[str, Any]:
    return {"data": b"".join(parts) + end, "content_type": f"multipart/form-data; boundary={boundary}"}


def part(disposition: str, content: bytes = b"x") -> bytes:
    return b"--xyz\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (disposition.encode(), content)


FILE = part('name="file"; filename="a.jsonl"')
PURPOSE = part('name="purpose"', b"batch")


def error_of(answer: TestResponse) -> tuple[int, str, str | None]:
    error = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("upload-")]


def test_a_file_is_kept_and_given_back(client: FlaskClient, tmp_path: Path) -> None:
    made = upload(client)
    assert made.status_code == 200
    record = made.get_json()
    assert record == {
        "id": record["id"],
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": 1_800_000_000,
        "expires_at": None,
        "filename": "lines.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert client.get(f"/v1/files/{record['id']}").get_json() == record
    content = client.get(f"/v1/files/{record['id']}/content")
    assert content.data == CONTENT
    assert content.headers["Content-Length"] == str(len(CONTENT))
    assert content.headers["Content-Type"] == "application/octet-stream"
    assert content.headers["Content-Disposition"].startswith('attachment; filename="lines.jsonl"')
    assert leftovers(tmp_path) == []


def test_a_deleted_file_is_gone(client: FlaskClient) -> None:
    file_id = upload(client).get_json()["id"]
    gone = client.delete(f"/v1/files/{file_id}")
    assert (gone.status_code, gone.get_json()) == (200, {"id": file_id, "object": "file", "deleted": True})
    for answer in (client.get(f"/v1/files/{file_id}"), client.delete(f"/v1/files/{file_id}")):
        assert error_of(answer) == (404, "file_not_found", "file_id")


def test_a_file_that_a_batch_reads_is_not_deleted(client: FlaskClient) -> None:
    file_id = upload(client).get_json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert client.post("/v1/batches", json=body).status_code == 200
    assert error_of(client.delete(f"/v1/files/{file_id}"))[:2] == (409, "file_in_use")


def test_files_are_listed_page_by_page(client: FlaskClient) -> None:
    ids = [upload(client).get_json()["id"] for _ in range(5)]
    everything = client.get("/v1/files").get_json()
    assert [record["id"] for record in everything["data"]] == ids[::-1]
    assert (everything["first_id"], everything["last_id"], everything["has_more"]) == (ids[4], ids[0], False)
    page = client.get(f"/v1/files?limit=2&order=asc&after={ids[1]}&purpose=batch").get_json()
    assert [record["id"] for record in page["data"]] == ids[2:4]
    assert page["has_more"] is True
    nothing = client.get("/v1/files?purpose=batch_output").get_json()
    assert nothing == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("order=up", "order"),
        ("purpose=fun", "purpose"),
        ("colour=red", "colour"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(client: FlaskClient, query: str, param: str) -> None:
    status, _, named = error_of(client.get(f"/v1/files?{query}"))
    assert (status, named) == (400, param)


def test_a_file_can_be_deleted_by_itself(client: FlaskClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    record = upload(client, fields=fields).get_json()
    assert record["expires_at"] == record["created_at"] + 3600


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"purpose": "x" * 10_000}, "purpose"),
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "1e9"}, "expires_after[seconds]"),
        ({"owner": "bob"}, "owner"),
        ({"file": "text"}, "file"),
    ],
)
def test_a_form_that_says_something_else_is_refused(
    client: FlaskClient, tmp_path: Path, form: dict[str, str], param: str
) -> None:
    status, _, named = error_of(upload(client, fields=form))
    assert (status, named) == (400, param)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("form", "param"),
    [
        (raw_form(PURPOSE), "file"),
        (raw_form(FILE), "purpose"),
        (raw_form(FILE, FILE, PURPOSE), "file"),
        (raw_form(PURPOSE, PURPOSE, FILE), "purpose"),
        (raw_form(PURPOSE, part('name="file"; filename=""')), "file"),
        (raw_form(PURPOSE, part('name="file"; filename="a\tb"')), "file"),
        (raw_form(PURPOSE, part(f'name="file"; filename="{"a" * 256}"')), "file"),
        (raw_form(PURPOSE, part('name="file"; filename="a"', b"")), "file"),
        (raw_form(PURPOSE, part('name="purpose"; filename="a"')), "purpose"),
        (raw_form(part('filename="a"'), PURPOSE), "None"),
        (raw_form(PURPOSE, FILE, end=b"--xyz"), None),
        (raw_form(PURPOSE, FILE, end=b""), None),
        (raw_form(PURPOSE, FILE, boundary="other"), None),
        (raw_form(PURPOSE, FILE, boundary=""), None),
        (raw_form(PURPOSE, FILE, boundary="x" * 71), None),
        (raw_form(b"--xyz\r\nContent-Type: text/plain\r\n\r\nx\r\n"), None),
        (raw_form(b"--xyz\r\nContent-Disposition: form-data; name=\xff\xff\r\n\r\nx\r\n"), None),
        (raw_form(b"--xyz\r\nX: " + b"y" * 500_000), None),
        (raw_form(b"y" * 500_000), None),
        (raw_form(PURPOSE, FILE, end=b"--xyz--\r\n" + b"y" * 500_000), None),
        (raw_form(end=b" "), None),
    ],
)
def test_rubbish_is_refused_and_leaves_nothing(
    client: FlaskClient, tmp_path: Path, form: dict[str, Any], param: str | None
) -> None:
    status, _, named = error_of(client.post("/v1/files", **form))
    assert (status, named) == (400, param)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("media", ["application/json", "text/plain", "", "multipart/mixed; boundary=xyz"])
def test_an_upload_is_a_form(client: FlaskClient, media: str) -> None:
    assert error_of(client.post("/v1/files", data=b"{}", content_type=media))[:2] == (415, "unsupported_media_type")


def test_an_upload_is_not_compressed(client: FlaskClient) -> None:
    answer = client.post("/v1/files", headers={"Content-Encoding": "gzip"}, **raw_form(PURPOSE, FILE))
    assert error_of(answer)[:2] == (415, "unsupported_media_type")


def test_a_file_has_its_limit_to_the_byte(client: FlaskClient, tmp_path: Path) -> None:
    assert upload(client, b"x" * LIMIT).status_code == 200
    assert error_of(upload(client, b"x" * (LIMIT + 1))) == (413, "request_too_large", "file")
    assert error_of(upload(client, b"x" * (LIMIT * 2))) == (413, "request_too_large", "file")
    assert leftovers(tmp_path) == []


def test_what_is_too_long_is_refused_unread(client: FlaskClient) -> None:
    body = io.BytesIO(b"x" * 100)
    answer = client.post(
        "/v1/files",
        input_stream=body,
        content_type="multipart/form-data; boundary=xyz",
        environ_overrides={"CONTENT_LENGTH": str(LIMIT * 2)},
    )
    assert error_of(answer)[:2] == (413, "request_too_large")
    assert body.tell() == 0


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n" * 100_000,
        b"\r" * 200_000,
        b"\n--xy" * 50_000,
        b"x--xyz--" * 30_000,
        bytes(range(256)) * 1000,
        b"x" * 65_536,
    ],
)
def test_content_comes_back_byte_for_byte(client: FlaskClient, content: bytes) -> None:
    made = client.post("/v1/files", **raw_form(PURPOSE, part('name="file"; filename="a"', content)))
    assert made.get_json()["bytes"] == len(content)
    assert client.get(f"/v1/files/{made.get_json()['id']}/content").data == content


@pytest.mark.parametrize(
    ("name", "plain", "exact"),
    [
        ("../../etc/passwd", ".._.._etc_passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("a;b.jsonl", "a_b.jsonl", "a%3Bb.jsonl"),
        ("Fragen \u2013 1.jsonl", "Fragen _ 1.jsonl", "Fragen%20%E2%80%93%201.jsonl"),
    ],
)
def test_a_name_is_text_and_leads_nowhere(
    client: FlaskClient, tmp_path: Path, name: str, plain: str, exact: str
) -> None:
    record = upload(client, name=name).get_json()
    assert record["filename"] == name
    assert [path.name for path in tmp_path.iterdir()] == [record["id"]]
    with client.get(f"/v1/files/{record['id']}/content") as content:
        header = content.headers["Content-Disposition"]
    assert header == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"


@pytest.mark.parametrize(
    "file_id",
    [NO_FILE, "file-1", "../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", f"{NO_FILE}/x", "file-" + "A" * 24],
)
def test_an_id_of_nothing_is_not_found(client: FlaskClient, file_id: str) -> None:
    answers = [client.get(f"/v1/files/{file_id}"), client.delete(f"/v1/files/{file_id}")]
    assert {error_of(answer) for answer in answers} == {(404, "file_not_found", "file_id")}
    assert client.get(f"/v1/files/{file_id}/content").status_code == 404
    assert client.get(f"/v1/files?after={file_id}").status_code in (200, 404)


def test_somebody_elses_file_is_no_file(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> None:
    alice, bob = (api_keys.add(tmp_path / "keys" / "file", name) for name in ("alice", "bob"))
    client = make_app(tmp_path, dispatcher, KeyRing(tmp_path / "keys" / "file"), desk=desk).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {alice}"
    file_id = upload(client).get_json()["id"]
    assert desk.kept_files[file_id].owner == "alice"
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {bob}"
    for path in ("", "/content"):
        theirs, nobodys = (client.get(f"/v1/files/{name}{path}") for name in (file_id, NO_FILE))
        assert (theirs.status_code, theirs.data) == (nobodys.status_code, nobodys.data) == (404, nobodys.data)
    assert client.delete(f"/v1/files/{file_id}").data == client.delete(f"/v1/files/{NO_FILE}").data
    assert client.get("/v1/files").get_json()["data"] == []
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert error_of(client.post("/v1/batches", json=body)) == (404, "file_not_found", "input_file_id")
    assert file_id in desk.kept_files


def test_a_gateway_that_drains_takes_in_nothing(tmp_path: Path, dispatcher: FakeDispatcher, desk: FakeDesk) -> None:
    app = make_app(tmp_path, dispatcher, desk=desk)
    client = app.test_client()
    app.extensions["celerity"].drain.begin()
    for answer in (upload(client), client.get("/v1/files"), client.get("/v1/batches")):
        assert error_of(answer)[:2] == (503, "service_unavailable")
        assert answer.headers["Retry-After"]
    assert not desk.kept_files


def test_a_ledger_out_of_reach_is_a_503_and_leaves_no_upload(
    client: FlaskClient, desk: FakeDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*args: object, **fields: object) -> None:
        raise ServiceUnavailableError("away")

    monkeypatch.setattr(desk, "keep", keep)
    assert error_of(upload(client))[:2] == (503, "service_unavailable")
    assert leftovers(tmp_path) == []
    desk.refusal = ServiceUnavailableError("away")
    assert error_of(upload(client))[:2] == (503, "service_unavailable")


def test_a_disk_that_takes_no_more_is_a_503(
    client: FlaskClient,
    desk: FakeDesk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = tmp_path / "upload-full"
    full.symlink_to("/dev/full")  # what is removed afterwards is the link
    monkeypatch.setattr(desk, "new_upload", lambda: full)
    assert error_of(upload(client))[:2] == (503, "service_unavailable")
    assert [r.reason for r in caplog.records if r.levelname == "ERROR"] == ["ENOSPC"]  # type: ignore[attr-defined]


def test_neither_name_nor_content_is_logged(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    file_id = upload(client, b"secret-content", "secret-name").get_json()["id"]
    client.get(f"/v1/files/{file_id}/content").close()
    client.delete(f"/v1/files/{file_id}")
    upload(client, b"secret-content", "secret-name", {"colour": "secret"})
    events = [record.event for record in caplog.records if hasattr(record, "event")]
    assert events == ["file_stored", "file_deleted", "request_refused"]
    assert not any("secret" in str(record.__dict__) for record in caplog.records)
    page = client.get("/metrics").get_data(as_text=True)
    assert "celerity_files_uploaded_bytes_total" in page


@pytest.mark.parametrize(("name", "leave_free_bytes"), [("upload", 1 << 62), ("/dev/full", 0)])
def test_uploads_leave_room_on_the_disk_for_the_ledger(tmp_path: Path, name: str, leave_free_bytes: int) -> None:
    path = tmp_path / name
    with Spool(path, leave_free_bytes) as spool:
        spool.write(b"x")
        with pytest.raises(ServiceUnavailableError):
            spool.flush()
    assert path.stat().st_size == 0
