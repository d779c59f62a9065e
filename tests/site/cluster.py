"""A cluster in virtual time: requests come, the planner plans, its orders take as long as real ones.

Deterministic for a given seed and calls. Everything that must never be (a device that holds
more than it has, a replica ended with work in flight, a pinned one sent away) is
noted in `wrong`, with the time and what was the matter.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.site.machines import Card, Machine, Process, Request
from workers.placement.actions import Action, Drain, MarkFailed, Plan, Sleep, Start, Stop, Wake
from workers.placement.facts import Demand, Facts, LoadFailures, Model, Reservation, Rollout
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
        self.queues: dict[str, deque[Request]] = defaultdict(deque)
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
        self._last_request: dict[str, float] = {}
        self._scaled_at: dict[str, float] = {}
        self._peaks: dict[str, deque[tuple[float, int]]] = defaultdict(deque)
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
            demands=tuple(self._demand(model) for model in self.models),
            replicas=tuple(process.fact() for process in self.processes.values()),
            devices=tuple(card.fact(self.now) for card in self.cards.values()),
            nodes=tuple(machine.fact() for machine in self.machines.values()),
            reservations=tuple(self.reservations.values()),
            failures=tuple(self.failures.values()),
            rollouts=self.rollouts,
            limits=self.limits,
        )

    # Requests.

    def _arrive(self, request: Request) -> None:
        self.asked += 1
        self._last_request[request.model] = self.now
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

    def _look_again(self, when: float) -> None:
        """Plan at `when`, unless the next tick comes first anyway."""
        if when < self._next_tick_at:
            self.at(when, self._nudge)

    def _wake_loader(self) -> None:
        self._nudged = False
        self._plan()

    def _plan(self) -> None:
        facts = self.facts()
        began = time.thread_time()
        self.last_plan = plan(facts, self.now)
        self.plan_s.append(time.thread_time() - began)
        if self.last_plan.again_at is not None:
            self._look_again(self.last_plan.again_at)
        for action in self.last_plan.actions:
            self.actions[type(action).__name__] += 1
            self._check(action)
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
                self._scaled_at[action.model] = self.now
                return lambda: self._begin(name, action)
            case MarkFailed():
                known = self.failures[action.model]
                return lambda: self.failures.update({action.model: replace(known, given_up=True)})
            case _:
                process = self.processes[action.replica]
                process.told = _GOES_TO[type(action)]
                process.told_at = self.now
                self._scaled_at[process.model.id] = self.now
                return lambda: self._carry_out(action)

    def _carry_out(self, action: Drain | Stop | Sleep | Wake) -> None:
        if (process := self.processes.get(action.replica)) is None:
            return
        state = process.state
        match action:
            case Drain() if state not in _ENDING:
                process.state = ReplicaState.DRAINING
                self._rest(process)
            case Stop():
                self.after(EXIT_S, lambda: self._gone(process, ReplicaState.STOPPED))
            case Sleep() if state is ReplicaState.READY:
                process.falls_asleep = True
                self._rest(process)
            case Wake() if state is ReplicaState.SLEEPING:
                process.hold(process.mib)
                self._watch_memory()
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
            self._watch_memory()

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
        known = self.failures.get(process.model.id)
        self.failures[process.model.id] = LoadFailures(
            model=process.model.id,
            count=1 + (known.count if known else 0),
            last_at=self.now,
            reason="it did not load",
            nodes=frozenset({process.node}) | (known.nodes if known else frozenset()),
        )
        self._gone(process, ReplicaState.FAILED)

    def _gone(self, process: Process, state: ReplicaState) -> None:
        if process.id not in self.processes:
            return
        if process.running:
            self.wrong.append(f"{self.now:.1f}: {process.id} ended with work in flight")
        process.state = state
        process.hold(0)
        del self.processes[process.id]
        self._by_model[process.model.id].remove(process)
        self._nudge()

    # What must never be.

    def _check(self, action: Action) -> None:
        if not isinstance(action, Drain | Stop | Sleep):
            return
        process = self.processes[action.replica]
        if process.model.pinned and len(self._by_model[process.model.id]) <= process.model.floor:
            self.wrong.append(f"{self.now:.1f}: pinned {process.id} was sent away: {action.why}")
        if process.state is ReplicaState.STARTING and not isinstance(action, Stop):
            self.wrong.append(f"{self.now:.1f}: {process.id} was sent away while it loaded: {action.why}")
        # One whose order got lost may have taken work before it is told again. It finishes that.
        allowed = not isinstance(action, Stop) and action.why == "ordered before"
        allowed |= isinstance(action, Drain) and "too long" in action.why
        if process.running and not allowed:
            self.wrong.append(f"{self.now:.1f}: {process.id} was sent away with work in flight: {action.why}")

    def _watch_memory(self) -> None:
        for card in self.cards.values():
            if card.used_mib + card.foreign_mib > card.total_mib:
                self.wrong.append(f"{self.now:.1f}: {card.place} holds {card.used_mib} of {card.total_mib} MiB")

    # What the loader knows.

    def _demand(self, model: str) -> Demand:
        queue = self.queues[model]
        interactive = [request for request in queue if not request.bulk]
        bulk = [request for request in queue if request.bulk]
        running = sum(len(process.running) for process in self._by_model[model])
        return Demand(
            model=model,
            interactive=len(interactive),
            bulk=len(bulk),
            interactive_oldest_s=self.now - interactive[0].arrived_at if interactive else 0.0,
            bulk_oldest_s=self.now - bulk[0].arrived_at if bulk else 0.0,
            last_request_at=self._last_request.get(model),
            peak=self._peak(model, running + len(queue)),
            scaled_at=self._scaled_at.get(model),
        )

    def _peak(self, model: str, current: int) -> int:
        window = self._peaks[model]
        while window and window[-1][1] <= current:
            window.pop()
        window.append((self.now, current))
        while window[0][0] < self.now - self.limits.peak_window_s:
            window.popleft()
        return window[0][1]


_GOES_TO = {
    Drain: ReplicaState.DRAINING,
    Stop: ReplicaState.STOPPED,
    Sleep: ReplicaState.SLEEPING,
    Wake: ReplicaState.READY,
}
_ENDING = (ReplicaState.DRAINING, ReplicaState.STOPPED, ReplicaState.FAILED)
