"""What a row's machine has besides its processors: GPUs by a stand-in for their driver, or a Docker engine."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docker_engine import IMAGE, Engine, engine
from tests.faults.unix_proxy import UnixProxy
from tests.workers.nvml_double import build

if TYPE_CHECKING:
    from tests.faults.system import Setup


class Hardware:
    """Nothing at all, for most rows."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self._folder, self._setup = folder, setup
        self._stack = contextlib.ExitStack()
        self._engine: Engine | None = None
        self.docker_proxy: UnixProxy | None = None

    @property
    def facts(self) -> Path:
        """The file of what the driver says."""
        return self._folder / "nvml"

    def start(self) -> None:
        if self._setup.gpus:
            build(self._folder)
            self.facts.write_text(self._setup.gpus)
        if self._setup.docker:
            self._engine = self._stack.enter_context(engine())
            # Beside the engine's: a socket's path must be short.
            path = Path(self._engine.socket.removeprefix("unix://"))
            self.docker_proxy = self._stack.enter_context(UnixProxy(path.with_name("proxy"), path))

    def close(self) -> None:
        self._stack.close()

    def settings(self) -> dict[str, str]:
        """Return the settings of ours that follow from it."""
        if self._engine is None:
            return {}
        return {
            "CELERITY_LAUNCHER": "docker",
            "CELERITY_DOCKER_IMAGE": IMAGE,
            "CELERITY_DOCKER_MOUNTS": ":".join(self._engine.mounts),
        }

    def environ(self) -> dict[str, str]:
        """Return what else the agent's environment has."""
        found: dict[str, str] = {}
        if self._setup.gpus:
            found |= {"LD_LIBRARY_PATH": str(self._folder), "NVML_DOUBLE": str(self.facts)}
        if self.docker_proxy is not None:
            found["DOCKER_HOST"] = f"unix://{self.docker_proxy.path}"
        return found
