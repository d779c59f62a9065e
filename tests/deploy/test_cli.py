"""The command line: what is asked of it, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from deploy import status_view
from deploy.cli import main
from tasks.version import VERSION
from webapp import api_keys

KEYS = "CELERITY_API_KEYS_FILE"
COMMANDS = ("up", "status", "load", "unload", "loader", "chat", "deadletter", "keys", "doctor")


def run(*args: str, given: str = "", **env: str) -> Result:
    """Run in a clean environment, whatever that of the tests is."""
    clean = {f"CELERITY_{name}": None for name in ("URL", "API_KEY", "API_KEYS_FILE", "STATE_DIR", "REDIS_URL", "PORT")}
    return CliRunner().invoke(main, args, input=given, env={**clean, **env})


def test_help_names_every_command() -> None:
    text = run("--help").output
    assert all(
        command in text
        for command in ("up", "status", "load", "unload", "loader", "chat", "deadletter", "keys", "doctor")
    )


@pytest.mark.parametrize(
    "command", ["up", "status", "load", "unload", "loader", "chat", "deadletter", "keys", "doctor"]
)
def test_every_command_has_help(command: str) -> None:
    result = run(command, "-h")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_version_is_told() -> None:
    assert run("--version").output == f"celerity, version {VERSION}\n"


def test_help_needs_none_of_the_heavy_libraries() -> None:
    heavy = "{'flask', 'celery', 'redis', 'rich', 'yaml', 'vllm', 'psutil'}"
    code = f"import sys, deploy.cli; print({heavy} & set(sys.modules) or 'none')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "none\n"


def test_a_bad_setting_is_one_line(tmp_path: Path) -> None:
    result = run("status", CELERITY_PORT="soon")
    assert result.exit_code == 1
    assert result.stderr == "Error: CELERITY_PORT is 'soon'; a number is expected\n"


def test_status_of_nothing_says_so(tmp_path: Path) -> None:
    result = run("status", "--state-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "nothing runs here" in result.stderr
    assert "celerity up" in result.stderr


def test_status_of_a_redis_that_is_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {s: {engine: sim}}")
    result = run("status", "--redis-url", f"unix://{tmp_path}/x.sock", "--models", str(tmp_path / "models.yaml"))
    assert result.exit_code == 1
    assert "Redis does not answer" in result.stderr


def test_chat_with_nobody_is_one_line(tmp_path: Path) -> None:
    result = run("chat", "--url", "http://127.0.0.1:1", given="hi\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: http://127.0.0.1:1 does not answer")


def test_a_key_is_shown_once_and_works(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run("keys", "add", "alice", **{KEYS: str(file)})
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert api_keys.KeyRing(file).name_of(key) == "alice"
    assert key not in file.read_text()
    assert "start it with" not in made.stderr
    assert run("keys", "list", **{KEYS: str(file)}).stdout.startswith("alice  user      any          made 2")
    assert run("keys", "remove", "alice", **{KEYS: str(file)}).exit_code == 0
    assert run("keys", "list", **{KEYS: str(file)}).stdout == ""


def test_a_key_can_be_an_operators(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run("keys", "add", "root", "--role", "operator", **{KEYS: str(file)})
    entry = api_keys.KeyRing(file).entry_of(made.stdout.strip())
    assert entry is not None
    assert (entry.name, entry.role) == ("root", api_keys.Role.OPERATOR)
    assert "an operator" in made.stderr
    assert run("keys", "list", **{KEYS: str(file)}).stdout.startswith("root  operator  any          made 2")


def test_a_key_can_be_for_bulk_work_only(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run("keys", "add", "night", "--priority", "bulk", **{KEYS: str(file)})
    entry = api_keys.KeyRing(file).entry_of(made.stdout.strip())
    assert entry is not None
    assert entry.priorities is api_keys.Priorities.BULK
    assert run("keys", "list", **{KEYS: str(file)}).stdout.startswith("night  user      bulk         made 2")


def test_a_file_that_no_gateway_reads_is_pointed_out(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run("keys", "add", "bob", "--file", str(file))
    assert f"CELERITY_API_KEYS_FILE={file}" in made.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["add", "a b"], "cannot name a key"),
        (["remove", "nobody"], "does not exist"),
        (["list"], "does not exist"),
    ],
)
def test_what_cannot_be_done_with_keys_is_said(tmp_path: Path, args: list[str], expected: str) -> None:
    result = run("keys", *args, "--file", str(tmp_path / "keys"))
    assert result.exit_code == 1
    assert expected in result.stderr


def test_without_a_file_of_keys_it_says_which_setting_names_one() -> None:
    result = run("keys", "list")
    assert result.exit_code == 1
    assert "CELERITY_API_KEYS_FILE" in result.stderr


REPLICA: dict[str, Any] = {
    "id": "m-1",
    "node": "n",
    "device": "cpu",
    "state": "draining",
    "told": "draining",
    "rotation": "in",
    "pid": 1,
    "in_flight": 2,
    "memory_mib": 1234,
    "last_used_at": None,
}
MODEL: dict[str, Any] = {
    "id": "m",
    "state": "ready",
    "reason": None,
    "progress_percent": None,
    "wish": None,
    "pinned": True,
    "aliases": ["light"],
    "queue": {"interactive": 3, "bulk": 40, "oldest_s": 12.3},
    "replicas": [REPLICA, REPLICA | {"id": "m-2", "state": "ready", "told": None}],
}
DEVICE: dict[str, Any] = {
    "id": "cpu",
    "kind": "cpu",
    "total_mib": 2000,
    "free_mib": 900,
    "reserved_mib": 800,
    "name": "",
    "unknown": None,
    "foreign": [],
}
NODE: dict[str, Any] = {
    "id": "n",
    "state": "healthy",
    "heartbeat_age_s": 0.4,
    "problem": None,
    "reliability": {"score": 0.9, "trusted": True},
    "devices": [DEVICE],
}
LOADER: dict[str, Any] = {"automatic": True, "last_run_age_s": 1.0}


def rows(**found: Any) -> list[list[str]]:
    """Return the words of each line that is shown."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(status_view.tables({"models": [], "nodes": [], "rollouts": [], "loader": LOADER} | found))
    return [line.split() for line in captured.get().splitlines()]


