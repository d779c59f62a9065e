"""The whole system with the demo model on a real vLLM engine, started once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from tasks import keys
from tests.stack import REPOSITORY, GatewayProcess, Stack, Worker, stack

MODELS = (REPOSITORY / "models.yaml").read_text()


@dataclass(frozen=True)
class System:
    """One gateway, one engine worker with the demo model, one Redis."""

    stack: Stack
    worker: Worker
    gateway: GatewayProcess

    @property
    def url(self) -> str:
        return f"{self.gateway.url}/v1"

    def running(self) -> int:
        """Return how many requests are in Celery's hands: taken from the queue, not yet acknowledged."""
        client = self.stack.client()
        try:
            return int(client.hlen(keys.unacked(self.worker.replica_id)))
        finally:
            client.close()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("system")
    with stack(folder, MODELS) as running:
        yield System(running, running.worker("demo"), running.gateway())


@pytest.fixture
def client(system: System) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=system.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client
