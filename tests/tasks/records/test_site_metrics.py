"""What a scrape tells of the whole installation."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tasks import metrics
from tasks.errors import ServiceUnavailableError
from tasks.queues import Priority
from tasks.records import status
from tasks.records.nodes import Node, NodeFacts
from tasks.records.orders import Order
from tasks.records.site_metrics import SiteMetrics
from tasks.records.status import Known
from tasks.records.waiting import Waiting
from workers.devices import Device, DeviceKind, unknown
from workers.placement.facts import LoadFailures
from workers.registry import ModelSpec

CPU = Device(id="cpu", kind=DeviceKind.CPU, total_mib=2000, free_mib=900)


def scraped(site: SiteMetrics) -> dict[str, float]:
    """Return each sample by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(metrics.render(site).decode())
    samples = [sample for family in families for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def found(**known: Any) -> dict[str, float]:
    document = status.document(Known(now=100.0, **known))
    return scraped(SiteMetrics(lambda: document))


def test_the_loaders_age_can_be_alarmed_on() -> None:
    assert found(loader_ran_at=60.0)["celerity_loader_last_run_age_seconds"] == 40.0
    assert found()["celerity_loader_last_run_age_seconds"] == float("inf")
    assert (found()["celerity_loader_automatic"], found(automatic=False)["celerity_loader_automatic"]) == (1, 0)


def test_models_and_nodes_are_counted() -> None:
    order = Order(replica="m-1", model="m", node="n", devices=("cpu",), mib=800, slot=0, ordered_at=99.0)
    samples = found(
        models=[ModelSpec(id="m"), ModelSpec(id="ill")],
        orders=[order],
        nodes=[Node(NodeFacts(id="n", devices=(CPU, unknown("cuda:0", DeviceKind.CUDA, "lost"))), 1.0)],
        waiting={"m": {Priority.INTERACTIVE: Waiting(3, 7.0), Priority.BULK: Waiting(4, 9.0)}},
        failures={"ill": LoadFailures(model="ill", count=5, last_at=1.0, reason="x", given_up=True)},
    )
    assert samples["celerity_requests_waiting m interactive"] == 3
    assert samples["celerity_requests_waiting m bulk"] == 4
    assert samples["celerity_requests_oldest_seconds m"] == 9
    assert samples["celerity_replicas m starting"] == 1
    assert (samples["celerity_model_failed m"], samples["celerity_model_failed ill"]) == (0, 1)
    assert samples["celerity_node_up n"] == 1
    assert samples["celerity_device_memory_bytes cpu n reserved"] == 800 * 1024 * 1024
    assert "celerity_device_memory_bytes cuda:0 n free" not in samples


def test_without_redis_only_that_is_told() -> None:
    def read() -> dict[str, Any]:
        raise ServiceUnavailableError("away")

    samples = scraped(SiteMetrics(read))
    assert samples["celerity_redis_up"] == 0
    assert not any(name.startswith("celerity_loader") for name in samples)
