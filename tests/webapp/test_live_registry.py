"""models.yaml and the models directory may change while the gateway serves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tasks.settings import Settings
from tests.fakes import FakeClock, FakeDispatcher
from tests.waiting import wait_until
from tests.webapp.conftest import chat
from webapp.app import create_app
from webapp.live_registry import LiveRegistry
from workers.registry_watch import INTERVAL_S, RegistryWatch

ONE = "models:\n  demo: {engine: sim}\n"
TWO = "models:\n  demo: {engine: sim, aliases: [light]}\n  more: {engine: sim}\n"
ROLLOUT = TWO + "aliases:\n  gpt-4o-mini: {desired: more, previous: demo}\n"
BAD = "models:\n  demo: {engine: sim}\n  more: {engine: sim, pinnned: true}\n"


class Site:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "models.yaml"
        self.file.write_text(ONE)
        self.clock = FakeClock()
        self.live = LiveRegistry(RegistryWatch(self.file), self.clock)
        settings = Settings(state_dir=folder, redis_url="unix:///nowhere")
        self.client: FlaskClient = create_app(settings, self.live, FakeDispatcher()).test_client()

    def becomes(self, text: str) -> None:
        self.file.write_text(text)
        self.clock.now += INTERVAL_S
        self.live.look()

    def names(self) -> list[str]:
        listed: list[dict[str, Any]] = self.client.get("/v1/models").get_json()["data"]
        return [entry["id"] for entry in listed]

    def status(self, model: str) -> int:
        return self.client.post("/v1/chat/completions", json=chat(model=model)).status_code


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_new_entry_is_served_without_a_restart(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert (site.names(), site.status("more")) == (["demo"], 404)
    with caplog.at_level(logging.INFO):
        site.becomes(TWO)
    assert site.names() == ["demo", "more", "light"]
    assert (site.status("more"), site.status("light")) == (200, 200)
    assert site.client.get("/v1/models/light").get_json()["root"] == "demo"
    (said,) = [record for record in caplog.records if getattr(record, "event", "") == "registry_changed"]
    assert said.__dict__["added"] == ("more",)


def test_an_entry_that_is_gone_is_not_found(site: Site) -> None:
    site.becomes(TWO)
    site.becomes(ONE)
    assert (site.names(), site.status("more")) == (["demo"], 404)
    assert site.client.get("/v1/models/more").status_code == 404


def test_the_alias_of_a_rollout_is_listed(site: Site) -> None:
    site.becomes(ROLLOUT)
    assert site.client.get("/v1/models/gpt-4o-mini").get_json()["root"] == "more"
    assert "gpt-4o-mini" in site.names()


def test_a_bad_edit_changes_nothing_and_is_said_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.becomes(TWO)
    for text in (BAD, BAD + "\n", BAD):
        site.becomes(text)
    assert site.status("light") == 200
    (said,) = [record for record in caplog.records if getattr(record, "event", "") == "registry_refused"]
    problem = said.__dict__["problem"]
    assert f"{site.file}:3" in problem
    assert "pinnned" in problem
    site.becomes(ONE)
    assert site.names() == ["demo"]


def test_it_looks_by_itself_until_it_is_stopped(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(ONE)
    live = LiveRegistry(RegistryWatch(file))
    live.start()
    file.write_text(TWO)
    wait_until(lambda: "more" in live.current().models, "the new entry to be live", timeout_s=5.0)
    live.stop()
    assert not live._thread.is_alive()


class BrokenWatch(RegistryWatch):
    """A share that is away."""

    def poll(self, now: float) -> None:
        raise OSError("Stale file handle")


def test_what_cannot_be_looked_at_is_said_once_and_looked_at_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(ONE)
    live = LiveRegistry(BrokenWatch(file))
    live.look()
    live.look()
    assert len([record for record in caplog.records if getattr(record, "event", "") == "registry_broke"]) == 1
    assert "demo" in live.current().models
