from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import setup_env
from deploy.setup_env import Plan, State, plan

WANTED = State(python="3.11.7", prefix="/v", engine="cpu", digests={"cpu.lock": "a", "setup.cfg": "b"})


def test_a_missing_environment_is_built_whole() -> None:
    assert plan(None, WANTED) == Plan(rebuild=True, locks=("cpu.lock",), project=True)


@pytest.mark.parametrize("other", [{"python": "3.12.1"}, {"prefix": "/moved"}, {"engine": "gpu"}])
def test_an_environment_for_another_python_place_or_engine_is_built_again(other: dict[str, Any]) -> None:
    assert plan(dataclasses.replace(WANTED, **other), WANTED).rebuild


def test_an_environment_that_has_everything_is_left_alone() -> None:
    assert not plan(WANTED, WANTED)


def test_a_new_lock_is_installed_over_the_old_one() -> None:
    old = dataclasses.replace(WANTED, digests={**WANTED.digests, "cpu.lock": "older"})
    assert plan(old, WANTED) == Plan(locks=("cpu.lock",), project=True)


def test_a_new_console_script_costs_no_package() -> None:
    old = dataclasses.replace(WANTED, digests={**WANTED.digests, "setup.cfg": "older"})
    assert plan(old, WANTED) == Plan(project=True)


def test_dev_tools_that_nobody_asked_for_now_may_stay() -> None:
    assert not plan(dataclasses.replace(WANTED, digests={**WANTED.digests, "dev.lock": "c"}), WANTED)


def test_only_what_an_installation_copies_counts_as_the_project() -> None:
    setup_cfg = (
        "[metadata]\nname = x\n[options]\npackages = find:\n[mypy]\nstrict = {}\n[options.entry_points]\na = {}\n"
    )
    digest = setup_env.metadata_digest(setup_cfg.format("True", "b"))
    assert digest == setup_env.metadata_digest(setup_cfg.format("False", "b"))
    assert digest != setup_env.metadata_digest(setup_cfg.format("True", "c"))


def test_the_locks_follow_the_engine(tmp_path: Path) -> None:
    for engine, names in {"none": ["base.lock"], "cpu": ["cpu.lock"], "gpu": ["gpu.lock"]}.items():
        wanted = setup_env.wanted_state(tmp_path, engine=engine, dev=False)
        assert list(wanted.digests) == [*names, "setup.cfg"]
    assert "dev.lock" in setup_env.wanted_state(tmp_path, engine="cpu", dev=True).digests


def test_a_stamp_is_read_back(tmp_path: Path) -> None:
    (tmp_path / setup_env.STAMP).write_text(json.dumps(dataclasses.asdict(WANTED)))
    assert setup_env.read_stamp(tmp_path) == WANTED


@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"python": "3.11.7"}', '{"unknown": 1}'])
def test_a_stamp_that_makes_no_sense_is_no_stamp(tmp_path: Path, stamp: str) -> None:
    (tmp_path / setup_env.STAMP).write_text(stamp)
    assert setup_env.read_stamp(tmp_path) is None


def test_an_environment_made_by_hand_is_filled_and_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / "pyvenv.cfg").write_text("home = somewhere\nversion = 3.11.7\n")
    found = setup_env.adopted(tmp_path, WANTED)
    assert plan(found, WANTED) == Plan(locks=("cpu.lock",), project=True)


@pytest.mark.parametrize("version", ["3.10.13", "3.11.70"])
def test_an_environment_made_by_hand_with_another_python_is_not_kept(tmp_path: Path, version: str) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / "pyvenv.cfg").write_text(f"home = somewhere\nversion = {version}\n")
    assert setup_env.adopted(tmp_path, WANTED) is None


def test_a_folder_that_is_no_environment_is_not_kept(tmp_path: Path) -> None:
    assert setup_env.adopted(tmp_path, WANTED) is None


def test_a_disk_that_is_too_small_is_named_with_what_is_needed() -> None:
    problem = setup_env.space_problem("cpu", 1200, Path("/data"))
    assert problem is not None
    assert "/data has 1200 MiB free and about 4000 MiB are needed" in problem
    assert "VENV=" in problem


def test_a_disk_that_is_large_enough_is_not_spoken_of() -> None:
    assert setup_env.space_problem("cpu", 4000, Path("/data")) is None


def test_a_machine_the_locks_are_not_for_is_told_so() -> None:
    assert setup_env.platform_problem("Linux", "x86_64") is None
    assert "Darwin on arm64" in str(setup_env.platform_problem("Darwin", "arm64"))


def test_a_refused_machine_ends_with_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(setup_env.NEEDED_MIB, "cpu", 10**9)
    assert setup_env.main(["--venv", str(tmp_path / "v"), "--engine", "cpu"]) == 1
    assert "set-up failed: " in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


def test_an_environment_is_filled_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv = fake_venv(tmp_path / "venv")
    command = ["--venv", str(venv), "--engine", "none", "--dev"]
    assert setup_env.main(command) == 0
    assert "set up in" in capsys.readouterr().out
    calls = (venv / "calls").read_text()
    assert calls.count("install --no-deps --require-hashes") == 2
    assert setup_env.main(command) == 0
    assert "up to date (engine: none)" in capsys.readouterr().out
    assert (venv / "calls").read_text() == calls


def test_an_interrupted_set_up_does_not_look_finished(tmp_path: Path) -> None:
    venv = fake_venv(tmp_path / "venv", fails=True)
    (venv / setup_env.STAMP).write_text("{}")
    assert setup_env.main(["--venv", str(venv), "--engine", "none"]) == 1
    assert not (venv / setup_env.STAMP).exists()


def test_two_set_ups_of_one_clone_take_turns(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from deploy.setup_env import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print('in', flush=True)"
    )
    with setup_env.alone(tmp_path):
        second = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert "waiting for another set-up" in second.stdout.readline()
    with second:
        assert second.stdout.readline() == "in\n"


def fake_venv(folder: Path, *, fails: bool = False) -> Path:
    """Make an environment whose python writes down how it was called and does nothing."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"version = {platform.python_version()}\n")
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/calls"\nexit {int(fails)}\n')
    python.chmod(0o755)
    return folder


def test_counting_gpus_needs_no_driver() -> None:
    assert setup_env.nvidia_gpus() >= 0
