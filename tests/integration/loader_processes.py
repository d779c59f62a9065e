"""Agent, control worker and beat as real processes on one stack, killed and started again one by one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks import keys
from tasks.failpoints import EXIT_CODE, Point
from tasks.gateway.redis_dispatch import RedisDispatcher
from tasks.messages import Done
from tasks.node.site import site
from tasks.records.orders import OrderStore
from tasks.requests.dispatch import Answer
from tests.processes import of_state_dir
from tests.stack import REPOSITORY, Stack, chat, read, text_of
from tests.waiting import wait_until
from workers import launcher
from workers.launcher.base import CELERY, WORKER_FLAGS, Launcher
from workers.launcher.ending import end_all
from workers.launcher.site import Site

NODE = "n"
COMMANDS = {
    "agent": ("-A", "tasks.node_step", "worker", "-P", "solo", "-Q", f"node.{NODE}", "-n", "agent@%h", *WORKER_FLAGS),
    "control": ("-A", "tasks.app", "worker", "-P", "solo", "-Q", "loader,default", "-n", "control@%h", *WORKER_FLAGS),
    "beat": ("-A", "tasks.app", "beat", "--pidfile=", "--loglevel", "WARNING"),
    "second beat": ("-A", "tasks.app", "beat", "--pidfile=", "--loglevel", "WARNING"),
}
ALL = ("agent", "control", "beat")


@dataclass
class LoaderProcesses:
    """What decides about models and runs them. A service that a test has killed is started again by the test."""

    stack: Stack
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        return site(self.stack.settings)

    def start(self, *names: str, failpoint: Point | None = None) -> None:
        for name in names:
            assert name not in self.services or self.services[name].poll() is not None
            env = {**os.environ, **self.stack.env}
            if failpoint is not None:
                env["CELERITY_FAILPOINT"] = failpoint
            with (self.stack.folder / f"{name}.log").open("ab") as log:
                self.services[name] = subprocess.Popen(
                    [*CELERY, *COMMANDS[name]], stdout=log, stderr=log, cwd=REPOSITORY, env=env
                )

    def kill(self, *names: str) -> None:
        for name in names:
            self.services[name].kill()
            self.services[name].wait()

    def restart(self, name: str, *, failpoint: Point | None = None) -> None:
        self.kill(name)
        self.start(name, failpoint=failpoint)

    def dies_at_its_failpoint(self, name: str) -> None:
        wait_until(lambda: self.services[name].poll() is not None, f"{name} to die", timeout_s=60)
        assert self.services[name].returncode == EXIT_CODE, (self.stack.folder / f"{name}.log").read_text()

    def logged(self, message: str, *names: str) -> bool:
        """Say whether each of `names` has ever logged it."""
        return all(message in (self.stack.folder / f"{name}.log").read_text() for name in names)

    def ask(self, model: str, dispatcher: RedisDispatcher) -> Answer:
        call = chat("hello", model=model, max_tokens=2, gateway=dispatcher.gateway_id, queue_wait_s=120)
        return dispatcher.submit(call, max_depth=100)

    def ticks(self, count: int) -> None:
        """Wait until beat has had the loader look `count` times from the beginning to the end."""
        every_s = self.stack.settings.loader_tick_s
        with contextlib.closing(self.stack.client()) as client:

            def ran() -> float:
                return float(client.get(keys.LOADER_RAN) or 0)

            began = ran()
            # Looks in between, since something has happened, do not count.
            wait_until(lambda: ran() >= began + count * every_s * 0.9, f"{count} ticks", timeout_s=60)

    def replicas(self, model: str) -> set[str]:
        """Return the replicas of `model` that run, as the kernel knows them."""
        with closing_launcher(self.site) as known:
            return {it.name for it in known.list() if it.model == model and it.exit_code() is None}

    def ever(self, model: str) -> int:
        """Return how many replicas of `model` were ever launched: each has a log of its own."""
        return len(list(self.site.logs.glob(f"{model}-*.log")))

    def ordered(self, model: str) -> set[str]:
        with contextlib.closing(self.stack.client()) as client:
            return {order.replica for order in OrderStore(client).all() if order.model == model}

    def orphans(self) -> list[list[str]]:
        """Return the commands of processes of this site that nobody here would end."""
        services = {service.pid for service in self.services.values() if service.poll() is None}
        with closing_launcher(self.site) as known:
            listed = {it.pid for it in known.list()}
        return [
            process.cmdline()
            for process in of_state_dir(self.stack.folder)
            if not services & {process.pid, *(parent.pid for parent in process.parents())}
            and os.getsid(process.pid) not in listed
        ]

    def is_tidy(self, model: str, *, replicas: int) -> None:
        """Two ticks later: so many replicas of `model` run, each has its order, and nothing runs beside."""
        self.ticks(2)
        running = self.replicas(model)
        assert len(running) == replicas, running
        assert self.ordered(model) == running
        wait_until(lambda: not self.orphans(), f"nobody to be orphaned: {self.orphans()}")

    def close(self) -> None:
        for service in self.services.values():
            if service.poll() is None:
                service.kill()
            service.wait()
        with closing_launcher(self.site) as known:
            end_all(known, grace_s=0)


def answered(answer: Answer) -> None:
    events = read(answer, timeout_s=90)
    assert isinstance(events[-1], Done), events
    assert text_of(events) == "2cf2.0 2cf2.1 "


@contextlib.contextmanager
def closing_launcher(at: Site) -> Iterator[Launcher]:
    known = launcher.create(at)
    try:
        yield known
    finally:
        known.close()
