"""A gateway application over a fake queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tasks.settings import Settings
from tests.fake_desk import FakeDesk
from tests.fakes import FakeDispatcher, FakeRegistries
from webapp.api_keys import KeyRing
from webapp.app import create_app
from workers.registry import ModelSpec, QueueSpec, Registry

REGISTRY = Registry(
    models={
        "demo": ModelSpec(id="demo", aliases=("light",), queue=QueueSpec(max_depth=7, max_wait_s=40.0)),
        "org/small": ModelSpec(id="org/small", max_model_len=64),
    },
    aliases={"light": "demo"},
)

CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}


def chat(**fields: Any) -> dict[str, Any]:
    """Return a good chat body with `fields` on top."""
    return CHAT | fields


def make_app(folder: Path, dispatcher: FakeDispatcher, keys: KeyRing | None = None, **settings: Any) -> Flask:
    registries = FakeRegistries(settings.pop("registry", REGISTRY))
    desk: FakeDesk | None = settings.pop("desk", None)
    app = create_app(
        Settings(state_dir=folder, redis_url="unix:///nowhere", **settings),
        registries,
        dispatcher,
        keys,
        desk=None if desk is None else lambda: desk,
    )
    app.testing = False  # errors are answered, not raised into the test
    return app


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


@pytest.fixture
def client(tmp_path: Path, dispatcher: FakeDispatcher) -> FlaskClient:
    return make_app(tmp_path, dispatcher).test_client()
