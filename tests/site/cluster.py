"""A cluster in virtual time: requests come, the planner plans, its orders take as long as real ones.

Deterministic for a given seed and calls. Everything that must never be (a device that holds
more than it has, a replica ended with work in flight, a pinned one sent away) is
noted in `wrong`, with the time and what was the matter.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.site.asked import Asked
from tests.site.machines import ENDING, GOES_TO, Card, Machine, Process, Request, failed_again
from tests.site.watch import faults_of, over_committed
from workers.placement.actions import Action, Drain, MarkFailed, Plan, Sleep, Start, Stop, Wake
from workers.placement.facts import Facts, LoadFailures, Model, Reservation, Rollout
from workers.placement.limits import Limits
from workers.placement.plan import plan
from workers.replicas import ReplicaState

TICK_S = 2.0
ORDER_S = 0.05  # from an action to its node doing it
EXIT_S = 0.4  # from the last request to the process being gone
WAKE_S = 0.5
NUDGE_S = 0.05  # a cold request, or a process that ended, wakes the loader after so long
RESERVATION_S = 30.0


class Cluster:
    """Not thread-safe; `run_until` moves the time."""

    def __init__(
        self,
        models: Iterable[Model],
        machines: Iterable[Machine],
        cards: Iterable[Card],
        *,
        limits: Limits | None = None,
        rollouts: tuple[Rollout, ...] = (),
        can_sleep: bool = False,
    ) -> None:
        self.now = 0.0
        self.models = {model.id: model for model in models}
        self.machines = {machine.id: machine for machine in machines}
        self.cards = {card.place: card for card in cards}
        self.limits = limits or Limits()
        self.rollouts = rollouts
        self.can_sleep = can_sleep
        self.processes: dict[str, Process] = {}
        self.reservations: dict[str, Reservation] = {}
        self.failures: dict[str, LoadFailures] = {}
        self.asked_for = Asked(self.limits.peak_window_s)
        self.queues = self.asked_for.queues
        self.finished: list[Request] = []
        self.wrong: list[str] = []
        self.starts: list[tuple[float, str]] = []
        self.actions: Counter[str] = Counter()
        self.plan_s: list[float] = []
        """Seconds of this processor that each plan took."""
        self.last_plan = Plan((), {})
        self.hits = self.asked = 0
        self.loses_order: Callable[[Action], bool] = lambda _: False
        self.fails_load: Callable[[Process], bool] = lambda _: False
        self._by_model: dict[str, list[Process]] = defaultdict(list)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._nudged = False
        self._next_tick_at = 0.0
        self._names = itertools.count()
        self.at(0.0, self._tick)

    # For whoever drives it.

    def at(self, when: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def after(self, delay_s: float, happens: Callable[[], None]) -> None:
        self.at(self.now + delay_s, happens)

    def ask(self, model: str, when: float, service_s: float, *, bulk: bool = False) -> None:
        self.at(when, lambda: self._arrive(Request(model, when, service_s, bulk)))

    def run_until(self, when: float) -> None:
        while self._events and self._events[0][0] <= when:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        self.now = when

    def kill_node(self, node: str) -> None:
        """The machine is gone; what it ran goes back to the front of its queue, and who watches knows soon."""
        self.machines[node].alive = False
        for process in [process for process in self.processes.values() if process.node == node]:
            for request in process.running:
                request.taken_at = None
                self.queues[request.model].appendleft(request)
            process.running.clear()
            self._gone(process, ReplicaState.FAILED)

    def states(self, model: str) -> list[ReplicaState]:
        return [process.state for process in self._by_model[model]]

    def facts(self) -> Facts:
        return Facts(
            models=tuple(self.models.values()),
            demands=tuple(self.asked_for.demand(model, self._running(model), self.now) for model in self.models),
            replicas=tuple(process.fact() for process in self.processes.values()),
            devices=tuple(card.fact(self.now) for card in self.cards.values()),
            nodes=tuple(machine.fact() for machine in self.machines.values()),
            reservations=tuple(self.reservations.values()),
            failures=tuple(self.failures.values()),
            rollouts=self.rollouts,
            limits=self.limits,
        )

    def _running(self, model: str) -> int:
        return sum(len(process.running) for process in self._by_model[model])

    # Requests.

    def _arrive(self, request: Request) -> None:
        self.asked += 1
        self.asked_for.last_request_at[request.model] = self.now
        serving = any(process.state is ReplicaState.READY for process in self._by_model[request.model])
        self.hits += serving
        self.queues[request.model].append(request)
        self._pull(request.model)
        if not serving:
            self._nudge()

    def _pull(self, model: str) -> None:
        queue = self.queues[model]
        while queue:
            process = max(self._by_model[model], key=lambda process: process.free_seats, default=None)
            if process is None or process.free_seats <= 0:
                return
            request = queue.popleft()
            request.taken_at = process.last_used_at = self.now
            process.running.add(request)
            self.after(request.service_s, lambda p=process, r=request: self._finish(p, r))  # type: ignore[misc]

    def _finish(self, process: Process, request: Request) -> None:
        if request not in process.running:
            return
        process.running.discard(request)
        process.last_used_at = request.done_at = self.now
        self.finished.append(request)
        self._pull(request.model)
        self._rest(process)

    def _rest(self, process: Process) -> None:
        """What a replica does that is to end or to sleep, once it has nothing in flight."""
        if process.running:
            return
        if process.state is ReplicaState.DRAINING:
            self.after(EXIT_S, lambda: self._gone(process, ReplicaState.STOPPED))
        elif process.falls_asleep:
            process.falls_asleep = False
            process.state, process.slept_at = ReplicaState.SLEEPING, self.now
            process.hold(process.sleep_mib)
            self._nudge()

    # The loader.

    def _tick(self) -> None:
        self._next_tick_at = self.now + TICK_S
        self._plan()
        self.at(self._next_tick_at, self._tick)

    def _nudge(self) -> None:
        if not self._nudged:
            self._nudged = True
            self.after(NUDGE_S, self._wake_loader)

    def _wake_loader(self) -> None:
        self._nudged = False
        self._plan()

    def _plan(self) -> None:
        facts = self.facts()
        began = time.thread_time()
        self.last_plan = plan(facts, self.now)
        self.plan_s.append(time.thread_time() - began)
        if (again_at := self.last_plan.again_at) is not None and again_at < self._next_tick_at:
            self.at(again_at, self._nudge)
        for action in self.last_plan.actions:
            self.actions[type(action).__name__] += 1
            if isinstance(action, Drain | Sleep | Stop):
                process = self.processes[action.replica]
                self._note(faults_of(action, process, len(self._by_model[process.model.id])))
            carry_out = self._record(action)
            if not self.loses_order(action):
                self.after(ORDER_S, carry_out)

    def _record(self, action: Action) -> Callable[[], None]:
        """Write the order down, as the loader does before it sends it. Returns what carries it out."""
        match action:
            case Start():
                self.machines[action.node].loads.append(self.now)
                name = f"{action.model}-{next(self._names)}"
                self.reservations[name] = Reservation(
                    replica=name,
                    model=action.model,
                    node=action.node,
                    devices=action.devices,
                    mib=action.mib,
                    slot=action.slot,
                    expires_at=self.now + RESERVATION_S,
                )
                self.starts.append((self.now, action.model))
                self.asked_for.scaled_at[action.model] = self.now
                return lambda: self._begin(name, action)
            case MarkFailed():
                known = self.failures[action.model]
                return lambda: self.failures.update({action.model: replace(known, given_up=True)})
            case _:
                process = self.processes[action.replica]
                process.told = GOES_TO[type(action)]
                process.told_at = self.now
                self.asked_for.scaled_at[process.model.id] = self.now
                return lambda: self._carry_out(action)

    def _carry_out(self, action: Drain | Stop | Sleep | Wake) -> None:
        if (process := self.processes.get(action.replica)) is None:
            return
        state = process.state
        match action:
            case Drain() if state not in ENDING:
                process.state = ReplicaState.DRAINING
                self._rest(process)
            case Stop():
                self.after(EXIT_S, lambda: self._gone(process, ReplicaState.STOPPED))
            case Sleep() if state is ReplicaState.READY:
                process.falls_asleep = True
                self._rest(process)
            case Wake() if state is ReplicaState.SLEEPING:
                process.hold(process.mib)
                self._note(over_committed(self.cards.values()))
                self.after(WAKE_S, lambda: self._ready(process))
            case _:
                pass

    def _begin(self, name: str, action: Start) -> None:
        if not self.machines[action.node].alive:
            return
        cards = tuple(card for card in self.cards.values() if card.place.node == action.node)
        process = Process(
            id=name,
            model=self.models[action.model],
            slot=action.slot,
            cards=tuple(card for card in cards if card.place.device in action.devices),
            mib=action.mib,
            started_at=self.now,
            can_sleep=self.can_sleep,
        )
        self.reservations.pop(name, None)
        self.processes[name] = process
        self._by_model[action.model].append(process)
        self.after(process.model.load_s / 2, lambda: self._fill(process))
        self.after(process.model.load_s, lambda: self._ready(process))

    def _fill(self, process: Process) -> None:
        if process.id in self.processes:
            process.hold(process.mib)
            self._note(over_committed(self.cards.values()))

    def _ready(self, process: Process) -> None:
        if process.id not in self.processes or process.state not in (ReplicaState.STARTING, ReplicaState.SLEEPING):
            return
        if process.state is ReplicaState.STARTING and self.fails_load(process):
            self._load_failed(process)
            return
        self.failures.pop(process.model.id, None)
        process.state, process.ready_at = ReplicaState.READY, self.now
        machine = self.machines[process.node]
        machine.reliability = machine.reliability.succeeded(self.now)
        self._pull(process.model.id)

    def _load_failed(self, process: Process) -> None:
        self.failures[process.model.id] = failed_again(process, self.failures.get(process.model.id), self.now)
        self._gone(process, ReplicaState.FAILED)

    def _gone(self, process: Process, state: ReplicaState) -> None:
        if process.id not in self.processes:
            return
        if process.running:
            self._note([f"{process.id} ended with work in flight"])
        process.state = state
        process.hold(0)
        del self.processes[process.id]
        self._by_model[process.model.id].remove(process)
        self._nudge()

    def _note(self, faults: Iterable[str]) -> None:
        self.wrong += [f"{self.now:.1f}: {fault}" for fault in faults]
