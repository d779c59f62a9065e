"""One machine of a site with one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.tasks.loader_site import LoaderSite, Machine

MODELS = """
models:
  m: {engine: sim, replicas: {max: 3}, sim: {memory_mib: 1000, sleep_mib: 0}}
"""


@pytest.fixture
def site(client: redis.Redis, tmp_path: Path) -> LoaderSite:
    return LoaderSite(client, tmp_path, MODELS)


@pytest.fixture
def machine(site: LoaderSite) -> Machine:
    return site.machine()
