"""The pages of Flower that would not be true as they come.

Its broker page knows the queues that workers consume, as it last heard, and adds up the
priorities; so a model that nobody serves yet, which is where requests wait longest, is
missing. Its worker page shows what the worker said when the page was last opened. Its
metrics ask for no password. And what tasks were called with, and what came of them, may be
prompts and answers: of our own messages only ids can be seen, but `celery call tasks.chat`
is Celery's, and says it all.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import redis
from flower.api.tasks import GetQueueLengths, TaskResult
from flower.inspector import Inspector
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from flower.views.workers import WorkerView
from tornado import web

from tasks.queues import BATCH_QUEUE, LOADER_QUEUE, Priority, model_queue, queue_list
from workers.registry_watch import RegistryWatch

_ASK_WITHIN_S = 1.0
_PRIVATE = frozenset({"args", "kwargs", "result"})
_UNSAID = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the broker page: a queue, or one priority of it."""

    label: str
    queue: str
    lists: tuple[str, ...]
    """The Redis lists whose messages it counts."""

    def shown(self, lengths: Mapping[str, int], consumers: Mapping[str, int]) -> dict[str, Any]:
        """Return it as Flower's template takes it; what a worker has taken waits no longer, so all of it is ready."""
        waiting = sum(lengths[name] for name in self.lists)
        return {
            "name": self.label,
            "messages": waiting,
            "messages_ready": waiting,
            "consumers": consumers.get(self.queue, 0),
        }


def rows_of(models: Iterable[str], consumed: Iterable[str]) -> list[Row]:
    """Return the rows for `models`, loaded or not, and for what is `consumed` besides."""
    of_models = {model_queue(model) for model in models} | {name for name in consumed if name.startswith("model.")}
    others = {LOADER_QUEUE, BATCH_QUEUE, *consumed} - of_models
    rows = [
        Row(label=f"{queue} ({priority.name.lower()})", queue=queue, lists=(queue_list(queue, priority),))
        for queue in sorted(of_models)
        for priority in Priority
    ]
    return rows + [
        Row(label=queue, queue=queue, lists=tuple(queue_list(queue, priority) for priority in Priority))
        for queue in sorted(others)
    ]


class QueueTable:
    """What stands in the queues, and how many workers take from each."""

    def __init__(self, client: redis.Redis, registry: RegistryWatch) -> None:
        self._client = client
        self._registry = registry
        self._consumed: dict[str, list[str]] = {}

    def read(self, control: Any, alive: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of the page; `alive` are the workers that are online. Raises redis.RedisError."""
        self._ask(control, alive)
        self._registry.poll(time.monotonic())
        consumers = Counter(queue for queues in self._consumed.values() for queue in queues)
        rows = rows_of(self._registry.current().models, consumers)
        names = [name for row in rows for name in row.lists]
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(name)
            lengths = dict(zip(names, pipeline.execute(), strict=True))
        return [row.shown(lengths, consumers) for row in rows]

    def _ask(self, control: Any, alive: Sequence[str]) -> None:
        """Ask who consumes what. Who is too busy to answer consumes what it did."""
        said = control.inspect(destination=list(alive), timeout=_ASK_WITHIN_S).active_queues() if alive else None
        for worker, queues in (said or {}).items():
            self._consumed[worker] = [queue["name"] for queue in queues]
        self._consumed = {worker: queues for worker, queues in self._consumed.items() if worker in alive}


class _WithQueues:
    """Gives Flower's handlers our table where they expect a broker."""

    application: Any

    def initialize(self, table: QueueTable) -> None:
        self._table = table

    def get_broker(self) -> _WithQueues:
        return self

    def get_active_queue_names(self) -> list[str]:
        return []

    async def queues(self, _names: list[str]) -> list[dict[str, Any]]:
        state = self.application.events.state
        alive = [name for name, worker in state.workers.items() if worker.alive]
        return await asyncio.to_thread(self._table.read, self.application.capp.control, alive)


class BrokerPage(_WithQueues, BrokerView):  # type: ignore[misc]  # flower ships no types
    """`/broker`."""


class QueueLengths(_WithQueues, GetQueueLengths):  # type: ignore[misc]
    """`/api/queues/length`."""


class WorkerPage(WorkerView):  # type: ignore[misc]
    """`/worker/NAME`, always as the worker is now."""

    @web.authenticated
    async def get(self, name: str) -> None:
        self.application.workers.pop(name, None)
        await super().get(name)

    def render(self, template: str, **values: Any) -> None:
        if pool := values.get("worker", {}).get("stats", {}).get("pool"):
            values["worker"]["stats"] = values["worker"]["stats"] | {"pool": flat(pool)}
        super().render(template, **values)


class NoResult(TaskResult):  # type: ignore[misc]
    """`/api/task/result/ID`."""

    @web.authenticated
    async def get(self, taskid: str) -> None:
        raise web.HTTPError(HTTPStatus.FORBIDDEN, "An answer is read with `celery result`")


class DiscreetInspector(Inspector):  # type: ignore[misc]
    """What workers say of themselves, without what their tasks were called with."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        if method in self.task_inspect_methods and method != "revoked":
            # Scheduled ones have their request within.
            response = [discreet(task | {"request": discreet(task.get("request", {}))}) for task in response]
        super()._on_update(workername, method, response)


class MetricsPage(Metrics):  # type: ignore[misc]
    """`/metrics`, for who has the password."""

    @web.authenticated
    async def get(self) -> None:
        await super().get()


def discreet(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a task without its arguments and its result."""
    return {name: _UNSAID if name in _PRIVATE else value for name, value in fields.items()}


def flat(pool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pool's facts with those of its engine, and other groups of them, one by one.

    In a list, as which each comes, Flower writes words as they are; else it makes `qwen3-8b` to `Qwen3 8b`.
    """
    facts: dict[str, Any] = {}
    for name, value in pool.items():
        facts |= {f"{name} {inner}": it for inner, it in value.items()} if isinstance(value, dict) else {name: value}
    facts.pop("timeouts", None)
    return {name: value if isinstance(value, list) else [value] for name, value in facts.items() if value is not None}


def pages(client: redis.Redis, registry: RegistryWatch) -> list[Any]:
    """Return the handlers that stand before Flower's own."""
    table = {"table": QueueTable(client, registry)}
    return [
        web.url(r"/broker", BrokerPage, table, name="broker"),
        (r"/api/queues/length", QueueLengths, table),
        web.url(r"/worker/(.+)", WorkerPage, name="worker"),
        (r"/api/task/result/(.+)", NoResult),
        (r"/metrics", MetricsPage),
    ]
