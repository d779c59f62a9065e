"""Which build of a rollout answers. What a review found wrong in an earlier design has a test each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ModelNotFoundError, UnsupportedEndpointError
from tasks.messages import Endpoint
from tasks.requests.routing import route
from tests.fakes import FakeDispatcher
from tests.webapp.conftest import chat, make_app
from tests.workers.reference_models import CONFIGS, write_model
from workers.placement.actions import Explanation, Outlook
from workers.registry import ModelSpec, Registry, Rollout

SPECS = {name: ModelSpec(id=name, engine="sim") for name in ("new", "old", "newest")}
REGISTRY = Registry(
    models=SPECS,
    aliases={"a": "new", "b": "newest", "plain": "old"},
    rollouts={"a": Rollout("new", "old"), "b": Rollout("newest", "new")},
)
NO_ROOM = Explanation(outlook=Outlook.NO_CAPACITY, text="full", retry_after_s=30.0)


def goes(name: str, dispatcher: FakeDispatcher, endpoint: Endpoint = Endpoint.CHAT) -> tuple[str, str]:
    way = route(REGISTRY, name, endpoint, dispatcher)
    return way.spec.id, way.stand_in


@pytest.mark.parametrize(
    ("cold", "way"),
    [
        (set(), ("new", "old")),
        ({"old"}, ("new", "old")),
        ({"new"}, ("old", "new")),
        ({"new", "old"}, ("new", "old")),
    ],
)
def test_previous_serves_while_it_is_ready_and_desired_is_not(cold: set[str], way: tuple[str, str]) -> None:
    assert goes("a", FakeDispatcher(cold=cold)) == way


def test_previous_is_waited_for_where_the_loader_loads_it_instead() -> None:
    lost = dataclasses.replace(NO_ROOM, instead="old")
    assert goes("a", FakeDispatcher(cold={"new", "old"}, outlooks={"new": lost})) == ("old", "new")


def test_a_build_of_several_aliases_goes_by_the_one_that_was_asked_for() -> None:
    only_new_is_up = FakeDispatcher(cold={"old", "newest"})
    assert goes("a", only_new_is_up) == ("new", "old")
    assert goes("b", only_new_is_up) == ("new", "newest")
    only_old_is_up = FakeDispatcher(cold={"new", "newest"})
    assert goes("a", only_old_is_up) == ("old", "new")
    assert goes("b", only_old_is_up) == ("newest", "new")


def test_a_build_that_is_asked_for_by_its_own_name_is_not_replaced() -> None:
    lost = dataclasses.replace(NO_ROOM, instead="old")
    assert goes("new", FakeDispatcher(cold={"new"}, outlooks={"new": lost})) == ("new", "")
    assert goes("plain", FakeDispatcher(cold={"old"})) == ("old", "")


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError):
        goes("nobody", FakeDispatcher())


def asked(tmp_path: Path, registry: Registry, dispatcher: FakeDispatcher, path: str = "chat/completions") -> Any:
    client = make_app(tmp_path, dispatcher, registry=registry).test_client()
    body = {"model": "a", "input": "Hello"} if path == "embeddings" else chat(model="a")
    return client.post(f"/v1/{path}", json=body)


def test_an_alias_without_room_is_429_also_where_its_build_is_pinned(tmp_path: Path) -> None:
    pinned = {**SPECS, "new": dataclasses.replace(SPECS["new"], pinned=True)}
    cold = FakeDispatcher(cold={"new", "old"}, outlooks={"new": NO_ROOM})
    answer = asked(tmp_path, dataclasses.replace(REGISTRY, models=pinned), cold)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (429, "pool_exhausted")


def test_nobody_is_sent_away_before_the_previous_build_was_tried(tmp_path: Path) -> None:
    cold = FakeDispatcher(cold={"new"}, outlooks={"new": NO_ROOM})
    assert asked(tmp_path, REGISTRY, cold).status_code == 200
    assert cold.calls[0].model == "old"


def test_while_models_are_loaded_by_hand_only_an_alias_loads_nothing_and_says_so(tmp_path: Path) -> None:
    off = Explanation(outlook=Outlook.SWITCHED_OFF, text="by hand only", retry_after_s=30.0)
    cold = FakeDispatcher(cold={"new", "old"}, outlooks={"new": off, "old": off})
    assert asked(tmp_path, REGISTRY, cold).status_code == 429
    cold.cold.remove("old")
    assert asked(tmp_path, REGISTRY, cold).status_code == 200


EMBEDDING = {**CONFIGS["Qwen2.5-0.5B-Instruct"], "architectures": ["ModernBertModel"]}


@pytest.fixture
def site(tmp_path: Path) -> Registry:
    """A chat model and an embedding model, on disk."""
    write_model(tmp_path / "writes", CONFIGS["Qwen2.5-0.5B-Instruct"] | {"quantization_config": None})
    write_model(tmp_path / "embeds", EMBEDDING | {"quantization_config": None})
    (tmp_path / "models.yaml").write_text(
        f"models:\n  writes: {{path: {tmp_path / 'writes'}}}\n  embeds: {{path: {tmp_path / 'embeds'}}}\n"
        "aliases:\n  a: {desired: writes, previous: embeds}\n"
    )
    return Registry.load(tmp_path / "models.yaml")


def test_what_an_engine_cannot_do_is_said_whatever_room_there_is(tmp_path: Path, site: Registry) -> None:
    full = FakeDispatcher(cold={"writes", "embeds"}, outlooks={"writes": NO_ROOM, "embeds": NO_ROOM})
    client = make_app(tmp_path, full, registry=site).test_client()
    for path, body in (
        ("embeddings", {"model": "writes", "input": "Hello"}),
        ("chat/completions", chat(model="embeds")),
        ("completions", {"model": "embeds", "prompt": "Hello"}),
    ):
        answer = client.post(f"/v1/{path}", json=body)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "unsupported_endpoint")


def test_a_build_that_cannot_do_it_is_no_candidate(site: Registry) -> None:
    everything_is_up = FakeDispatcher()
    assert route(site, "a", Endpoint.CHAT, everything_is_up).spec.id == "writes"
    embeds = route(site, "a", Endpoint.EMBEDDING, everything_is_up)
    assert (embeds.spec.id, embeds.stand_in) == ("embeds", "")


def test_what_only_the_engine_knows_is_left_to_it(tmp_path: Path, site: Registry) -> None:
    assert route(REGISTRY, "a", Endpoint.EMBEDDING, FakeDispatcher()).spec.id == "new"
    (tmp_path / "writes" / "modules.json").write_text("[]")
    assert route(site, "writes", Endpoint.EMBEDDING, FakeDispatcher()).spec.id == "writes"
    turned = dataclasses.replace(site.models["embeds"], engine_args={"runner": "generate"})
    other = dataclasses.replace(site, models={**site.models, "embeds": turned})
    with pytest.raises(UnsupportedEndpointError):
        route(site, "embeds", Endpoint.CHAT, FakeDispatcher())
    assert route(other, "embeds", Endpoint.CHAT, FakeDispatcher()).spec.id == "embeds"
