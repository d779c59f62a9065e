from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.settings import Settings, SettingsError


def test_without_a_redis_url_the_embedded_one_of_the_state_folder_is_meant(tmp_path: Path) -> None:
    settings = Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path)})
    assert settings.redis_url == f"unix://{tmp_path}/redis/redis.sock"
    assert settings.broker_url == f"redis+socket://{tmp_path}/redis/redis.sock"


def test_a_url_over_tcp_is_the_same_for_kombu(tmp_path: Path) -> None:
    settings = Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_REDIS_URL": "redis://h:1/0"})
    assert settings.broker_url == "redis://h:1/0"


def test_values_have_the_type_of_their_field(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "CELERITY_STATE_DIR": str(tmp_path),
            "CELERITY_PORT": "8010",
            "CELERITY_PING_INTERVAL_S": "2.5",
            "CELERITY_MODELS": "m.yaml",
        }
    )
    assert (settings.port, settings.ping_interval_s, settings.models) == (8010, 2.5, Path("m.yaml"))


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_PORT": ""}).port == 8000


def test_a_wrong_value_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CELERITY_PORT is 'http'; a number is expected"):
        Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_PORT": "http"})


def test_what_cold_models_do_is_one_of_two_things(tmp_path: Path) -> None:
    env = {"CELERITY_STATE_DIR": str(tmp_path)}
    assert Settings.from_env(env).cold_start == "wait"
    assert Settings.from_env(env | {"CELERITY_COLD_START": "defer"}).cold_start == "defer"
    with pytest.raises(SettingsError, match="CELERITY_COLD_START is 'hold'; it can be wait or defer"):
        Settings.from_env(env | {"CELERITY_COLD_START": "hold"})


def test_a_spare_is_on_or_off(tmp_path: Path) -> None:
    env = {"CELERITY_STATE_DIR": str(tmp_path)}
    assert Settings.from_env(env).spare == "on"
    with pytest.raises(SettingsError, match="CELERITY_SPARE is 'yes'; it can be on or off"):
        Settings.from_env(env | {"CELERITY_SPARE": "yes"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LAUNCHER", "podman", "it can be process or docker"),
        ("NODE_ID", "rack 1,gpu", "letters, digits, dots"),
        ("NODE_ID", "../x", "letters, digits, dots"),
        ("PORT", "65536", "a port"),
        ("GATEWAY_WORKERS", "0", "above 0"),
        ("TOTAL_TIMEOUT_S", "-1.0", "above 0"),
        ("TOTAL_TIMEOUT_S", "nan", "above 0"),
        ("AGE_LIMIT_S", "inf", "above 0"),
        ("BULK_SHARE", "1.0", "from 0 to below 1"),
        ("BULK_SLOWDOWN", "1.0", "above 1"),
        ("BULK_HEADROOM", "nan", "from 0 to below 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, name: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"CELERITY_{name} is {re.escape(repr(value))}; .*{expected}"):
        Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), f"CELERITY_{name}": value})


def test_a_misspelt_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CELERITY_PROT"):
        Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_PROT": "1"})


def test_settings_pass_whole_to_another_process(tmp_path: Path) -> None:
    settings = Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_PORT": "8010"})
    assert Settings.from_env(settings.to_env()) == settings


@pytest.mark.parametrize(
    ("host", "only"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_loopback_is_recognised(tmp_path: Path, host: str, only: bool) -> None:
    settings = Settings.from_env({"CELERITY_STATE_DIR": str(tmp_path), "CELERITY_HOST": host})
    assert settings.loopback_only is only