def test_the_tables_show_everything_a_person_asks_for() -> None:
    failed = MODEL | {"id": "x", "state": "failed", "reason": "its worker died", "replicas": [], "pinned": False}
    unknown = {"id": "cuda:0", "name": "A40", "free_mib": None, "unknown": "it is lost"}
    nodes = [NODE | {"devices": [DEVICE, DEVICE | unknown]}, NODE | {"id": "o", "state": "dead", "devices": []}]
    shown = rows(models=[MODEL, failed], nodes=nodes)
    expected = ["m", "(pinned)", "ready", "light", "3", "+40", "bulk,", "12", "s"]
    assert [*expected, "m-1", "draining", "n/cpu", "2", "1,234", "MiB"] in shown
    assert ["m-2", "n/cpu", "2", "1,234", "MiB"] in shown
    assert ["x:", "its", "worker", "died"] in shown
    assert ["n", "healthy", "0", "s", "ago", "cpu", "2,000", "MiB", "900", "MiB", "800", "MiB"] in shown
    assert ["cuda:0", "(A40)", "2,000", "MiB", "unknown", "800", "MiB"] in shown
    assert ["n/cuda:0:", "not", "used:", "it", "is", "lost"] in shown
    assert ["o", "dead", "0", "s", "ago"] in shown


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"state": "loading", "progress_percent": 40, "reason": "it loads"}, "loading 40 % light"),
        ({"state": "loading", "progress_percent": 40, "reason": "it loads"}, "it loads"),
        ({"state": "unloaded", "wish": "load", "reason": "no room"}, "m: an operator ordered: load"),
        ({"state": "unloaded", "wish": "load", "reason": "no room"}, "no room"),
        ({"replicas": [REPLICA | {"state": "ready"}]}, "m-1, told draining"),
    ],
)
def test_what_is_under_way_is_shown(model: dict[str, Any], expected: str) -> None:
    assert any(expected in " ".join(row) for row in rows(models=[MODEL | model]))


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        ({}, []),
        ({"automatic": False}, ["the loader is off"]),
        ({"last_run_age_s": 40.2}, ["has not run for 40 s"]),
        ({"last_run_age_s": None, "automatic": False}, ["the loader is off", "has not run for the last hour"]),
    ],
)
def test_a_loader_that_does_not_do_what_it_should_is_pointed_out(loader: dict[str, Any], expected: list[str]) -> None:
    said = [" ".join(row) for row in rows(loader=LOADER | loader) if "loader" in row]
    assert len(said) == len(expected)
    assert all(part in line for part, line in zip(expected, said, strict=True))


def test_a_rollout_shows_who_serves() -> None:
    rollouts = [
        {"alias": "gpt", "desired": "new", "previous": "old", "serves": "old"},
        {"alias": "fast", "desired": "new", "previous": None, "serves": None},
    ]
    shown = rows(rollouts=rollouts)
    assert ["gpt", "new", "old", "old"] in shown
    assert ["fast", "new", "nobody"] in shown


def test_what_is_wrong_with_a_node_is_shown() -> None:
    shared = DEVICE | {"foreign": [{"pid": 1, "mib": 5}, {"pid": 2, "mib": None}]}
    ill = NODE | {"problem": "Docker does not answer", "reliability": {"score": 0.25, "trusted": False}}
    text = "\n".join(" ".join(row) for row in rows(nodes=[ill | {"devices": [shared, DEVICE | {"foreign": None}]}]))
    assert "healthy, unreliable (0.25)" in text
    assert "Docker does not answer" in text
    assert "also used by 2 processes that are not ours, with 5 MiB" in text
    assert "the driver does not say who uses it" in text
