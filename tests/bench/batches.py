"""Measure batches on a whole `celerity up`: handing in many lines, seats in use, and what a line costs beside HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from tests.bench.load import cpu_s
from tests.bench.site import Site, site
from tests.waiting import wait_until

SEATS, TTFT_MS, ITL_MS, TOKENS = 32, 200, 10, 81
LINE_S = (TTFT_MS + ITL_MS * (TOKENS - 1)) / 1000
"""What one line takes a seat for."""
MODELS = f"""
models:
  instant: {{engine: sim, pinned: true, sim: {{seats: 64}}}}
  paced: {{engine: sim, pinned: true, sim: {{seats: {SEATS}, ttft_ms: {TTFT_MS}, itl_ms: {ITL_MS}}}}}
"""
_WITHIN_S = 600.0
_HALF = 50_000


def batches(lines: int) -> dict[str, Any]:
    """Return all three; `lines` are compared with as many requests by HTTP."""
    with site(MODELS, memory_mib=4000) as running:
        return {**_cost(running, lines), **_seats(running), **_submission(running)}


def _submission(running: Site) -> dict[str, Any]:
    """Two batches of 50,000 lines, most of which wait."""
    client = _client(running)
    path = running.state_dir / "many.jsonl"
    _write(path, "paced", _HALF, tokens=TOKENS)
    before, redis_before = _rss(running), running.redis_bytes()
    peak = _Peak(lambda: _rss(running))
    began = time.perf_counter()
    with peak:
        made = [_submit(client, path) for _ in range(2)]
        accepted_s = time.perf_counter() - began
        _await(client, made, lambda batch: batch.status not in ("validating",))
        validated_s = time.perf_counter() - began
    assert all(_counts(client, id_).total == _HALF for id_ in made)
    growth = {name: mib - before.get(name, 0.0) for name, mib in peak.most.items() if name in before}
    fattest = max(growth, key=lambda name: growth[name])
    for id_ in made:
        client.batches.cancel(id_)
    return {
        "submit 100,000 lines, s: accepted": round(accepted_s, 1),
        "submit 100,000 lines, s: validated": round(validated_s, 1),
        "submit 100,000 lines: file, MiB each": path.stat().st_size >> 20,
        "submit 100,000 lines: RSS growth of the process that grows most, MiB": f"{growth[fattest]:.0f} ({fattest})",
        "submit 100,000 lines: Redis growth, MiB": round((running.redis_bytes() - redis_before) / 2**20, 1),
    }


def _seats(running: Site) -> dict[str, Any]:
    """How much of the engine's time a batch used, from its first line's start to the end of the last full round."""
    client = _client(running)
    lines = SEATS * 30
    path = running.state_dir / "paced.jsonl"
    _write(path, "paced", lines, tokens=TOKENS)
    made = _submit(client, path)
    _await(client, [made], lambda batch: batch.request_counts.completed >= SEATS)
    began, done = time.perf_counter(), _counts(client, made).completed
    _await(client, [made], lambda batch: batch.request_counts.completed >= lines - 3 * SEATS)
    took = time.perf_counter() - began
    used = (_counts(client, made).completed - done) * LINE_S / (SEATS * took)
    return {f"seats in use while a batch has work, % ({SEATS} seats, {LINE_S:g} s a line)": round(100 * used, 1)}


def _cost(running: Site, lines: int) -> dict[str, Any]:
    """CPU of all processes for one-token answers, by HTTP and as a batch, in turn."""
    client = _client(running)
    path = running.state_dir / "instant.jsonl"
    _write(path, "instant", lines, tokens=1)
    by_http, by_batch, per_s = [], [], []
    _ask(running, 200)
    for _ in range(3):
        by_http.append(_spent(running, lambda: _ask(running, lines)) / lines)

        def batch() -> None:
            _await(client, [_submit(client, path)], lambda batch: batch.status == "completed")

        began = time.perf_counter()
        by_batch.append(_spent(running, batch) / lines)
        per_s.append(lines / (time.perf_counter() - began))
    http_ms, batch_ms = 1000 * sorted(by_http)[1], 1000 * sorted(by_batch)[1]
    return {
        "CPU ms a request by HTTP": round(http_ms, 2),
        "CPU ms a line of a batch": round(batch_ms, 2),
        "a line beside a request": round(batch_ms / http_ms, 2),
        "lines/s of a batch": round(sorted(per_s)[1]),
    }


def _ask(running: Site, count: int, clients: int = 32) -> None:
    body = json.dumps({"model": "instant", "max_tokens": 1, "messages": [{"role": "user", "content": "hello 1"}]})

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        for _ in range(count // clients):
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _spent(running: Site, work: Callable[[], None]) -> float:
    processes = running.processes()
    before = sum(map(cpu_s, processes))
    work()
    return sum(map(cpu_s, processes)) - before


def _write(path: Path, model: str, lines: int, tokens: int = 1) -> None:
    with path.open("w") as file:
        for number in range(lines):
            body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": f"hello {number}"}]}
            line = {"custom_id": f"l-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def _client(running: Site) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="none")


def _counts(client: openai.OpenAI, id_: str) -> Any:
    return client.batches.retrieve(id_).request_counts


def _submit(client: openai.OpenAI, path: Path) -> str:
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    return batch.id


def _await(client: openai.OpenAI, ids: list[str], reached: Callable[[Any], bool]) -> None:
    wait_until(lambda: all(reached(client.batches.retrieve(id_)) for id_ in ids), "the batches", timeout_s=_WITHIN_S)


def _rss(running: Site) -> dict[str, float]:
    return {f"{it.pid} {' '.join(it.cmdline())[:60]}": it.memory_info().rss / 2**20 for it in running.processes()}


class _Peak:
    """The most of each that was seen while it was entered."""

    def __init__(self, look: Callable[[], dict[str, float]]) -> None:
        self._look = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most: dict[str, float] = {}

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            for name, value in self._look().items():
                self.most[name] = max(self.most.get(name, 0.0), value)
