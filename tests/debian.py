"""Programs that tests need and the machine may lack: in CI they are installed, elsewhere the tests are skipped."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

_T = TypeVar("_T")
_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")
_LOCK = Path(tempfile.gettempdir()) / "celerity-tests-apt.lock"


def required(what: str, package: str, look: Callable[[], _T | None]) -> _T:
    """Return what `look` finds, after Debian's `package` was installed if it had to be and may be."""
    if (found := look()) is None and _may_install():
        # Test runs beside this one may need another package at the same time.
        with _LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if look() is None:
                _install(package)
        found = look()
    if found is None:
        command = " ".join((*_INSTALL, package))
        assert "CI" not in os.environ, f"no {what}: {command}"
        pytest.skip(f"no {what} here: {command}")
    return found


def _may_install() -> bool:
    return "CI" in os.environ and sys.platform == "linux" and os.getuid() == 0 and shutil.which("apt-get") is not None


def _install(package: str) -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("apt-get", "update"), (*_INSTALL, package)):
        subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
