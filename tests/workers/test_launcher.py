"""The command line of an engine worker, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.settings import Settings
from workers import launcher
from workers.launcher.base import POOL, new_replica_id, slug, worker_command
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
    env = worker_command(ModelSpec(id="m", engine="sim"), "m-1", settings.to_env()).env
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
    chosen = launcher.create("process", tmp_path)
    chosen.close()
    with pytest.raises(KeyError):
        launcher.create("carrier-pigeon", tmp_path)
