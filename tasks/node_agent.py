"""The agent of one machine: it makes what runs here what the loader has ordered, and says how the machine is.

It remembers nothing that matters: what runs is asked of the launcher, what should run of
Redis. So it may be killed and started again at any moment.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import assert_never

import redis

from tasks.agenda import Adopt, Bury, Kill, Launch, Running, Step, Terminate, Void, agenda
from tasks.load_failures import LoadFailureStore
from tasks.nodes import HEARTBEAT_S, NodeFacts, NodeStore, redis_time
from tasks.orders import Order, OrderStore
from tasks.reaper import Reaper
from tasks.replicas import ReplicaStore
from tasks.settings import Settings
from workers.devices import Device
from workers.estimate.ways import ways
from workers.inventory import Inventory, in_sessions_of
from workers.launcher.base import Launcher, Replica, Resources, worker_command
from workers.launcher.errors import LauncherDownError, LaunchError
from workers.placement.facts import Need
from workers.placement.reliability import Reliability
from workers.registry_watch import RegistryWatch
from workers.replicas import ReplicaState

log = logging.getLogger(__name__)

TURN_S = 0.5
_LOADS_KEPT_S = 60.0
_LAST_WORDS = 15


@dataclass
class _Memory:
    """What is only kept for as long as this agent lives; a new one begins without and comes to the same."""

    asked: set[str] = field(default_factory=set)
    ready: set[str] = field(default_factory=set)
    loads: list[float] = field(default_factory=list)
    reliability: Reliability = field(default_factory=Reliability)
    beaten_at: float = float("-inf")


class NodeAgent:
    """Everything runs on the thread that calls `run`, except `wake` and `stop`."""

    def __init__(self, client: redis.Redis, settings: Settings, launcher: Launcher) -> None:
        """Raises RegistryError when models.yaml cannot be used."""
        self._client = client
        self._settings = settings
        self._launcher = launcher
        self._registry = RegistryWatch(settings.models, settings.models_dir)
        self._inventory = Inventory(memory_mib=settings.memory_mib)
        self._orders = OrderStore(client)
        self._nodes = NodeStore(client)
        self._replicas = ReplicaStore(client)
        self._failures = LoadFailureStore(client)
        self._reaper = Reaper(client)
        self._memory = _Memory()
        self._devices: tuple[Device, ...] = ()
        self._woken = threading.Event()
        self._stopping = False

    def run(self) -> None:
        """Work until `stop`. What was launched goes on running."""
        while not self._stopping:
            try:
                self._turn()
            except (redis.RedisError, OSError, LauncherDownError) as error:
                log.debug("no turn: %r", error)
            except Exception:
                # The thread's boundary: without its agent the machine would soon count as dead.
                log.exception("agent broke", extra={"event": "agent_broke"})
            self._woken.wait(TURN_S)
            self._woken.clear()
        self._inventory.close()

    def wake(self) -> None:
        """There are new orders. From any thread."""
        self._woken.set()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def _turn(self) -> None:
        self._look_at_models()
        now = redis_time(self._client)
        replicas = {replica.name: replica for replica in self._launcher.list()}
        self._note_ready(replicas, now)
        running = [
            Running(replica=name, model=it.model, started_at=it.started_at, ended=it.exit_code() is not None)
            for name, it in replicas.items()
        ]
        orders = self._orders.of(self._settings.node_id)
        steps = list(agenda(orders, running, self._memory.asked, now, drain_s=self._settings.drain_timeout_s))
        for step in steps:
            self._do(step, replicas, now)
        self._launcher.tend()
        if steps or time.monotonic() - self._memory.beaten_at >= HEARTBEAT_S:
            self._beat(now)

    def _look_at_models(self) -> None:
        change = self._registry.poll(time.monotonic())
        if change is None:
            return
        if change.problem:
            log.error("models.yaml is not used: %s", change.problem, extra={"event": "registry_problem"})
        for model in change.changed:
            # Whatever kept it from loading may be mended.
            self._failures.forget(model)

    def _note_ready(self, replicas: dict[str, Replica], now: float) -> None:
        """Notice loads that went well."""
        for facts in self._replicas.all():
            ready = facts.state in (ReplicaState.READY, ReplicaState.SLEEPING)
            if facts.id in replicas and ready and facts.id not in self._memory.ready:
                self._memory.ready.add(facts.id)
                self._memory.reliability = self._memory.reliability.succeeded(now)
                self._failures.forget(facts.model)

    def _do(self, step: Step, replicas: dict[str, Replica], now: float) -> None:
        match step:
            case Launch(order):
                self._launch(order, now)
            case Terminate(replica):
                self._memory.asked.add(replica)
                replicas[replica].terminate()
            case Kill(replica):
                replicas[replica].kill()
            case Bury(replica, _, asked):
                self._bury(replicas[replica], asked=asked, now=now)
            case Adopt(it):
                self._adopt(it)
            case Void(order):
                self._orders.remove(order.replica)
            case _:
                assert_never(step)

    def _launch(self, order: Order, now: float) -> None:
        spec = self._registry.current().models.get(order.model)
        if spec is None:
            self._failed(order.model, "models.yaml of its node does not have the model", now)
            self._orders.remove(order.replica)
            return
        devices = tuple(device for device in self._devices if device.id in order.devices)
        env = self._settings.to_env()
        command = worker_command(spec, order.replica, env, device=",".join(order.devices))
        try:
            self._launcher.start(command, Resources(devices=devices, memory_mib=None))
        except LauncherDownError:
            raise
        except LaunchError as error:
            log.error("not launched: %s", error, extra={"event": "launch_failed", "model": spec.id})
            self._failed(order.model, f"it could not be launched ({error.code})", now)
            self._orders.remove(order.replica)
        else:
            self._memory.loads = [at for at in self._memory.loads if now - at < _LOADS_KEPT_S] + [now]
            log.info("launched", extra={"event": "replica_launched", "replica": order.replica, "model": spec.id})

    def _bury(self, replica: Replica, *, asked: bool, now: float) -> None:
        code = replica.exit_code()
        if not asked:
            was_ready = replica.name in self._memory.ready
            why = replica.why() or f"its worker ended with {code}"
            self._failed(replica.model, why if was_ready else f"it could not be loaded: {why}", now)
            log.error(
                "replica died: %s",
                why,
                extra={"event": "replica_died", "replica": replica.name, "last_words": replica.tail(_LAST_WORDS)},
            )
        self._reaper.bury(replica.name)
        self._orders.remove(replica.name)
        replica.forget()
        self._memory.asked.discard(replica.name)
        self._memory.ready.discard(replica.name)

    def _failed(self, model: str, reason: str, now: float) -> None:
        self._memory.reliability = self._memory.reliability.failed(now)
        self._failures.failed(model, node=self._settings.node_id, reason=reason, permanent=False, now=now)

    def _adopt(self, it: Running) -> None:
        needs = self._ways().get(it.model, ())
        order = Order(
            replica=it.replica,
            model=it.model,
            node=self._settings.node_id,
            devices=tuple(device.id for device in self._devices[:1]),
            mib=needs[0].mib if needs else 0,
            slot=0,
            ordered_at=it.started_at,
            why="it ran already",
        )
        if self._orders.adopt(order):
            log.info("adopted", extra={"event": "replica_adopted", "replica": it.replica, "model": it.model})

    def _beat(self, now: float) -> None:
        replicas = self._launcher.list()
        survey = self._inventory.survey(in_sessions_of({replica.pid for replica in replicas}))
        self._devices = survey.devices
        facts = NodeFacts(
            id=self._settings.node_id,
            devices=survey.devices,
            launched={it.name: it.model for it in replicas if it.exit_code() is None},
            needs=self._ways(),
            reliability=self._memory.reliability,
            loads=tuple(self._memory.loads),
        )
        self._nodes.beat(facts)
        self._memory.beaten_at = time.monotonic()

    def _ways(self) -> dict[str, tuple[Need, ...]]:
        registry = self._registry.current()
        found = {id_: ways(spec, registry.folders.get(id_), self._devices) for id_, spec in registry.models.items()}
        return {id_: needs for id_, needs in found.items() if needs}
