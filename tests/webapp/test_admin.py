"""/admin: what operators see and order, over a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from tasks import keys
from tasks.connections import command_client
from tasks.queues import LOADER_QUEUE
from tasks.records.load_failures import LoadFailureStore
from tasks.records.outlooks import OutlookStore
from tasks.records.wishes import Wish, WishStore
from tasks.settings import Settings
from tests.fakes import FakeDispatcher, FakeRegistries
from tests.stack import RedisServer
from tests.webapp.conftest import REGISTRY, make_app
from webapp import api_keys
from webapp.api_keys import KeyRing, Role
from webapp.app import create_app
from workers.placement.actions import Explanation, Outlook

pytestmark = pytest.mark.integration

ORDERS = ["/admin/models/demo/load", "/admin/models/demo/unload"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def kept(server: RedisServer) -> Iterator[redis.Redis]:
    client = command_client(server.url)
    yield client
    client.close()


@pytest.fixture
def app(server: RedisServer) -> Flask:
    return create_app(
        Settings(state_dir=server.folder, redis_url=server.url), FakeRegistries(REGISTRY), FakeDispatcher()
    )


@pytest.fixture
def admin(app: Flask) -> FlaskClient:
    return app.test_client()


def test_the_status_is_that_of_the_command_line(admin: FlaskClient) -> None:
    found = admin.get("/admin/status")
    assert found.status_code == 200
    assert found.get_json().keys() == {"models", "nodes", "rollouts", "loader"}
    assert [model["id"] for model in found.get_json()["models"]] == ["demo", "org/small"]


@pytest.mark.parametrize("name", ["demo", "light"])
def test_a_load_is_ordered_by_any_name(admin: FlaskClient, kept: redis.Redis, name: str) -> None:
    answer = admin.post(f"/admin/models/{name}/load")
    assert answer.status_code == 202
    assert answer.get_json()["id"] == "demo"
    assert answer.get_json()["wish"] == "load"
    assert answer.get_json()["note"]
    assert WishStore(kept).of(["demo"]) == {"demo": Wish.LOAD}
    assert kept.llen(LOADER_QUEUE) == 1
    assert 0 < kept.ttl(keys.wish("demo")) <= keys.LOADER_MEMORY_TTL_S


def test_a_name_may_have_slashes(admin: FlaskClient) -> None:
    assert admin.post("/admin/models/org/small/unload").get_json()["id"] == "org/small"
    assert admin.get("/admin/models/org/small").get_json()["wish"] == "unload"


def test_a_load_forgets_what_became_of_the_last(admin: FlaskClient, kept: redis.Redis) -> None:
    failures, outlooks = LoadFailureStore(kept), OutlookStore(kept)
    for model in ("demo", "org/small"):
        failures.failed(model, node="n", reason="broken", permanent=True, now=1.0)
    outlooks.write({"demo": Explanation(outlook=Outlook.FAILED, text="broken")})
    assert admin.get("/admin/models/demo").get_json()["state"] == "failed"
    assert admin.post("/admin/models/demo/load").get_json()["state"] == "unloaded"
    assert [left.model for left in failures.all()] == ["org/small"]
    assert outlooks.of("demo") is None


def test_the_later_order_counts(admin: FlaskClient, kept: redis.Redis) -> None:
    for order in ORDERS:
        assert admin.post(order).status_code == 202
    assert WishStore(kept).of(["demo"]) == {"demo": Wish.UNLOAD}


@pytest.mark.parametrize("path", ["/admin/models/nobody/load", "/admin/models/nobody/unload"])
def test_a_model_that_is_not_there_is_not_found(admin: FlaskClient, path: str) -> None:
    answer = admin.post(path)
    assert answer.status_code == 404
    assert answer.get_json()["error"]["code"] == "model_not_found"
    assert admin.get("/admin/models/nobody").status_code == 404


def test_the_loader_is_switched_off_and_on(admin: FlaskClient, kept: redis.Redis) -> None:
    for automatic in (False, True):
        answer = admin.post("/admin/loader", json={"automatic": automatic})
        assert (answer.status_code, answer.get_json()) == (200, {"automatic": automatic})
        assert WishStore(kept).automatic is automatic
        assert admin.get("/admin/loader").get_json()["automatic"] is automatic


@pytest.mark.parametrize("body", [{}, {"automatic": "yes"}, {"automatic": True, "more": 1}, {"automatic": 1}])
def test_a_switch_that_is_not_clear_turns_nothing(admin: FlaskClient, kept: redis.Redis, body: object) -> None:
    answer = admin.post("/admin/loader", json=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "automatic"
    assert kept.keys("*") == []


def test_a_switch_by_a_form_is_no_json(admin: FlaskClient, kept: redis.Redis) -> None:
    assert admin.post("/admin/loader", data={"automatic": "false"}).status_code == 415
    assert admin.post("/admin/loader", data=b"{", content_type="application/json").status_code == 400
    assert kept.keys("*") == []


def test_an_order_is_not_a_look(admin: FlaskClient) -> None:
    assert [admin.get(path).status_code for path in ORDERS] == [404, 404]
    assert admin.post("/admin/status").status_code == 405


def test_every_order_says_who_gave_it(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    key = api_keys.add(server.folder / "keys", "root", Role.OPERATOR)
    ring = KeyRing(server.folder / "keys")
    settings = Settings(state_dir=server.folder, redis_url=server.url)
    admin = create_app(settings, FakeRegistries(REGISTRY), FakeDispatcher(), ring).test_client()
    for order in ORDERS:
        assert admin.post(order, headers={"Authorization": f"Bearer {key}"}).status_code == 202
    told = [record for record in caplog.records if getattr(record, "event", "") == "operator_order"]
    assert [(record.order, record.model, record.by) for record in told] == [  # type: ignore[attr-defined]
        ("load", "demo", "root"),
        ("unload", "demo", "root"),
    ]
    assert key not in caplog.text


def test_without_redis_it_is_unavailable(tmp_path: Path) -> None:
    admin = make_app(tmp_path, FakeDispatcher()).test_client()
    for answer in (
        admin.get("/admin/status"),
        admin.post(ORDERS[0]),
        admin.post("/admin/loader", json={"automatic": True}),
    ):
        assert answer.status_code == 503
        assert answer.get_json()["error"]["code"] == "service_unavailable"


def test_nothing_of_the_blueprint_lies_outside_of_admin(app: Flask) -> None:
    """`webapp.auth` goes by the path."""
    rules = [rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("admin.")]
    assert len(rules) > 4
    assert all(rule.startswith("/admin/") for rule in rules)


def test_public_pages_say_nothing_of_the_inside(admin: FlaskClient) -> None:
    for path in ("/v1/models", "/v1/models/demo", "/health", "/live"):
        text = admin.get(path).get_data(as_text=True)
        assert not {"node", "device", "replica", "memory", "loader"} & set(text.replace('"', " ").split())
