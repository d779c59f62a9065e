"""The processes of a system under test, by the part they play."""

from __future__ import annotations

import contextlib
import http.client
from dataclasses import dataclass, field

import psutil

from tests.faults.launched import Launched
from workers.registry import ModelSpec


@dataclass(eq=False)
class Slot:
    """A place that a worker of `spec` has; each new worker in it is another replica."""

    spec: ModelSpec
    env: dict[str, str]
    listener: int | None
    process: Launched
    respawn: bool = True
    exits: list[tuple[float, int]] = field(default_factory=list)
    """When each worker of this slot ended, and with which code."""
    seen_dead: bool = False

    @property
    def replica_id(self) -> str:
        return self.process.name

    @property
    def alive(self) -> bool:
        return self.process.runs

    def engine_core(self) -> psutil.Process:
        """Return the process that vLLM computes in. Raises LookupError when there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "EngineCore" in process.name() + " ".join(process.cmdline()):
                        return process
        raise LookupError("the worker has no engine process")


@dataclass(eq=False)
class Gateway:
    """One gunicorn; it comes back at the same port when it is started again."""

    number: int
    port: int
    env: dict[str, str]
    listener: int | None
    process: Launched
    in_rotation: bool = True
    """Whether clients are sent here."""

    def serving(self) -> psutil.Process:
        """Return the gunicorn worker, which has the connections; its parent only watches it."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def descriptors(self) -> int:
        return int(self.serving().num_fds())

    def healthy(self) -> bool:
        return self.get("/health")[0] == 200

    def get(self, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Return status and body; status 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def metric(self, name: str) -> float | None:
        """Return a metric; the sum over its labels when `name` has none. None when nobody answers."""
        status, page = self.get("/metrics")
        if status != 200:
            return None
        lines = (line.rpartition(" ") for line in page.decode().splitlines())
        return sum(float(value) for full, _, value in lines if name in (full, full.partition("{")[0]))
