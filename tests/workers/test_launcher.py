"""The command line of an engine worker, as data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.node.site import site
from tasks.settings import Settings
from workers import launcher
from workers.launcher.base import POOL, new_replica_id, require_safe, slug, worker_command
from workers.launcher.errors import RefusedError
from workers.launcher.site import Site, held, is_held
from workers.registry import ModelSpec

SETTINGS = {"CELERITY_REDIS_URL": "unix:///run/x.sock", "CELERITY_LOG_LEVEL": "INFO"}


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_a_worker_consumes_only_the_queue_of_its_model() -> None:
    command = worker_command(ModelSpec(id="org/m:1", engine="sim"), "org-m-1-abc123", SETTINGS)
    argv = list(command.argv)
    assert option(argv, "-Q") == "model.org/m:1"
    assert option(argv, "-n") == "org-m-1-abc123@%h"
    assert option(argv, "-P") == "custom"
    assert "--without-gossip" in argv
    assert "--without-mingle" in argv


def test_a_worker_gets_its_role_and_every_setting() -> None:
    command = worker_command(ModelSpec(id="m", engine="sim"), "m-abc123", SETTINGS)
    assert SETTINGS.items() <= command.env.items()
    assert command.env["CELERY_CUSTOM_WORKER_POOL"] == POOL
    assert command.env["CELERITY_MODEL"] == "m"
    assert command.env["CELERITY_REPLICA_ID"] == "m-abc123"


def test_the_variables_of_a_worker_are_ones_that_settings_know() -> None:
    settings = Settings.from_env({"CELERITY_STATE_DIR": "/s"})
    env = worker_command(ModelSpec(id="m", engine="sim"), "m-1", settings.to_env(), reserved_mib=2000, kv_mib=700).env
    assert (env["CELERITY_RESERVED_MIB"], env["CELERITY_KV_MIB"]) == ("2000", "700")
    assert Settings.from_env(env) == settings


@pytest.mark.parametrize(("path", "offline"), [("/models/m", True), ("org/name", False), (None, False)])
def test_the_hub_is_asked_only_for_weights_that_are_not_here(path: str | None, offline: bool) -> None:
    env = worker_command(ModelSpec(id="m", path=path), "m-1", {}).env
    assert ("HF_HUB_OFFLINE" in env) is offline


def test_a_replica_never_has_the_id_of_another() -> None:
    assert len({new_replica_id("m") for _ in range(100)}) == 100


def test_a_model_s_name_is_made_safe_for_files() -> None:
    assert slug("org/m:1.5-x_y") == "org-m-1.5-x_y"


def test_a_launcher_is_chosen_by_name(tmp_path: Path) -> None:
    here = Site(state_dir=tmp_path, node="n")
    chosen = launcher.create(here)
    assert chosen.list() == ()
    chosen.close()
    assert type(launcher.create(replace(here, launcher="docker"))).__name__ == "DockerLauncher"
    with pytest.raises(KeyError):
        launcher.create(replace(here, launcher="carrier-pigeon"))


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "a b", "x" * 300])
def test_an_id_is_only_ever_a_name(name: str) -> None:
    with pytest.raises(RefusedError):
        require_safe(name)
    require_safe(new_replica_id("org/m:1.5"))


def test_a_worker_reads_its_models_and_redis_socket_and_nothing_else() -> None:
    env = {"CELERITY_MODELS": "/m/models.yaml", "CELERITY_REDIS_URL": "unix:///s/redis/redis.sock?db=1"}
    weights = ModelSpec(id="m", path="/m/qwen")
    assert worker_command(weights, "m-1", env).reads == ("/m/models.yaml", "/m/qwen", "/s/redis")
    cached = ModelSpec(id="m", path="/hub/models--q--m/snapshots/abc")
    assert worker_command(cached, "m-1", {}).reads == ("/hub/models--q--m",)
    assert worker_command(ModelSpec(id="m", path="org/m"), "m-1", {"CELERITY_REDIS_URL": "redis://h"}).reads == ()


def test_an_installation_keeps_its_id(tmp_path: Path) -> None:
    first = Site(state_dir=tmp_path / "a", node="n").installation()
    assert first == Site(state_dir=tmp_path / "a", node="other").installation()
    assert first != Site(state_dir=tmp_path / "b", node="n").installation()


def test_a_site_is_told_to_another_process_as_text(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_NODE_ID": "n1", "CELERITY_DOCKER_MOUNTS": "/a:/b"}
    )
    told = site(settings)
    assert told == Site(state_dir=tmp_path, node="n1", mounts=("/a", "/b"))
    assert Site.from_json(told.to_json()) == told


def test_a_site_is_held_as_long_as_its_supervisor_lives(tmp_path: Path) -> None:
    here = Site(state_dir=tmp_path, node="n")
    assert not is_held(here)
    with held(here):
        assert is_held(here)
    assert not is_held(here)
