"""The peers' own environments: made once, in a cache folder, of pinned versions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CACHE = Path.home() / ".cache" / "celerity-bench"
_STAMP = "celerity-bench-complete"
_INSTALL_WITHIN_S = 1200


class NotInstalledError(Exception):
    """A peer could not be installed. The text has the last lines of pip."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment; its folder has the version in its name, so that a new pin makes a new one."""

    name: str
    package: str
    version: str
    extra: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.package}{self.extra}=={self.version}"

    def folder(self, cache: Path) -> Path:
        return cache / f"{self.name}-{self.version}"

    def program(self, cache: Path, name: str = "python") -> str:
        """Return the path of a program of it, after making sure that it is there. Raises NotInstalledError."""
        folder = self.folder(cache)
        if not (folder / _STAMP).exists():
            sys.stdout.write(f"installing {self.requirement} into {folder}\n")
            sys.stdout.flush()
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", self.requirement])
            (folder / _STAMP).touch()
        return str(folder / "bin" / name)


# 1.109.1, the newest, asks for a release of certifi and of its own extras that the index did not have yet.
LITELLM = Environment("litellm", "litellm", "1.106.2", "[proxy]")
SGLANG_ROUTER = Environment("sglang-router", "sglang-router", "0.3.2")
VLLM_ROUTER = Environment("vllm-router", "vllm-router", "0.1.17")
RAY = Environment("ray", "ray", "2.60.0", "[serve]")
PLOTS = Environment("plots", "matplotlib", "3.11.2")
PEERS = (LITELLM, SGLANG_ROUTER, VLLM_ROUTER, RAY)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_WITHIN_S, check=False)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise NotInstalledError("\n".join(told[-5:]))
