"""What keeps `celerity up` from starting, and the way out that is told."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from deploy import preflight
from deploy.errors import StartError
from tasks.settings import Settings
from tests.workers.reference_models import CONFIGS, write_model
from workers.registry import ModelSpec, Registry

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
    assert "can be process" in refusal(dataclasses.replace(settings(tmp_path), launcher="pigeon"))


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


def problem(tmp_path: Path, path: object) -> str | None:
    (tmp_path / "models.yaml").write_text(f"models: {{m: {{path: {path}}}}}")
    registry = Registry.load(tmp_path / "models.yaml")
    return preflight.model_problem(registry.models["m"], registry)


@pytest.mark.parametrize("make", [False, True])
def test_a_model_s_folder_must_hold_a_model(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "weights"
    if make:
        folder.mkdir()
    found = problem(tmp_path, folder)
    assert found is not None
    assert ("no config.json" if make else "no folder") in found


def test_a_model_that_vllm_cannot_serve_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = CONFIGS["Qwen2.5-0.5B-Instruct"] | {"architectures": ["QWenLMHeadModel"]}
    folder = write_model(tmp_path / "old", config)
    checked = settings(tmp_path)
    checked.models.write_text(f"models: {{m: {{path: {folder}, pinned: true}}}}")
    assert "no longer has QWenLMHeadModel" in refusal(checked)


def test_a_model_that_seems_fine_has_no_problem(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "small", CONFIGS["Qwen2.5-0.5B-Instruct"])
    assert problem(tmp_path, folder) is None
    assert problem(tmp_path, "org/name") is None
    simulated = ModelSpec(id="s", engine="sim")
    assert preflight.model_problem(simulated, Registry({"s": simulated}, {})) is None
