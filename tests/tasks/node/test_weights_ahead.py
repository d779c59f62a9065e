"""Which weights an agent has read ahead, by what the loader says of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tasks.node.weights_ahead import WeightsAhead
from tasks.records.orders import Order
from tasks.records.outlooks import OutlookStore
from tests.waiting import wait_until
from tests.workers.reference_models import CONFIGS, write_model
from tests.workers.test_read_ahead import forget, resident
from workers.placement.actions import Explanation, Outlook
from workers.registry import Registry

pytestmark = pytest.mark.integration

# Its weights are 38 MB.
SMALL = CONFIGS["Qwen2.5-0.5B-Instruct"] | {"num_hidden_layers": 1, "vocab_size": 4000}
MODELS = ("next", "idle", "ordered")
FREE_MIB = 10_000


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    text = "models:\n"
    for name in MODELS:
        folder = write_model(tmp_path / name, SMALL)
        text += f"  {name}: {{path: {folder}}}\n"
        forget(weights(tmp_path, name))
    (tmp_path / "models.yaml").write_text(text)
    return Registry.load(tmp_path / "models.yaml")


@pytest.fixture
def ahead(client: redis.Redis) -> Iterator[WeightsAhead]:
    with closing(WeightsAhead(client)) as reading:
        yield reading


def weights(tmp_path: Path, name: str) -> Path:
    return next((tmp_path / name).glob("*.safetensors"))


def order(model: str) -> Order:
    return Order(replica=f"{model}-1", model=model, node="n", devices=("cpu",), mib=1, slot=0, ordered_at=0.0)


def test_what_was_ordered_and_what_comes_next_is_read(
    client: redis.Redis, registry: Registry, ahead: WeightsAhead, tmp_path: Path
) -> None:
    OutlookStore(client).write(
        {
            "next": Explanation(outlook=Outlook.IN_TURN, text="its turn comes"),
            "idle": Explanation(outlook=Outlook.SERVING, text="it serves"),
        }
    )
    ahead.follow(registry, [order("ordered")], (), free_mib=FREE_MIB)
    read = [weights(tmp_path, name) for name in ("ordered", "next")]
    wait_until(lambda: all(resident(file) == 1.0 for file in read), "both are read")
    assert resident(weights(tmp_path, "idle")) < 0.5


def test_what_runs_here_already_is_not_read(registry: Registry, ahead: WeightsAhead, tmp_path: Path) -> None:
    ahead.follow(registry, [order("ordered"), order("next")], ("ordered",), free_mib=FREE_MIB)
    wait_until(lambda: resident(weights(tmp_path, "next")) == 1.0, "the other is read")
    assert resident(weights(tmp_path, "ordered")) < 0.5


def test_nothing_is_read_where_there_is_no_memory_for_it(
    registry: Registry, ahead: WeightsAhead, tmp_path: Path
) -> None:
    ahead.follow(registry, [order("ordered")], (), free_mib=10)
    ahead.close()
    assert resident(weights(tmp_path, "ordered")) < 0.5
