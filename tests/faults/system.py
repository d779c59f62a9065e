"""The whole system in a folder of its own: Redis, gateways, engine workers, and somebody who starts the dead again."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import redis

from tasks import keys
from tasks.queues import BATCH_QUEUE, Priority, model_queue, queue_list
from tasks.settings import Settings
from tests.faults.launched import Launched, Launcher
from tests.faults.processes import Gateway, Slot
from tests.faults.proxy import Proxy
from tests.faults.redis_server import RedisServer
from tests.stack import REPOSITORY, free_port
from tests.waiting import wait_until
from workers.launcher.base import CELERY, WORKER_FLAGS, Command, new_replica_id, worker_command
from workers.registry import Registry

# `celerity up` waits a second before it starts a dead worker again, and ever longer after
# that; here every death is of our making, so it is always a second.
RESPAWN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a row needs. Two rows with equal setups may share one system."""

    models: str
    workers: tuple[tuple[str, int], ...]
    """Model and number of workers, in the order of their start."""
    gateways: int = 2
    appendonly: bool = False
    proxied: bool = False
    """Every worker and every gateway reaches Redis through a proxy listener of its own."""
    env: tuple[tuple[str, str], ...] = ()
    moved_clock: bool = False
    """Whether the clocks of the first worker and the first gateway can be moved."""
    managed: bool = False
    """Whether the loader decides what runs; `workers` only names the model that is asked for, and the other one."""
    gpus: str = ""
    """What the stand-in for NVIDIA's driver says there is, in the words of nvml_double.c; empty: none."""
    docker: bool = False
    """Whether replicas run in containers, of an engine of the row's own behind a proxy."""


