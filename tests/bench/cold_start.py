"""Measure cold starts of a whole `celerity up`, beside vLLM's own server on the same machine.

A load: from the request for a model that is not loaded to its first token, with the spare
ready; for vLLM's server from its start to the first token. A switch: two simulated models
of which one fits, each taking a second to load, asked in turn.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.stack import REPOSITORY, free_port
from tests.waiting import wait_until

_DEMO = REPOSITORY / "deploy" / "demo_model" / "model"
_LENGTH = 2048
_MODELS = f"""
models:
  demo: {{path: "builtin:demo", max_model_len: {_LENGTH}, memory_mib: 2000, engine_args: {{dtype: float32}}}}
"""
_SWITCHED = """
models:
  a: {engine: sim, sim: {load_s: 1.0, memory_mib: 1000}}
  b: {engine: sim, sim: {load_s: 1.0, memory_mib: 1000}}
"""
_BARE = ("--block-size", "128", "--enforce-eager", "--dtype", "float32", "--max-model-len", str(_LENGTH))
_WITHIN_S = 300.0
# A machine begins 30 loads a minute.
_SWITCHES = 25


def cold_start(rounds: int) -> dict[str, Any]:
    """Return what `rounds` loads took, and up to ten times as many switches."""
    with tempfile.TemporaryDirectory() as folder:
        bare = statistics.median(_bare(Path(folder) / f"bare-{number}") for number in range(rounds))
        loads, spare_mib = _loads(Path(folder), rounds)
        switches = _switches(Path(folder), min(10 * rounds, _SWITCHES))
    ours = statistics.median(loads)
    return {
        "cold load to the first token, s: bare vLLM": round(bare, 2),
        "cold load to the first token, s: spare ready": round(ours, 2),
        "cold load, slowest": round(max(loads), 2),
        "ratio": round(ours / bare, 3),
        "memory of the idle vLLM spare, MiB": spare_mib,
        "switch of models that load 1 s, s: p50": round(statistics.median(switches), 2),
        "switch, slowest": round(max(switches), 2),
    }


def _bare(log: Path) -> float:
    """vLLM's own server, from its start to its first token."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(_DEMO), *_BARE]
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
        )
    try:
        while True:
            assert process.poll() is None, log.read_text()[-4000:]
            with contextlib.suppress(OSError):
                _first_token(port, "demo")
                return time.perf_counter() - began
            time.sleep(0.02)
    finally:
        _end(process)


def _loads(folder: Path, rounds: int) -> tuple[list[float], int]:
    with _up(folder / "loads", _MODELS, CELERITY_MEMORY_MIB="3000") as (port, state_dir):
        spare = _spare(state_dir, "vllm")
        took = []
        for _ in range(rounds):
            _unload(port, "demo")
            took.append(_timed(partial(_first_token, port, "demo")))
        return took, spare.memory_full_info().pss >> 20


def _switches(folder: Path, count: int) -> list[float]:
    with _up(folder / "switches", _SWITCHED, CELERITY_MEMORY_MIB="1500") as (port, state_dir):
        _spare(state_dir, "sim")
        _first_token(port, "a")
        return [_timed(partial(_first_token, port, model)) for model in ("ba" * count)[:count]]


@contextlib.contextmanager
def _up(folder: Path, models: str, **env: str) -> Iterator[tuple[int, Path]]:
    """Run `celerity up`; yield its port and its state directory."""
    folder.mkdir()
    (folder / "models.yaml").write_text(models)
    state_dir, out = folder / "state", folder / "out"
    command = [sys.executable, "-m", "deploy", "up", "--port", "0", "--state-dir", str(state_dir)]
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--models", str(folder / "models.yaml")],
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd=REPOSITORY,
            env={**os.environ, **env},
        )
    try:
        wait_until(lambda: "ready http" in out.read_text() or process.poll() is not None, "ready", timeout_s=_WITHIN_S)
        assert process.poll() is None, out.read_text()
        address = next(line for line in out.read_text().splitlines() if line.startswith("ready http"))
        yield int(address.rpartition(":")[2].partition("/")[0]), state_dir
    finally:
        _end(process)


def _spare(state_dir: Path, engine: str) -> psutil.Process:
    """Wait until the spare is ready, and return it."""
    log = state_dir / "logs" / f"spare-{engine}.log"
    wait_until(lambda: log.exists() and "spare ready" in log.read_text(), "the spare", timeout_s=_WITHIN_S)
    return psutil.Process(int(log.read_text().split("spare ready: process ")[-1].split()[0]))


def _unload(port: int, model: str) -> None:
    _request(port, "POST", f"/admin/models/{model}/unload")

    def unloaded() -> bool:
        status = json.loads(_request(port, "GET", "/admin/status"))
        return any(it["id"] == model and not it["replicas"] for it in status["models"])

    wait_until(unloaded, f"{model} to be unloaded", timeout_s=_WITHIN_S)


def _request(port: int, method: str, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path)
        return connection.getresponse().read()


def _first_token(port: int, model: str) -> None:
    """Return when the first token of a streamed answer is there. Raises OSError when nobody listens."""
    body = {"model": model, "stream": True, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WITHIN_S)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                response.read()
                return
        raise AssertionError("an answer without a token")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
