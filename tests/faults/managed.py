"""The system with its loader: nobody but the node agent starts workers, and only as the loader orders."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from tasks import keys
from tasks.node.site import site
from tasks.queues import LOADER_QUEUE, node_queue
from tasks.records.nodes import NodeFacts, NodeStore
from tasks.records.orders import Order, OrderStore
from tasks.records.replicas import ReplicaFacts, ReplicaState, ReplicaStore
from tests.faults.hardware import Hardware
from tests.faults.launched import Launched, Launcher
from tests.faults.policy import Policy
from tests.faults.system import RESPAWN_S, Setup, System
from tests.waiting import wait_until
from workers.launcher.base import CELERY, WORKER_FLAGS, Command
from workers.launcher.roster import Roster, leader
from workers.launcher.site import Site

AGENT, CONTROL, BEAT = "agent", "control", "beat"
NODE = "faults"
# A beat is two seconds.
TWO_TICKS_S = 4.0


@dataclass(eq=False)
class Service:
    """One of the loader's own processes, started again a second after its death as `celerity up` does."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    process: Launched
    respawn: bool = True
    ended_at: float | None = None
    exits: list[int] = field(default_factory=list)


class Managed(System):
    """Its replicas are no slots: they come and go as they are ordered."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        super().__init__(folder, setup)
        self.hardware = Hardware(folder, setup)
        # Containers are the engine's, and end with it.
        self.launcher = Launcher(folder / "logs", replicas_of=None if setup.docker else self.site)
        self.redis.launcher = self.launcher
        self.services: list[Service] = []
        self.policy = Policy(self)
        self._service_watch = threading.Thread(target=self._keep_up, name="services", daemon=True)

    @property
    def site(self) -> Site:
        return site(self.settings(**self.hardware.settings()))

    def start(self) -> None:
        self.hardware.start()
        self.redis.start()
        for number in range(self.setup.gateways):
            self.gateways.append(self._new_gateway(number))
        self.add_agent()
        self.add_control()
        self.add_beat()
        self._watch.start()
        self._service_watch.start()
        self.policy.start()
        self.wait_ready(timeout_s=120)

    def close(self) -> None:
        self.policy.stop()
        self._closing.set()
        if self._service_watch.is_alive():
            self._service_watch.join()
        super().close()
        self.hardware.close()

    def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        super().wait_ready(timeout_s=timeout_s)
        pinned = [spec.id for spec in self.registry.models.values() if spec.pinned]
        wait_until(
            lambda: all(self.ready_replicas(model) for model in pinned), "what is pinned to be up", timeout_s=timeout_s
        )

    # -- the loader's processes ----------------------------------------------------------

    def add_agent(self, **env: str) -> Service:
        return self._add(AGENT, "tasks.node_step", ("-Q", node_queue(NODE)), env)

    def add_control(self, **env: str) -> Service:
        return self._add(CONTROL, "tasks.app", ("-Q", f"{LOADER_QUEUE},default"), env)

    def add_beat(self) -> Service:
        argv = (*CELERY, "-A", "tasks.app", "beat", "--pidfile=", "--loglevel", "WARNING")
        return self._start_service(BEAT, argv, {})

    def service(self, name: str) -> Service:
        """Return the first of that name."""
        return next(service for service in self.services if service.name == name)

    def remove(self, service: Service) -> None:
        """Kill a service for good."""
        service.respawn = False
        service.process.kill()

    def restart(self, service: Service, **env: str) -> None:
        """Start a service again that has ended, or was killed for good; with other settings where some are given."""
        with self._lock:
            service.env = service.env | env
            service.process = self._launch_service(service.name, service.argv, service.env)
            service.respawn, service.ended_at = True, None

    # -- what the loader has done --------------------------------------------------------

    def replicas(self, model: str) -> list[ReplicaFacts]:
        with self.client() as client:
            return [facts for facts in ReplicaStore(client).all() if facts.model == model]

    def ready_replicas(self, model: str) -> list[ReplicaFacts]:
        try:
            return [facts for facts in self.replicas(model) if facts.state is ReplicaState.READY]
        except (redis.RedisError, OSError):
            return []

    def orders(self) -> list[Order]:
        with self.client() as client:
            return OrderStore(client).all()

    def loader_age_s(self) -> float:
        """Return how long ago the loader looked; without end when it never did."""
        with self.client() as client:
            ran = client.get(keys.LOADER_RAN)
        return time.time() - float(ran) if ran else float("inf")

    def node(self) -> NodeFacts:
        with self.client() as client:
            return NodeStore(client).of(NODE)

    def replica_processes(self) -> dict[int, str]:
        """Return the engine workers that run, by process id: their replica ids."""
        records = Roster(self.site.replicas).all()
        return {record.pid: record.replica for record in records if leader(record) is not None}

    def known_groups(self) -> set[int]:
        groups = super().known_groups() | set(self.replica_processes())
        groups |= {service.process.pid for service in self.services if service.process.runs}
        return groups | self._helpers()

    def _helpers(self) -> set[int]:
        """Return the groups of those who start and watch processes for others."""
        found = set()
        for pid in self.pids():
            with contextlib.suppress(psutil.Error, OSError):
                if any("workers.launcher." in word for word in psutil.Process(pid).cmdline()):
                    found.add(os.getpgid(pid))
        return found

    def _add(self, name: str, app: str, queues: tuple[str, ...], env: dict[str, str]) -> Service:
        number = sum(1 for service in self.services if service.name == name)
        argv = (*CELERY, "-A", app, "worker", "-P", "solo", *queues, "-n", f"{name}{number}@%h", *WORKER_FLAGS)
        argv = tuple("INFO" if part == "WARNING" else part for part in argv)
        return self._start_service(name, argv, env)

    def _start_service(self, name: str, argv: tuple[str, ...], env: dict[str, str]) -> Service:
        whole = self.settings(**self.hardware.settings()).to_env() | self.hardware.environ() | env
        with self._lock:
            service = Service(name, argv, whole, self._launch_service(name, argv, whole))
            self.services.append(service)
        return service

    def _launch_service(self, name: str, argv: tuple[str, ...], env: dict[str, str]) -> Launched:
        return self.launcher.start(Command(name=name, argv=argv, env=env, log=name))

    def _keep_up(self) -> None:
        while not self._closing.wait(0.05):
            with self._lock:
                for service in self.services:
                    if (code := service.process.exit_code()) is None:
                        continue
                    now = time.monotonic()
                    if service.ended_at is None:
                        service.ended_at = now
                        service.exits.append(code)
                    if service.respawn and now - service.ended_at >= RESPAWN_S:
                        service.process = self._launch_service(service.name, service.argv, service.env)
                        service.ended_at = None
