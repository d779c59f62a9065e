"""What keeps `celerity up` from starting, and the way out that is told."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from deploy import preflight
from deploy.errors import StartError
from tasks.settings import Settings
from workers.registry import ModelSpec

SIM = "models: {s: {engine: sim, pinned: true}, t: {engine: sim}}"


def settings(tmp_path: Path, models: str = SIM, **env: str) -> Settings:
    (tmp_path / "models.yaml").write_text(models)
    given = {"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_MODELS": str(tmp_path / "models.yaml")}
    free = {"CELERITY_PORT": str(preflight.free_port("127.0.0.1"))}
    return Settings.from_env(given | free | env)


def refusal(checked: Settings) -> str:
    with pytest.raises(StartError) as caught:
        preflight.check(checked)
    return str(caught.value)


def test_what_is_fine_gives_the_models(tmp_path: Path) -> None:
    registry = preflight.check(settings(tmp_path))
    assert [spec.id for spec in preflight.pinned(registry)] == ["s"]


def test_the_network_is_not_let_in_without_keys(tmp_path: Path) -> None:
    assert "without API keys" in refusal(settings(tmp_path, CELERITY_HOST="0.0.0.0"))


def test_keys_that_are_named_must_exist(tmp_path: Path) -> None:
    text = refusal(settings(tmp_path, CELERITY_API_KEYS_FILE=str(tmp_path / "keys")))
    assert "celerity keys add NAME" in text


def test_an_unknown_launcher_is_refused_with_those_there_are(tmp_path: Path) -> None:
    assert "can be process" in refusal(settings(tmp_path, CELERITY_LAUNCHER="pigeon"))


def test_a_file_that_is_not_there_says_how_to_name_another(tmp_path: Path) -> None:
    checked = dataclasses.replace(settings(tmp_path), models=tmp_path / "none.yaml")
    assert "--models or CELERITY_MODELS" in refusal(checked)


def test_a_port_that_is_taken_is_named_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refusal(settings(tmp_path, CELERITY_PORT=str(port)))
    assert f"port {port} is taken" in text
    assert "--port or CELERITY_PORT" in text


def test_an_address_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1 port"):
        preflight.check_port("192.0.2.1", 8000)
    with pytest.raises(StartError, match=r"cannot listen on no-such-host\.invalid"):
        preflight.check_port("no-such-host.invalid", 8000)


@pytest.mark.parametrize("make", [False, True])
def test_a_model_s_folder_must_hold_a_model(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "weights"
    if make:
        folder.mkdir()
    problem = preflight.model_problem(ModelSpec(id="m", path=str(folder)))
    assert problem is not None
    assert ("no config.json" if make else "no folder") in problem


def test_a_model_that_seems_fine_has_no_problem(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert preflight.model_problem(ModelSpec(id="m", path=str(tmp_path))) is None
    assert preflight.model_problem(ModelSpec(id="m", path="org/name")) is None
    assert preflight.model_problem(ModelSpec(id="s", engine="sim")) is None
