"""Every metric that a process counts itself: name, unit and labels. `site_metrics` has those of the installation.

The words are vLLM's and OpenTelemetry's, the prefix is ours. A `model` label is always
the id of a configured model, an `endpoint` one of `tasks.messages.Endpoint`, a `code`
"ok", "detached" (nobody reads it any more, but it goes on) or a code of `tasks.errors`: a
client can add no label value.
"""

from __future__ import annotations

import functools
import os

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tasks.errors import every_error

# Long answers of large models end near the total deadline of ten minutes.
_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter(
    "celerity_requests",
    "Requests that were queued, by how they ended.",
    ["endpoint", "model", "code"],
)
REFUSED = Counter(
    "celerity_requests_refused",
    "Requests that were answered with an error before they were queued.",
    ["code"],
)
DEFERRED = Counter(
    "celerity_requests_deferred",
    "Requests that were answered with 202, to come again once their model is loaded.",
    ["model"],
)
IN_FLIGHT = Gauge(
    "celerity_requests_in_flight",
    "Requests that are queued or running now, as their gateway sees them.",
    ["model"],
    multiprocess_mode="livesum",
)
QUEUE_TIME = Histogram(
    "celerity_request_queue_time_seconds",
    "From the queue to the claim by a worker.",
    ["model"],
    buckets=_LATENCY,
)
TIME_TO_FIRST_TOKEN = Histogram(
    "celerity_time_to_first_token_seconds",
    "From acceptance to the first piece of a streamed answer.",
    ["model"],
    buckets=_LATENCY,
)
E2E_LATENCY = Histogram(
    "celerity_e2e_request_latency_seconds",
    "From acceptance to the end of the answer, errors included.",
    ["endpoint", "model"],
    buckets=_LATENCY,
)
PROMPT_TOKENS = Counter("celerity_prompt_tokens", "Tokens read, of answers that completed.", ["model"])
GENERATION_TOKENS = Counter("celerity_generation_tokens", "Tokens generated, of answers that completed.", ["model"])
UPLOADED_BYTES = Counter("celerity_files_uploaded_bytes", "Content of files that were taken in.")
BATCHES = Counter("celerity_batches_created", "Batches that were made by HTTP.", ["endpoint"])


class ModelMetrics:
    """What is counted of one model. To look a label up costs more than to count."""

    def __init__(self, model: str) -> None:
        self.in_flight = IN_FLIGHT.labels(model)
        self.queue_time = QUEUE_TIME.labels(model)
        self.time_to_first_token = TIME_TO_FIRST_TOKEN.labels(model)
        self.prompt_tokens = PROMPT_TOKENS.labels(model)
        self.generation_tokens = GENERATION_TOKENS.labels(model)


@functools.cache
def of_model(model: str) -> ModelMetrics:
    """`model` is the id of a configured model, so there are few."""
    return ModelMetrics(model)


@functools.cache
def ended(endpoint: str, model: str, code: str) -> Counter:
    """`code` is a known one."""
    return REQUESTS.labels(endpoint, model, code)


@functools.cache
def latency(endpoint: str, model: str) -> Histogram:
    return E2E_LATENCY.labels(endpoint, model)


_CODES = frozenset(error.code for error in every_error()) | {"ok", "detached"}


def known_code(code: str) -> str:
    """Return `code`, or "other" for one that only a newer release knows."""
    return code if code in _CODES else "other"


def render(*others: Collector) -> bytes:
    """Return all metrics in Prometheus' text format, and what `others` find now.

    With several gateway processes, `PROMETHEUS_MULTIPROC_DIR` is set before this module
    is imported, and the answer is the sum over them; `others` are asked once.
    """
    found = CollectorRegistry()
    for other in others:
        found.register(other)
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY) + generate_latest(found)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library's gap
    return generate_latest(registry) + generate_latest(found)
