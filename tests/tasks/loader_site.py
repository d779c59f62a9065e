"""A site on a real Redis with machines that are not there: a test takes each turn of loader and agents itself."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import redis

from tasks import keys
from tasks.loader.tick import Loader, Turn
from tasks.messages import Call, Endpoint
from tasks.node.agent import NodeAgent
from tasks.records.orders import Order, OrderStore
from tasks.requests.request_store import RequestStore
from tasks.settings import Settings
from tests.tasks.fake_launcher import FakeLauncher, FakeReplica
from workers.placement.limits import Limits
from workers.registry import Registry
from workers.replicas import ReplicaState


class Machine:
    """A node: its launcher outlives its agents."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.launcher = FakeLauncher()
        self.agent = self._agent()

    def _agent(self) -> NodeAgent:
        return NodeAgent(self.client, self.settings, self.launcher)

    def restart_agent(self) -> None:
        """As if the agent had been killed: all it remembered is gone."""
        self.agent = self._agent()

    def turn(self) -> None:
        self.agent._turn()

    def up(self, model: str = "m", **facts: Any) -> FakeReplica:
        """Have the only replica of `model` finish its load, and be noticed."""
        replica = self.launcher.one(model)
        replica.speaks(self.client, **facts)
        self.turn()
        return replica


class LoaderSite:
    """One loader and any number of machines."""

    def __init__(self, client: redis.Redis, folder: Path, models: str) -> None:
        self.client = client
        self.folder = folder
        self.orders = OrderStore(client)
        self.models(models)
        self.loader = Loader(client, Limits())

    def models(self, text: str, name: str = "models.yaml") -> Registry:
        (self.folder / name).write_text(text)
        self.registry = Registry.load(self.folder / name)
        return self.registry

    def machine(self, node: str = "n", *, models: str = "models.yaml", memory_mib: int = 4000) -> Machine:
        """Add a machine that has said what it has."""
        settings = Settings.from_env(
            {
                "CELERITY_STATE_DIR": str(self.folder),
                "CELERITY_REDIS_URL": "unix:///never.used",
                "CELERITY_MODELS": str(self.folder / models),
                "CELERITY_NODE_ID": node,
                "CELERITY_MEMORY_MIB": str(memory_mib),
                "CELERITY_DRAIN_TIMEOUT_S": "20",
            }
        )
        machine = Machine(self.client, settings)
        machine.turn()
        return machine

    def tick(self) -> Turn:
        return self.loader.tick(self.registry)

    def ask(self, model: str = "m") -> Call:
        """Queue a request, as a gateway does."""
        call = Call(
            id=f"req_{secrets.token_hex(8)}",
            model=model,
            endpoint=Endpoint.CHAT,
            body=b"{}",
            stream=False,
            gateway="g",
            queue_wait_s=180,
        )
        RequestStore(self.client).admit(call, gateway_id="g", max_depth=-1)
        return call

    def answered(self, model: str = "m") -> None:
        """Everything that waited for `model` was taken and answered."""
        self.client.delete(f"model.{model}")

    def ordered(self, told: ReplicaState | None = None) -> list[Order]:
        return [order for order in self.orders.all() if told is None or order.told is told]

    def asked_to_look(self, node: str) -> int:
        return int(self.client.llen(f"node.{node}"))

    def late(self, order: Order, *, by_s: float) -> None:
        """Have `order` be that much older than it is."""
        moved = Order(
            **{name: getattr(order, name) for name in order.__slots__}
            | {"ordered_at": order.ordered_at - by_s, "told_at": order.told_at - by_s}
        )
        self.client.hset(keys.ORDERS, f"{order.node}/{order.replica}", moved.encode())
