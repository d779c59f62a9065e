"""Metrics of the whole installation, read from Redis when somebody scrapes: the same from every gateway.

For alarms above all: a loader that does not run (`celerity_loader_last_run_age_seconds`)
leaves what is loaded serving, so no request need ever show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.errors import ServingError

_MIB = 1024 * 1024


class SiteMetrics(Collector):
    """`read` gives the status document (`tasks.records.status`), or raises ServingError; then only that is told."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        try:
            document = self._read()
        except ServingError:
            yield GaugeMetricFamily("celerity_redis_up", "Whether Redis answers.", value=0)
            return
        yield GaugeMetricFamily("celerity_redis_up", "Whether Redis answers.", value=1)
        yield from _loader(document["loader"])
        yield from _models(document["models"])
        yield from _nodes(document["nodes"])


def _loader(loader: dict[str, Any]) -> Iterator[Metric]:
    age_s = loader["last_run_age_s"]
    yield GaugeMetricFamily(
        "celerity_loader_last_run_age_seconds",
        "Since the last whole tick of any loader; infinite when there was none within the hour.",
        value=float("inf") if age_s is None else age_s,
    )
    yield GaugeMetricFamily(
        "celerity_loader_automatic", "0 while the kill switch is on.", value=int(loader["automatic"])
    )


def _models(models: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("celerity_requests_waiting", "Requests in queues.", labels=["model", "priority"])
    oldest = GaugeMetricFamily("celerity_requests_oldest_seconds", "Age of the oldest in a queue.", labels=["model"])
    replicas = GaugeMetricFamily("celerity_replicas", "Replicas by state.", labels=["model", "state"])
    failed = GaugeMetricFamily("celerity_model_failed", "1 when the model was given up.", labels=["model"])
    for model in models:
        queue = model["queue"]
        for priority in ("interactive", "bulk"):
            waiting.add_metric([model["id"], priority], queue[priority])
        oldest.add_metric([model["id"]], queue["oldest_s"] or 0.0)
        for state, count in sorted(Counter(replica["state"] for replica in model["replicas"]).items()):
            replicas.add_metric([model["id"], state], count)
        failed.add_metric([model["id"]], int(model["state"] == "failed"))
    yield from (waiting, oldest, replicas, failed)


def _nodes(nodes: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("celerity_node_up", "1 while the node is heard of.", labels=["node"])
    memory = GaugeMetricFamily(
        "celerity_device_memory_bytes", "Memory of devices, where it is known.", labels=["node", "device", "what"]
    )
    for node in nodes:
        up.add_metric([node["id"]], int(node["state"] == "healthy"))
        for device in node["devices"]:
            for what in ("total", "free", "reserved"):
                if (mib := device[f"{what}_mib"]) is not None:
                    memory.add_metric([node["id"], device["id"], what], mib * _MIB)
    yield from (up, memory)
