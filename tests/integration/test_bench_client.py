"""`celerity bench` against a real gateway and engine worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stack import REPOSITORY, GatewayProcess, Stack, Worker

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(running: Stack, sim: Worker) -> GatewayProcess:
    return running.gateway()


def bench(gateway: GatewayProcess, target: Path, *args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "deploy", "bench", gateway.url, "--json", str(target), "--warmup", "0", *args]
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    found: dict[str, Any] = json.loads(target.read_text())
    assert found["errors"] == {}
    return found


def per_answer(found: dict[str, Any]) -> float:
    """Return how many tokens an answer had."""
    return float(found["tokens_per_s"] / found["requests_per_s"])


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_streams_are_measured(gateway: GatewayProcess, tmp_path: Path, endpoint: str) -> None:
    args = ("--endpoint", endpoint, "--requests", "32", "--concurrency", "8", "--tokens", "16", "--ignore-eos")
    found = bench(gateway, tmp_path / "found.json", *args)
    assert found["requests"] == 32
    assert per_answer(found) == pytest.approx(16, rel=0.01)
    assert found["ttft_ms"]["mean"] <= found["e2e_ms"]["mean"]


def test_frames_are_tokens_where_nobody_counts(gateway: GatewayProcess, tmp_path: Path) -> None:
    found = bench(gateway, tmp_path / "found.json", "--requests", "8", "--tokens", "16", "--no-usage")
    assert per_answer(found) == pytest.approx(16, rel=0.01)


def test_whole_answers_are_measured(gateway: GatewayProcess, tmp_path: Path) -> None:
    found = bench(gateway, tmp_path / "found.json", "--requests", "16", "--tokens", "4", "--no-stream")
    assert found["requests"] == 16
    assert found["ttft_ms"] is None
    assert per_answer(found) == pytest.approx(4, rel=0.01)


def test_chance_decides_when_to_ask(gateway: GatewayProcess, tmp_path: Path) -> None:
    found = bench(gateway, tmp_path / "found.json", "--requests", "30", "--rate", "100", "--tokens", "2")
    assert (found["requests"], found["rate"]) == (30, 100)
