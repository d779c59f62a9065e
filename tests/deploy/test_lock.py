from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy import lock
from deploy.lock import LOCKS, digest, recorded_digest, resolver_options

SETUP_CFG = """\
[options]
python_requires = >=3.11
install_requires =
    flask >=3  # a reason
[options.extras_require]
cpu = torch
gpu = vllm
flower = flower
dev = pytest
[mypy]
strict = True
"""
CPU, BASE = LOCKS[0], LOCKS[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the locks are made from and the locks, in a folder of their own."""
    shutil.copy(lock.ROOT / "setup.cfg", tmp_path)
    shutil.copytree(lock.ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


def test_a_lock_is_stale_once_its_own_requirements_change() -> None:
    before = digest(CPU, SETUP_CFG, ["setuptools"])
    assert digest(CPU, SETUP_CFG.replace("torch", "torch ==2"), ["setuptools"]) != before
    assert digest(CPU, SETUP_CFG, ["setuptools >=77"]) != before


def test_a_comment_or_a_tool_setting_or_another_extra_makes_no_lock_stale() -> None:
    before = digest(CPU, SETUP_CFG, ["setuptools"])
    assert digest(CPU, SETUP_CFG.replace("a reason", "another"), ["# why\nsetuptools"]) == before
    assert digest(CPU, SETUP_CFG.replace("True", "False").replace("pytest", "nose"), ["setuptools"]) == before


def test_the_digest_is_found_among_the_comments() -> None:
    assert recorded_digest("# made by\n# inputs: sha256:00ff\nflask==3\n") == "00ff"
    assert recorded_digest("flask==3\n") is None


def test_the_check_names_the_locks_to_make_again(clone: Path) -> None:
    assert lock.stale(clone) == []
    setup_cfg = (clone / "setup.cfg").read_text()
    (clone / "setup.cfg").write_text(setup_cfg.replace("    flower >=", "    flower >=0."))
    (clone / "requirements" / "dev.lock").unlink()
    assert lock.stale(clone) == ["cpu.lock", "base.lock", "gpu.lock", "dev.lock"]


def test_cpu_torch_is_looked_for_where_pip_would_find_it() -> None:
    options = resolver_options(CPU, index_url="https://index.example/simple", find_links="wheels more")
    text = " ".join(options)
    assert "--find-links wheels --find-links more" in text
    assert "--default-index https://index.example/simple" in text
    assert "--torch-backend" not in text


def test_without_wheels_at_hand_cpu_torch_comes_from_pytorch() -> None:
    assert "--torch-backend" in resolver_options(CPU, index_url="", find_links="")
    assert "--torch-backend" not in resolver_options(BASE, index_url="", find_links="")


def test_no_lock_says_where_it_was_made() -> None:
    assert "--no-emit-index-url" in resolver_options(CPU, index_url="", find_links="")
    assert "--generate-hashes" in resolver_options(CPU, index_url="", find_links="")


def test_the_locks_of_this_clone_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert lock.main(["--check"]) == 0
    assert capsys.readouterr().out == ""
