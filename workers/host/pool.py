"""A Celery pool that runs tasks as coroutines on one event loop.

Celery keeps the main thread: its hub takes messages, acknowledges them, fires time limits.
A second thread runs one asyncio loop, on which the engine lives. A task is accepted on
the hub, its `run` coroutine goes to the loop, and when it ends its outcome comes back
(`Posted`). Only then does Celery's own tracer run, on the hub, and find the outcome there
(`CoroutineTask`). So all of Celery's code stays in one thread and nothing ever blocks the
engine's loop.

Named in the environment of an engine worker:
`CELERY_CUSTOM_WORKER_POOL=workers.host.pool:EnginePool celery -A tasks.app worker -P custom`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any

import uvloop
from celery.concurrency.base import BasePool
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from kombu.asynchronous import get_event_loop

from workers.host.appetite import Peak, Pull, pull
from workers.host.coroutine_task import Outcome, body_of, with_outcome
from workers.host.job import Job, Jobs
from workers.host.posted import Posted
from workers.host.resident import STOPPING, TERMINATED, TIME_LIMIT, Resident

log = logging.getLogger(__name__)

# A worker whose engine died must be gone within this, whatever still hangs.
_DEATH_S = 3.5
_CLOSE_S = 30.0
# Who reads an answer before asking on is still there: bulk work that comes back at once is put back again.
_AROUND_S = 2.0
EX_FAILURE = 1


class EnginePool(BasePool):  # type: ignore[misc]  # celery ships no types
    """One engine, any number of coroutines."""

    signal_safe = True
    body_can_be_buffer = True
    task_join_will_block = True

    def on_start(self) -> None:
        """Load the engine and return when it can serve; only then does the consumer start."""
        self._hub: Any = get_event_loop()
        self._jobs = Jobs()
        self._peak = Peak()
        self._around = Peak(_AROUND_S)
        self._pids = itertools.count(1)
        self._roomy = False
        self._dying = False
        self._hurried = False
        self._closed = False
        self._loop = uvloop.new_event_loop()
        self._posted = Posted(self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._thread.start()
        self.resident: Resident = symbol_by_name(self.app.conf.engine_resident)(self.die)
        self.app.resident = self.resident
        self._start_resident()

    def register_with_event_loop(self, hub: Any) -> None:
        self._posted.register(hub)
        # The hub looks whether it was told to stop only when it wakes, and a signal alone does not wake it.
        signal.set_wakeup_fd(self._posted.fileno(), warn_on_full_buffer=False)
        self.resident.consuming()

    def on_apply(  # noqa: PLR0917 - the signature is Celery's
        self,
        target: Callable[..., Any],
        args: Any,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        **_: Any,
    ) -> Job:
        job = Job(next(self._pids), target, tuple(args), callback, timeout_callback, self.terminate_job)
        self._jobs.add(job)
        coroutine = body_of(self.app.tasks[args[0]], job.request)
        limits = [(soft_timeout, self._on_soft_limit), (timeout, self._on_hard_limit)]
        self._loop.call_soon_threadsafe(self._spawn, job, coroutine, limits)
        # While the loop wakes. Whatever becomes of the task comes here, and so later.
        if accept_callback:
            accept_callback(job.pid, job.started_at)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        # Celery writes the task's end itself, so no callback of ours may follow:
        # it would turn REVOKED into FAILURE.
        if job := self._jobs.get(pid):
            job.silent = True
            self._cancel(job, TERMINATED)

    def on_close(self) -> None:
        self.resident.draining()

    def on_stop(self) -> None:
        """Wait for every task, with a limit, then close the engine.

        The hub does not run any more, so its timers, our outcomes and the acks that
        follow from them are pumped here; without that, a drain that ends in SIGKILL
        would run every finished task again.
        """
        give_up = time.monotonic() + (0 if self._hurried else self.app.conf.engine_drain_s)
        while self._jobs and not self._dying:
            if time.monotonic() > give_up:
                log.warning("drain ended early", extra={"event": "drain_timeout", "tasks": len(self._jobs)})
                break
            self.pump()
        self.on_terminate()

    def on_terminate(self) -> None:
        """Abort what still runs, and close the engine."""
        for job in self._jobs.all():
            self._cancel(job, STOPPING)
        give_up = time.monotonic() + 2.0
        while self._jobs and time.monotonic() < give_up:
            self.pump()
        self._close_resident()
        if self._dying:
            # To take an engine's libraries apart costs the interpreter seconds.
            logging.shutdown()
            os._exit(EX_FAILURE)

    def pump(self) -> None:
        """Do what the hub does for tasks, while it does not run."""
        self._hub.fire_timers()
        while self._posted:
            self._posted.do()
        for callback in self._hub._pop_ready():
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - process boundary: the others must be called
                log.error("callback failed: %r", error, extra={"event": "callback_failed"})
        time.sleep(0.01)

    def hurry(self) -> None:
        """Give up what runs when the pool stops, rather than wait for it."""
        self._hurried = True

    def grow(self, n: int = 1) -> None:
        """Do nothing: the engine decides how many requests it holds. Flower's button calls this."""

    shrink = grow

    @property
    def num_processes(self) -> int:
        """Return the limit on tasks held; Celery takes a message only below it (`worker_disable_prefetch`)."""
        return 0 if self._dying else self.resident.limit()

    def pull(self) -> Pull:
        """Return what is to be taken now."""
        bulk = self._jobs.bulk
        # What was taken and is not run yet, having been sent with a delay, takes a seat all the same.
        others = max(self._jobs.interactive, len(worker_state.reserved_requests) - bulk)
        now, seats = time.monotonic(), self.num_processes
        around = self._around.note(self._jobs.interactive, now)
        self._roomy = not bulk and others * 2 <= seats
        return pull(
            self.resident.shares,
            seats=seats,
            interactive=others,
            bulk=bulk,
            expected=self._peak.note(others, now),
            crowded=self.resident.crowded(),
            room=self.resident.room_beside(around) if around else None,
        )

    def die(self, reason: str) -> None:
        """End this process non-zero: at once when it can, by force when it hangs. From any thread."""
        if self._dying:
            return
        self._dying = True
        log.critical("worker dies: %s", reason, extra={"event": "worker_dies", "reason": reason})
        threading.Timer(_DEATH_S, os._exit, (EX_FAILURE,)).start()
        self._hub.call_soon(self._stop_worker)

    def _stop_worker(self) -> None:
        # The coroutines fail by themselves, their engine being dead; `on_stop` hands that in.
        worker_state.should_stop = EX_FAILURE

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "max-concurrency": self.resident.limit(),
            "running": len(self._jobs),
            "held": {"interactive": self._jobs.interactive, "bulk": self._jobs.bulk},
            "processes": [os.getpid()],
            "timeouts": [None, None],
            "engine": self.resident.facts(),
        }

    def _start_resident(self) -> None:
        starting = asyncio.run_coroutine_threadsafe(self.resident.start(), self._loop)
        try:
            while not starting.done():
                if worker_state.should_stop is not None or worker_state.should_terminate is not None:
                    starting.cancel()
                    raise SystemExit(0)
                futures.wait([starting], 0.05)
            starting.result()
        except SystemExit:
            self._close_resident()
            raise
        except Exception as error:  # process boundary: whatever stops the engine ends the worker
            log.critical("engine did not start: %s", error, extra={"event": "engine_start_failed"})
            self._close_resident()
            raise SystemExit(EX_FAILURE) from error

    def _close_resident(self) -> None:
        if self._closed:
            return  # SIGQUIT stops the pool, and then terminates it
        self._closed = True
        closing = asyncio.run_coroutine_threadsafe(self.resident.close(), self._loop)
        try:
            closing.result(_CLOSE_S)
        except Exception as error:  # noqa: BLE001 - process boundary: the process ends either way
            log.error("engine did not close: %r", error, extra={"event": "engine_close_failed"})
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _spawn(
        self, job: Job, coroutine: Coroutine[Any, Any, Any], limits: list[tuple[float | None, Callable[..., None]]]
    ) -> None:
        """On the loop: start the coroutine, and send its outcome back when it ends.

        Its time limits run here too: the hub's timers stay in memory, with all they refer
        to, until they are due, however early their task has ended.
        """
        job.task = self._loop.create_task(coroutine)
        job.timers = [
            self._loop.call_later(limit_s, self._posted.post, on_limit, job, limit_s)
            for limit_s, on_limit in limits
            if limit_s
        ]
        if job.stop_reason is not None:
            job.task.cancel(job.stop_reason)
        job.task.add_done_callback(lambda task: self._on_done(job, Outcome.of(task)))

    def _on_done(self, job: Job, outcome: Outcome) -> None:
        for timer in job.timers:
            timer.cancel()
        job.ended_at = time.monotonic()
        # While there is plenty of room nobody waits for this one's. The last of all is finished before the next comes.
        self._posted.post(self._finish, job, outcome, soon=not self._roomy or len(self._jobs) == 1)

    def _cancel(self, job: Job, reason: str) -> None:
        if job.stop_reason is not None:
            return  # a second cancellation would break off what the first one has it write
        job.stop_reason = reason
        self._loop.call_soon_threadsafe(lambda: job.task and job.task.cancel(reason))

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if not self._jobs.remove(job):
            return
        if job.silent:
            return
        failed, result, _ = with_outcome(outcome, job.target, *job.args)
        if job.callback:
            job.callback((failed, result, job.ended_at - job.started_at))

    def _on_soft_limit(self, job: Job, limit_s: float) -> None:
        if job.timeout_callback and job in self._jobs:
            job.timeout_callback(soft=True, timeout=limit_s)
            self._cancel(job, TIME_LIMIT)

    def _on_hard_limit(self, job: Job, limit_s: float) -> None:
        if job.timeout_callback and job in self._jobs:
            job.silent = True  # on_timeout stores the failure and acknowledges
            job.timeout_callback(soft=False, timeout=limit_s)
            self._cancel(job, TIME_LIMIT)