class System:
    """Everything that runs. The workers are watched by a thread, hence the lock."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.folder, self.setup = folder, setup
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "models.yaml").write_text(setup.models)
        self.registry = Registry.load(folder / "models.yaml")
        self.launcher = Launcher(folder / "logs")
        self.redis = RedisServer(folder / "redis", self.launcher, appendonly=setup.appendonly)
        self.proxy: Proxy | None = None
        self.gateways: list[Gateway] = []
        self.slots: list[Slot] = []
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._respawn, name="respawn", daemon=True)
        self._bulk: Launched | None = None
        self._listeners = 0
        self._turn = 0

    def start(self) -> None:
        """Return once every worker takes work and every gateway is healthy."""
        self.redis.start()
        if self.setup.proxied:
            count = self.setup.gateways + sum(number for _, number in self.setup.workers)
            self.proxy = Proxy(self.redis.port, count)
        for number in range(self.setup.gateways):
            self.gateways.append(self._new_gateway(number))
        for model, number in self.setup.workers:
            for _ in range(number):
                self.add_worker(model)
        self._watch.start()
        self.wait_ready(timeout_s=180)

    def close(self) -> None:
        self._closing.set()
        if self._watch.is_alive():
            self._watch.join()
        if self.proxy is not None:
            self.proxy.close()
        self.launcher.close()

    # -- Redis ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Yield a client that goes to Redis itself, whatever the proxy does."""
        with contextlib.closing(self.redis.client()) as client:
            yield client

    def settings(self, **env: str) -> Settings:
        base = {
            "CELERITY_STATE_DIR": str(self.folder),
            "CELERITY_REDIS_URL": self.redis.url,
            "CELERITY_MODELS": str(self.folder / "models.yaml"),
            "CELERITY_NODE_ID": "faults",
        }
        return Settings.from_env(base | dict(self.setup.env) | env)

    def waiting(self, model: str) -> int:
        """Return how many calls stand in the model's queue."""
        with self.client() as client:
            return sum(int(client.llen(queue_list(model_queue(model), priority))) for priority in Priority)

    # -- workers -------------------------------------------------------------------------

    def add_worker(self, model: str, **env: str) -> Slot:
        spec = self.registry.resolve(model)
        assert spec is not None
        listener, url = self._listener()
        settings_env = self.settings(CELERITY_REDIS_URL=url).to_env() | env | self._clock(first=not self.slots)
        with self._lock:
            slot = Slot(spec, settings_env, listener, self._launch(spec.id, settings_env))
            self.slots.append(slot)
        return slot

    def workers(self, model: str) -> list[Slot]:
        return [slot for slot in self.slots if slot.spec.id == model]

    def ready(self, slot: Slot) -> bool:
        """Say whether the slot's present worker takes work."""
        if not slot.alive:
            return False
        try:
            with self.client() as client:
                return client.hget(keys.replica(slot.replica_id), "state") == b"ready"
        except (redis.RedisError, OSError):
            return False

    def ready_slots(self, model: str) -> list[Slot]:
        return [slot for slot in self.workers(model) if self.ready(slot)]

    def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        wait_until(
            lambda: all(self.ready(s) for s in self.slots if s.respawn), "all workers to be ready", timeout_s=timeout_s
        )
        wait_until(lambda: all(g.healthy() for g in self.gateways), "all gateways to be healthy", timeout_s=timeout_s)

    def stop_worker(self, slot: Slot, *, respawn: bool = False) -> None:
        """Ask the slot's worker to stop; does not wait."""
        slot.respawn = respawn
        slot.process.signal(signal.SIGTERM)

    def start_worker(self, slot: Slot) -> None:
        """Start a worker in a slot that was stopped for good."""
        with self._lock:
            assert slot.process.exit_code() is not None, "it still runs"
            slot.process = self._launch(slot.spec.id, slot.env)
            slot.respawn, slot.seen_dead = True, False

    def in_flight(self, model: str) -> int:
        """Return what the model's workers say they run."""
        return sum(self.in_flight_of(slot) for slot in self.workers(model))

    def in_flight_of(self, slot: Slot) -> int:
        with self.client() as client:
            return int(client.hget(keys.replica(slot.replica_id), "in_flight") or 0)

    # -- gateways ------------------------------------------------------------------------

    def port(self) -> int:
        """Return the port of the next gateway in turn."""
        with self._lock:
            self._turn += 1
            usable = [gateway for gateway in self.gateways if gateway.in_rotation] or self.gateways
            return usable[self._turn % len(usable)].port

    def start_gateway(self, gateway: Gateway) -> None:
        """Start a gateway again at its port, and return once it is healthy."""
        with self._lock:
            assert gateway.process.exit_code() is not None, "it still runs"
            gateway.process = self._launch_gateway(gateway.number, gateway.env)
        wait_until(gateway.healthy, "the gateway to be healthy", timeout_s=60)

    # -- bulk work ------------------------------------------------------------------------

    def start_bulk(self) -> Launched:
        """Start a bulk worker; nobody starts it again."""
        argv = (*CELERY, "-A", "tasks.bulk_step", "worker", "-P", "solo", "-Q", BATCH_QUEUE, "-n", "bulk@%h")
        command = Command(name="bulk", argv=(*argv, *WORKER_FLAGS), env=self.settings().to_env(), log="bulk")
        self._bulk = self.launcher.start(command)
        return self._bulk

    # -- processes -----------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return all processes that belong to the system, whoever started them."""
        mine = f"CELERITY_STATE_DIR={self.folder}"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().decode("utf-8", "replace")
                if mine in environ.split("\0") and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def known_groups(self) -> set[int]:
        """Return the process groups that are meant to run."""
        processes = [slot.process for slot in self.slots] + [gateway.process for gateway in self.gateways]
        processes += [self._bulk] if self._bulk is not None else []
        return {process.pid for process in processes if process.exit_code() is None}

    def _clock(self, *, first: bool) -> dict[str, str]:
        if not (first and self.setup.moved_clock):
            return {}
        folder = REPOSITORY / "tests" / "faults" / "clock"
        return {"PYTHONPATH": str(folder), "FAULTS_CLOCK": str(self.folder / "clock")}

    def _listener(self) -> tuple[int | None, str]:
        if self.proxy is None:
            return None, self.redis.url
        number, self._listeners = self._listeners, self._listeners + 1
        return number, self.redis.url_at(self.proxy.ports[number])

    def _launch(self, model: str, env: dict[str, str]) -> Launched:
        spec = self.registry.resolve(model)
        assert spec is not None
        replica_id = new_replica_id(model)
        command = worker_command(spec, replica_id, env, log=replica_id)
        # INFO, so that a row that failed can be read.
        argv = tuple("INFO" if part == "WARNING" else part for part in command.argv)
        return self.launcher.start(replace(command, argv=argv, env=command.env))

    def _new_gateway(self, number: int) -> Gateway:
        listener, url = self._listener()
        env = self.settings(CELERITY_REDIS_URL=url, CELERITY_PORT=str(free_port())).to_env()
        env |= self._clock(first=number == 0)
        return Gateway(number, int(env["CELERITY_PORT"]), env, listener, self._launch_gateway(number, env))

    def _launch_gateway(self, number: int, env: dict[str, str]) -> Launched:
        argv = (sys.executable, "-m", "gunicorn", "-c", str(REPOSITORY / "deploy" / "gunicorn.conf.py"))
        return self.launcher.start(Command(name=f"gateway-{number}", argv=argv, env=env, log=f"gateway-{number}"))

    def _respawn(self) -> None:
        while not self._closing.wait(0.05):
            with self._lock:
                now = time.monotonic()
                for slot in self.slots:
                    code = slot.process.exit_code()
                    if code is None:
                        continue
                    if not slot.seen_dead:
                        slot.seen_dead = True
                        slot.exits.append((now, code))
                    if slot.respawn and now - slot.exits[-1][0] >= RESPAWN_S:
                        slot.process = self._launch(slot.spec.id, slot.env)
                        slot.seen_dead = False
