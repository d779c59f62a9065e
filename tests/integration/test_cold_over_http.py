"""Cold models over HTTP: gunicorn, Redis, an engine worker; the loader is played."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator

import pytest

from tasks import keys
from tasks.queues import LOADER_QUEUE
from tasks.records.outlooks import OutlookStore
from tests.integration.conftest import MODELS
from tests.integration.test_over_http import body, expected, streamed_text
from tests.stack import GatewayProcess, Stack
from tests.waiting import wait_until
from workers.placement.actions import Explanation, Outlook

pytestmark = pytest.mark.integration

LOADING = Explanation(outlook=Outlook.LOADING, text="it is being loaded", retry_after_s=9.0, progress=0.25)
NO_ROOM = Explanation(outlook=Outlook.NO_CAPACITY, text="full", retry_after_s=30.0)
ALIAS = MODELS + "aliases:\n  chat: {desired: nobody, previous: sim}\n"


@pytest.fixture(scope="module")
def gateway(running: Stack) -> GatewayProcess:
    return running.gateway()


@pytest.fixture(autouse=True)
def nothing_is_left(running: Stack) -> Iterator[None]:
    yield
    client = running.client()
    client.delete(LOADER_QUEUE, *(keys.outlook(model) for model in ("sim", "slow", "nobody")))
    client.close()


@contextlib.contextmanager
def post(gateway: GatewayProcess, content: bytes, **headers: str) -> Iterator[http.client.HTTPResponse]:
    with contextlib.closing(gateway.connect()) as connection:
        connection.request("POST", "/v1/chat/completions", content, {"Content-Type": "application/json", **headers})
        with connection.getresponse() as response:
            yield response


def names(gateway: GatewayProcess) -> list[str]:
    with contextlib.closing(gateway.connect()) as connection:
        connection.request("GET", "/v1/models")
        return [entry["id"] for entry in json.loads(connection.getresponse().read())["data"]]


def says(running: Stack, model: str, explanation: Explanation) -> None:
    client = running.client()
    OutlookStore(client).write({model: explanation})
    client.close()


def line(response: http.client.HTTPResponse, start: bytes) -> bytes:
    """Return the next line that begins so."""
    while not (found := response.readline()).startswith(start):
        assert found, "the stream has ended"
    return found


def test_a_stream_shows_its_models_load_and_goes_on_when_a_worker_comes(
    running: Stack, gateway: GatewayProcess
) -> None:
    says(running, "slow", LOADING)
    client = running.client()
    with post(gateway, body("hello", stream=True, model="slow"), **{"X-Celerity-Progress": "true"}) as response:
        assert response.status == 200
        first = line(response, b": celerity")
        assert first == b": celerity position=1 state=loading percent=25 text=it is being loaded\n"
        assert client.llen(LOADER_QUEUE) == 1, "the loader was asked to look"
        worker = running.worker("slow")
        rest = response.read()
    client.close()
    worker.terminate()
    assert {text.split(b":")[0] for text in rest.splitlines()} <= {b"", b"data"}, "comments and data, nothing else"
    frames = b"".join(frame + b"\n\n" for frame in rest.split(b"\n\n") if frame.startswith(b"data: "))
    assert streamed_text(frames) == expected("hello", 8)


def test_a_client_may_come_again_instead(running: Stack, gateway: GatewayProcess) -> None:
    with post(gateway, body("hello", stream=True, model="nobody"), **{"X-SSW-Wait": "false"}) as response:
        said = json.loads(response.read())
        assert (response.status, response.headers["Retry-After"]) == (202, "60")
    assert (said["model"], said["status"]) == ("nobody", "queued")
    client = running.client()
    assert 0 < client.ttl(keys.asked("nobody")) <= keys.ASKED_TTL_S
    assert running.waiting("nobody") == 0
    client.delete(keys.asked("nobody"))
    client.close()


def test_where_no_room_can_be_made_nobody_waits(running: Stack, gateway: GatewayProcess) -> None:
    says(running, "nobody", NO_ROOM)
    with post(gateway, body("hello", stream=True, model="nobody")) as response:
        assert (response.status, json.loads(response.read())["error"]["code"]) == (429, "pool_exhausted")
        assert 30 <= int(response.headers["Retry-After"]) <= 60
    assert running.waiting("nobody") == 0


def test_an_alias_moves_with_its_builds_without_a_restart(running: Stack, gateway: GatewayProcess) -> None:
    def serving() -> str:
        with post(gateway, body("hello", stream=False, model="chat")) as response:
            said = json.loads(response.read())
            assert response.status == 200, said
            return str(said["model"])

    assert "chat" not in names(gateway)
    (running.folder / "models.yaml").write_text(ALIAS)
    wait_until(lambda: "chat" in names(gateway), "the alias to be live", timeout_s=5.0)
    previous = running.worker("sim")
    assert serving() == "sim", "previous serves"
    desired = running.worker("nobody")
    wait_until(lambda: serving() == "nobody", "desired to serve")
    desired.kill()
    wait_until(lambda: serving() == "sim", "previous to serve again")
    previous.terminate()


def test_a_bad_edit_is_refused_and_the_gateway_goes_on(running: Stack, gateway: GatewayProcess) -> None:
    (running.folder / "models.yaml").write_text(MODELS + "  more: {engine: sim, pinnned: true}\n")
    wait_until(lambda: "registry_refused" in gateway.log.read_text(), "the edit to be refused", timeout_s=5.0)
    refused = [text for text in gateway.log.read_text().splitlines() if "registry_refused" in text]
    assert len(refused) == 1
    assert "pinnned" in refused[0]
    assert "models.yaml:" in refused[0]
    (running.folder / "models.yaml").write_text(MODELS)
