"""The agent of one machine: it makes what runs here what the loader has ordered, and says how the machine is.

It looks twice a second at what runs here; at what Redis says as often while anything is
under way, and else when it is woken, or beats.

It remembers nothing that matters: what runs is asked of the launcher, what should run of
Redis. So it may be killed and started again at any moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import redis

from tasks.failpoints import failpoint
from tasks.node.adoption import adopted
from tasks.node.agenda import Adopt, Asked, Bury, Kill, Launch, Running, Step, Tell, Terminate, Void, agenda, settled
from tasks.node.machine import Machine
from tasks.node.track_record import TrackRecord
from tasks.records.moves import Move, tell
from tasks.records.nodes import redis_time
from tasks.records.nudge import nudge
from tasks.records.orders import Order, OrderStore
from tasks.records.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from tasks.requests.reaper import Reaper
from tasks.settings import Settings
from workers.devices import Device, DeviceKind
from workers.launcher.base import Launcher, Replica, Resources, worker_command, worker_spares
from workers.launcher.errors import LauncherDownError, LaunchError
from workers.registry_watch import RegistryWatch

log = logging.getLogger(__name__)

TURN_S = 0.5
_LAST_WORDS = 15
_UP = (ReplicaState.READY, ReplicaState.SLEEPING)


@dataclass
class _Memory:
    """What is only kept for as long as this agent lives; a new one begins without and comes to the same."""

    asked: set[Asked] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    """Replicas that this agent has started or seen running."""
    states: dict[str, ReplicaState] | None = None
    orders: Sequence[Order] = ()
    launched: dict[str, str] = field(default_factory=dict)
    pids: frozenset[int] = frozenset()
    ends: frozenset[tuple[str, int | None]] | None = None
    """Replica and exit code, as the launcher told them at the latest turn; None: it could not."""
    settled: bool = False
    """Whether all was as ordered then."""
    refusals: frozenset[str] = frozenset()
    """What the launcher refused at the latest look; it is not said again as long as it goes on."""
    problem: str = ""


class NodeAgent:
    """Everything runs on the thread that calls `run`, except `wake` and `stop`."""

    def __init__(self, client: redis.Redis, settings: Settings, launcher: Launcher) -> None:
        """Raises RegistryError when models.yaml cannot be used."""
        self._client = client
        self._settings = settings
        self._launcher = launcher
        self._registry = RegistryWatch(settings.models, settings.models_dir)
        self._machine = Machine(client, settings)
        self._orders = OrderStore(client)
        self._replicas = ReplicaStore(client)
        self._record = TrackRecord(client, settings.node_id)
        self._reaper = Reaper(client)
        self._memory = _Memory()
        self._woken = threading.Event()
        self._stopping = False
        launcher.on_end(self.wake)

    def run(self) -> None:
        """Work until `stop`. What was launched goes on running."""
        woken = True
        while not self._stopping:
            try:
                if woken or not self._memory.settled or self._machine.is_due or self._differs():
                    self._turn()
            except (redis.RedisError, OSError) as error:
                log.debug("no turn: %r", error)
            except Exception:
                # The thread's boundary: without its agent the machine would soon count as dead.
                log.exception("agent broke", extra={"event": "agent_broke"})
            # One who wakes us when we have just stopped waiting is heard the next time.
            if woken := self._woken.wait(TURN_S):
                self._woken.clear()
        self._machine.close()

    def wake(self) -> None:
        """There are new orders, or a replica has ended. From any thread."""
        self._woken.set()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def _differs(self) -> bool:
        """Say whether anything here is not as it was at the latest turn. Redis is asked nothing."""
        self._look_at_models()
        try:
            return self._machine.is_new or _ends(self._launcher.list()) != self._memory.ends
        except LaunchError:
            return True

    def _turn(self) -> None:
        self._memory.settled, self._memory.ends = False, None
        self._record.remember()
        self._look_at_models()
        now = redis_time(self._client)
        try:
            changed = self._follow_orders(now)
            changed = self._able() or changed
        except LaunchError as error:
            changed = self._unable(str(error))
        news = changed or self._machine.is_new
        if news or self._machine.is_due:
            self._beat(now)
        if news:
            # What has just become free, or ready, may be what somebody waits for.
            nudge(self._client)

    def _follow_orders(self, now: float) -> bool:
        """Do what is due; say whether anything has changed."""
        replicas = {replica.name: replica for replica in self._launcher.list()}
        ends = _ends(replicas.values())
        self._memory.known |= {name for name, code in ends if code is None}
        told = {facts.id: facts for facts in self._replicas.of(replicas)}
        changed = self._note_states(told, now)
        self._machine.measure(replicas, told, self._registry.current())
        running = [
            Running(
                replica=name,
                model=it.model,
                started_at=it.started_at,
                ended=it.exit_code() is not None,
                state=told[name].state if name in told else None,
            )
            for name, it in replicas.items()
        ]
        orders = self._memory.orders = self._orders.of(self._settings.node_id)
        steps = list(agenda(orders, running, self._memory.asked, now, drain_s=self._settings.drain_timeout_s))
        refused = [self._try(step, replicas, told, now) for step in steps]
        self._note_refusals(frozenset(text for text in refused if text is not None))
        if self._machine.is_due:
            # It looks at every process of the machine.
            self._launcher.tend()
        engines = {spec.engine for spec in self._registry.current().models.values()}
        self._launcher.prepare(worker_spares(engines, self._settings.to_env()))
        there = self._launcher.list()
        self._memory.launched = {it.name: it.model for it in there if it.exit_code() is None}
        self._memory.pids = frozenset(it.pid for it in there)
        changed = changed or None in refused
        self._memory.ends = ends
        self._memory.settled = not changed and not refused and settled(orders, running)
        return changed

    def _able(self) -> bool:
        """Say whether that is news."""
        if not self._memory.problem:
            return False
        log.info("launcher is back", extra={"event": "launcher_back"})
        self._memory.problem = ""
        return True

    def _unable(self, problem: str) -> bool:
        """Note that nothing can be started or stopped now; what runs goes on. Say whether that is news."""
        news = self._memory.problem != problem
        if news:
            log.error("launcher is down: %s", problem, extra={"event": "launcher_down"})
        self._memory.problem = problem
        return news

    def _look_at_models(self) -> None:
        change = self._registry.poll(time.monotonic())
        if change is None:
            return
        if change.problem:
            log.error("models.yaml is not used: %s", change.problem, extra={"event": "registry_problem"})
        for model in change.changed:
            self._record.mended(model)
        self._machine.changed()

    def _note_states(self, told: Mapping[str, ReplicaFacts], now: float) -> bool:
        """Notice loads that went well; say whether any replica has come further."""
        states = {name: facts.state for name, facts in told.items()}
        for name, state in states.items():
            if state in _UP and name not in self._memory.loaded:
                self._memory.loaded.add(name)
                # What was up before this agent was counted by the one before.
                self._record.loaded(told[name].model, now, counts=self._memory.states is not None)
        changed, self._memory.states = states != self._memory.states, states
        return changed

    def _note_refusals(self, refusals: frozenset[str]) -> None:
        for text in sorted(refusals - self._memory.refusals):
            log.error("refused: %s", text, extra={"event": "launcher_refused"})
        self._memory.refusals = refusals

    def _try(
        self, step: Step, replicas: Mapping[str, Replica], told: Mapping[str, ReplicaFacts], now: float
    ) -> str | None:
        """Take a step, or return why it was refused.

        What is refused to one replica must not keep the others: it is tried again at the next look.
        """
        try:
            self._do(step, replicas, told, now)
        except LauncherDownError:
            raise
        except LaunchError as error:
            return str(error)
        return None

    def _do(self, step: Step, replicas: Mapping[str, Replica], told: Mapping[str, ReplicaFacts], now: float) -> None:
        match step:
            case Launch(order):
                self._launch(order, now)
            case Terminate(replica):
                replicas[replica].terminate()
                failpoint("agent_terminated")
                self._memory.asked.add((replica, None))
            case Tell(order):
                tell(self._client, order.replica, Move(order.told, order.told_at))
                self._memory.asked.add((order.replica, order.told_at))
            case Kill(replica):
                replicas[replica].kill()
            case Bury(replica, _, asked):
                self._bury(replicas[replica], asked=asked, now=now)
            case Adopt(it):
                self._adopt(it, told.get(it.replica))
            case Void(order):
                self._orders.remove(order.replica, node=order.node)
            case _:
                assert_never(step)

    def _launch(self, order: Order, now: float) -> None:
        spec = self._registry.current().models.get(order.model)
        if spec is None:
            # Its own registry is a little behind the loader's, or another file.
            log.error("model not known here", extra={"event": "launch_failed", "model": order.model})
            self._record.not_launched(order.model, "the models.yaml of its machine does not have it", now)
            self._orders.remove(order.replica, node=order.node)
            return
        devices = tuple(device for device in self._machine.devices if device.id in order.devices)
        env = self._settings.to_env()
        kv_mib = self._machine.cache_mib(spec, self._registry.current(), devices, order.mib) if order.mib else None
        device = ",".join(order.devices)
        command = worker_command(spec, order.replica, env, device=device, reserved_mib=order.mib or None, kv_mib=kv_mib)
        try:
            self._launcher.start(command, Resources(devices=devices, memory_mib=_allowed_mib(order, devices)))
        except LauncherDownError:
            raise
        except LaunchError as error:
            log.error("not launched: %s", error, extra={"event": "launch_failed", "model": spec.id})
            self._record.not_launched(order.model, f"its worker could not be started ({error.code})", now)
            self._orders.remove(order.replica, node=order.node)
        else:
            failpoint("agent_launched")
            self._record.begun(now)
            self._memory.known.add(order.replica)
            log.info("launched", extra={"event": "replica_launched", "replica": order.replica, "model": spec.id})

    def _bury(self, replica: Replica, *, asked: bool, now: float) -> None:
        name = replica.name
        if not asked and name not in self._memory.known:
            # The machine was restarted, or all of it was killed at once: how far the replica was, and what ended it,
            # nobody can say, and the model is not to wait for another try because of it.
            log.warning("replica had ended before", extra={"event": "replica_lost", "replica": name})
        elif not asked:
            why = self._record.ended(replica, now, was_up=name in self._memory.loaded)
            extra = {"event": "replica_died", "replica": name, "last_words": replica.tail(_LAST_WORDS)}
            log.error("replica died: %s", why, extra=extra)
        failpoint("agent_counted")
        self._reaper.bury(name)
        failpoint("agent_reaped")
        self._orders.remove(name, node=self._settings.node_id)
        failpoint("agent_struck")
        replica.forget()
        self._memory.asked = {one for one in self._memory.asked if one[0] != name}
        self._memory.loaded.discard(name)
        self._memory.known.discard(name)

    def _adopt(self, it: Running, told: ReplicaFacts | None) -> None:
        node, needs = self._settings.node_id, self._machine.ways(self._registry.current()).get(it.model, ())
        order = adopted(it, told, node=node, devices=self._machine.devices, needs=needs, orders=self._orders.all())
        if self._orders.adopt(order):
            log.info("adopted", extra={"event": "replica_adopted", "replica": it.replica, "model": it.model})

    def _beat(self, now: float) -> None:
        self._machine.beat(
            self._registry.current(),
            self._record,
            launched=self._memory.launched,
            orders=self._memory.orders,
            pids=self._memory.pids,
            up={name for name, state in (self._memory.states or {}).items() if state in _UP},
            problem=self._memory.problem,
            now=now,
        )


def _ends(replicas: Iterable[Replica]) -> frozenset[tuple[str, int | None]]:
    return frozenset((replica.name, replica.exit_code()) for replica in replicas)


def _allowed_mib(order: Order, devices: tuple[Device, ...]) -> int | None:
    """Return how much of the machine's memory a replica on the CPU may take; its needs are an estimate, hence more."""
    on_cpu = bool(devices) and all(device.kind is DeviceKind.CPU for device in devices)
    return 2 * order.mib + 1024 if on_cpu and order.mib else None
