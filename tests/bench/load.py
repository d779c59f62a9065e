"""A closed load of streamed answers, and what processes have spent on it."""

from __future__ import annotations

import http.client
import json
import threading
import time

import psutil

from tests.stack import GatewayProcess, Stack


def load(gateway: GatewayProcess, concurrency: int, seconds: float, *, model: str, tokens: int) -> list[float]:
    """Keep `concurrency` requests open for `seconds`; return the time to first byte of the answer of each."""
    until = time.perf_counter() + seconds
    times: list[float] = []

    def client() -> None:
        connection = gateway.connect()
        while time.perf_counter() < until:
            times.append(one(connection, model, tokens))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def one(connection: http.client.HTTPConnection, model: str, tokens: int) -> float:
    body = {"model": model, "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "hello"}]}
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read(1)
    took = time.perf_counter() - began
    response.read()
    return took


def family(running: Stack) -> list[psutil.Process]:
    assert running.server.process is not None
    roots = [running.server.process.pid]
    roots += [worker.process.pid for worker in running.workers] + [one.process.pid for one in running.gateways]
    return [
        process for pid in roots for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
