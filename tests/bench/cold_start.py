"""Measure cold starts of a whole `celerity up`, beside vLLM's own server on the same machine.

From the request for a model that is not loaded to its first token, with the spare ready;
for vLLM's server from its start to the first token.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.site import WITHIN_S, end, first_token, site
from tests.stack import REPOSITORY, free_port

_DEMO = REPOSITORY / "deploy" / "demo_model" / "model"
_LENGTH = 2048
_MODELS = f"""
models:
  demo: {{path: "builtin:demo", max_model_len: {_LENGTH}, memory_mib: 2000, engine_args: {{dtype: float32}}}}
"""
_BARE = ("--block-size", "128", "--enforce-eager", "--dtype", "float32", "--max-model-len", str(_LENGTH))


def cold_start(rounds: int) -> dict[str, Any]:
    """Return what `rounds` loads took."""
    with tempfile.TemporaryDirectory() as folder:
        bare = statistics.median(_bare(Path(folder) / f"bare-{number}") for number in range(rounds))
    loads, spare_mib = _loads(rounds)
    ours = statistics.median(loads)
    return {
        "cold load to the first token, s: bare vLLM": round(bare, 2),
        "cold load to the first token, s: spare ready": round(ours, 2),
        "cold load, slowest": round(max(loads), 2),
        "ratio": round(ours / bare, 3),
        "memory of the idle vLLM spare, MiB": spare_mib,
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
            assert time.perf_counter() - began < WITHIN_S, log.read_text()[-4000:]
            with contextlib.suppress(OSError):
                first_token(port, "demo")
                return time.perf_counter() - began
            time.sleep(0.02)
    finally:
        end(process)


def _loads(rounds: int) -> tuple[list[float], int]:
    with site(_MODELS, memory_mib=3000) as running:
        spare = running.spare("vllm")
        took = []
        for _ in range(rounds):
            running.unload("demo")
            began = time.perf_counter()
            first_token(running.port, "demo")
            took.append(time.perf_counter() - began)
        return took, spare.memory_full_info().pss >> 20
