"""Bulk work for tests: batches handed in, feeders in this process or bulk workers of their own, results read."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks import keys
from tasks.bulk.feeder import Feeder
from tasks.bulk.ledger_desk import BATCH_PURPOSE, LedgerDesk
from tasks.bulk.records import BatchRecord, BatchStatus, Outcome
from tasks.messages import Endpoint
from tests.stack import REPOSITORY, Stack
from tests.waiting import wait_until

RESULTS_S = 3600.0


def chat_line(number: int, model: str = "sim", **body: Any) -> dict[str, Any]:
    asked = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": f"hello {number}"}]}
    return {"custom_id": f"c-{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked | body}


class NoResults:
    """For feeders that are given no calls. Keeps what it is told."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, Outcome]] = []

    def store(self, task_id: str, outcome: Outcome, took_s: float | None) -> None:
        self.stored.append((task_id, outcome))


@dataclass
class BulkWorker:
    process: subprocess.Popen[bytes]
    log: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


@dataclass
class Bulk:
    """What is handed in stands in the ledger of the stack's state folder."""

    stack: Stack
    desk: LedgerDesk
    feeders: list[Feeder] = field(default_factory=list)
    workers: list[BulkWorker] = field(default_factory=list)

    def feeder(self, clock: Callable[[], float] = time.time, results: NoResults | None = None) -> Feeder:
        feeder = Feeder(self.stack.settings, results or NoResults(), calls_s=RESULTS_S, clock=clock)
        feeder.start()
        self.feeders.append(feeder)
        return feeder

    def worker(self, name: str = "bulk") -> BulkWorker:
        """Start a bulk worker as `celerity up` does, and do not wait."""
        command = [sys.executable, "-m", "celery", "-q", "-A", "tasks.bulk_step", "worker", "-P", "solo", "-Q", "batch"]
        command += ["-n", f"{name}@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        log = self.stack.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY, env={**os.environ, **self.stack.env}
            )
        worker = BulkWorker(process, str(log))
        self.workers.append(worker)
        return worker

    def submit(self, lines: Iterable[dict[str, Any] | bytes], **batch: Any) -> str:
        """Hand in a batch of chats and return its id."""
        upload = self.desk.new_upload()
        with upload.open("wb") as file:
            for line in lines:
                file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        kept = self.desk.keep(upload, owner="", name="input.jsonl", purpose=BATCH_PURPOSE)
        asked = {"endpoint": Endpoint.CHAT, **batch}
        return self.desk.create(owner="", input_file_id=kept.id, **asked).id

    def batch(self, batch_id: str) -> BatchRecord:
        return self.desk.batch(batch_id, "")

    def ended(self, batch_id: str, status: BatchStatus = BatchStatus.COMPLETED, within_s: float = 60.0) -> BatchRecord:
        wait_until(lambda: self.batch(batch_id).status is status, f"the batch to be {status}", timeout_s=within_s)
        return self.batch(batch_id)

    def begun(self, batch_id: str, lines: int = 1) -> None:
        wait_until(lambda: self.batch(batch_id).counts.completed >= lines, f"{lines} lines to be done", timeout_s=60)

    def output(self, batch: BatchRecord) -> list[dict[str, Any]]:
        return self._lines(batch.output_file_id)

    def errors(self, batch: BatchRecord) -> list[dict[str, Any]]:
        return self._lines(batch.error_file_id)

    def left_in_redis(self) -> int:
        """Return how many requests Redis knows."""
        with contextlib.closing(self.stack.client()) as client:
            return sum(1 for _ in client.scan_iter(keys.request("*"), count=1000))

    def close(self) -> None:
        for feeder in self.feeders:
            feeder.stop()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.terminate()
        self.desk.close()

    def _lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        with self.desk.open(file_id, "") as file:
            return [json.loads(line) for line in file]


@contextlib.contextmanager
def bulk_on(stack: Stack) -> Iterator[Bulk]:
    bulk = Bulk(stack, LedgerDesk.over(stack.settings))
    try:
        yield bulk
    finally:
        bulk.close()
