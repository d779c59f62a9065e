"""`celerity up`: everything on one machine, in the foreground, until it is told to stop.

The shell round the supervisor: it starts the services in order, says what they are at,
and tells Redis how this machine is. What is decided is decided in `restarts` and
`supervisor`; what is run is listed in `services`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time

import redis

from deploy import embedded_redis, preflight, readiness, running, services
from deploy.errors import StartError
from deploy.log_echo import LogEcho
from deploy.progress import Progress
from deploy.restarts import GiveUp
from deploy.supervisor import Died, Phase, Supervisor
from deploy.wakeups import Wakeups
from tasks.connections import command_client
from tasks.nodes import HEARTBEAT_S, NodeFacts, NodeStore
from tasks.reaper import Reaper
from tasks.settings import Settings, embedded_redis_url
from workers.inventory import Inventory
from workers.launcher.base import ServiceLauncher
from workers.launcher.guard import GRACE_S
from workers.launcher.process import ProcessLauncher
from workers.registry import ModelSpec, Registry

_REDIS_START_S = 60.0
_TICK_S = 0.25


def up(settings: Settings, *, verbose: bool = False) -> None:
    """Run until a signal says stop. Raises StartError; whatever was started by then is stopped again."""
    if settings.port == 0:
        settings = dataclasses.replace(settings, port=preflight.free_port(settings.host))
    settings = dataclasses.replace(settings, models=settings.models.absolute())
    with contextlib.ExitStack() as stack:
        stack.enter_context(running.only_one(settings.state_dir))
        registry = preflight.check(settings)
        wakeups = stack.enter_context(Wakeups())
        starter = ProcessLauncher(settings.state_dir / "logs")
        stack.callback(starter.close)
        LocalCluster(settings, registry, starter, wakeups, verbose=verbose).run()


class LocalCluster:
    """One run of `celerity up`."""

    def __init__(
        self, settings: Settings, registry: Registry, starter: ServiceLauncher, wakeups: Wakeups, *, verbose: bool
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._wakeups = wakeups
        self._supervisor = Supervisor(starter)
        self._progress = Progress(sys.stdout, sys.stderr)
        self._echo = LogEcho(settings.state_dir / "logs") if verbose else None
        self._client = command_client(settings.redis_url)
        self._nodes = NodeStore(self._client)
        self._inventory = Inventory(memory_mib=settings.memory_mib)
        self._reaper = Reaper(self._client)
        self._url = readiness.base_url(settings.host, settings.port)
        self._replicas: dict[str, ModelSpec] = {}  # by service name
        self._announced: set[str] = set()
        self._failed: dict[str, str] = {}  # model → why
        self._began = time.monotonic()
        self._beat_at = float("-inf")
        self._gateway_up = False
        self._ready = False

    def run(self) -> None:
        try:
            self._start_redis()
            self._start_rest()
            while not self._wakeups.stop_requests:
                self._tick()
        finally:
            self._stop()

    def _start_redis(self) -> None:
        """Make sure that a Redis answers: the one that was named, else our own."""
        settings, shown = self._settings, without_password(self._settings.redis_url)
        if settings.redis_url != embedded_redis_url(settings.state_dir):
            if not embedded_redis.answers(settings.redis_url):
                raise StartError(f"no Redis answers at {shown}; check CELERITY_REDIS_URL or --redis-url")
            self._progress.say("redis", f"ok, {shown}")
            return
        program = embedded_redis.find_program()
        if program is None:
            raise StartError(
                "no Redis server 6.2 or newer is installed; run `make setup`, install redis-server or valkey-server, "
                "or name one that runs with CELERITY_REDIS_URL"
            )
        embedded_redis.prepare(settings.state_dir)
        embedded_redis.wait_for_predecessor(settings.state_dir, within_s=GRACE_S + 5)
        self._supervisor.start(services.redis(program, settings))
        while not embedded_redis.answers(settings.redis_url):
            self._look_for_deaths()
            if self._wakeups.stop_requests:
                return
            if time.monotonic() - self._began > _REDIS_START_S:
                raise StartError(f"Redis does not answer; see {settings.state_dir / 'logs' / 'redis.log'}")
            self._wakeups.wait(0.05)
        self._progress.say("redis", f"ok, {program.path.rpartition('/')[2]} {program.version}")

    def _start_rest(self) -> None:
        if self._wakeups.stop_requests:
            return
        settings = self._settings
        note = running.this_process(url=self._url, redis_url=settings.redis_url, models=settings.models)
        running.write(settings.state_dir, note)
        self._supervisor.start(services.gateway(settings))
        self._supervisor.start(services.control(settings))
        device = next((it.id for it in self._inventory.survey().devices if not it.unknown), "cpu")
        for spec in preflight.pinned(self._registry):
            for service in services.replicas(spec, settings, device):
                self._replicas[service.name] = spec
                self._supervisor.start(service)
        if not self._replicas:
            self._progress.say("models", f"none is pinned in {settings.models}, so none is loaded")

    def _tick(self) -> None:
        self._look_for_deaths()
        self._beat()
        if not self._ready:
            self._look_for_readiness()
        for name, line in self._echo.new_lines() if self._echo else ():
            self._progress.say(name, line)
        self._wakeups.wait(self._pause_s())

    def _pause_s(self) -> float:
        """How long nothing needs to be looked at; a death or a signal ends the pause by itself."""
        if not self._ready or self._echo:
            return _TICK_S
        next_start = self._supervisor.next_start_at() or float("inf")
        return min(self._beat_at + HEARTBEAT_S, next_start) - time.monotonic()

    def _look_for_readiness(self) -> None:
        elapsed_s = time.monotonic() - self._began
        if not self._gateway_up and readiness.gateway_answers(self._settings.host, self._settings.port):
            self._gateway_up = True
            self._progress.say("gateway", f"listening, {self._url}")
        loading = self._still_loading(elapsed_s)
        if loading:
            self._progress.waiting(loading[0], "loading", elapsed_s)
        elif not self._gateway_up:
            self._progress.waiting("gateway", "starting", elapsed_s)
        elif self._replicas and not self._announced:
            raise StartError("no pinned model could be loaded; the reasons stand above")
        else:
            self._ready = True
            self._progress.ready(f"{self._url}/v1")

    def _still_loading(self, elapsed_s: float) -> list[str]:
        """Return the services that are neither ready nor given up, and say who became ready."""
        ready = readiness.ready_replicas(self._client)
        loading = []
        for name, spec in self._replicas.items():
            if self._supervisor.phase(name) is Phase.GAVE_UP:
                continue
            if self._supervisor.process(name).name not in ready:
                loading.append(name)
            elif name not in self._announced:
                self._announced.add(name)
                aliases = f", also called {', '.join(spec.aliases)}" if spec.aliases else ""
                self._progress.say(name, f"ready after {elapsed_s:.0f} s{aliases}")
        return loading

    def _look_for_deaths(self) -> None:
        for died in self._supervisor.poll(time.monotonic()):
            self._report(died)

    def _report(self, died: Died) -> None:
        how = f"signal {-died.exit_code}" if died.exit_code < 0 else f"exit code {died.exit_code}"
        if isinstance(died.next, GiveUp):
            often = f"{died.next.crashes} times within 10 minutes"
            what = f"died ({how}) {often} and is not started again"
            self._failed[self._replicas[died.service].id] = f"its worker died {often} ({how}); see {died.log}"
        else:
            what = f"died ({how}); started again in {max(0.0, died.next.at - time.monotonic()):.0f} s"
        self._progress.say(died.service, f"{what}. The end of {died.log}:")
        self._progress.block(died.tail)
        if died.service in self._replicas:
            # Whoever waits for it shall not have to wait for its heartbeat to lapse.
            with contextlib.suppress(redis.RedisError, OSError):
                self._reaper.bury(died.process)
        elif not self._gateway_up:
            raise StartError(f"{died.service} cannot be started")
        self._beat_at = float("-inf")

    def _beat(self) -> None:
        """Tell Redis how this machine is, every few seconds and whenever something changed."""
        now = time.monotonic()
        if now - self._beat_at < HEARTBEAT_S:
            return
        self._beat_at = now
        wanted = [name for name in self._replicas if self._supervisor.phase(name) is not Phase.GAVE_UP]
        facts = NodeFacts(
            id=self._settings.node_id,
            devices=self._inventory.survey().devices,
            launched={self._supervisor.process(name).name: self._replicas[name].id for name in wanted},
            failed=dict(self._failed),
        )
        with contextlib.suppress(redis.RedisError, OSError):
            self._nodes.beat(facts)

    def _stop(self) -> None:
        asked = self._wakeups.stop_requests
        with contextlib.suppress(redis.RedisError, OSError):
            self._nodes.remove(self._settings.node_id)
        self._supervisor.stop(
            clock=time.monotonic,
            wait=self._wakeups.wait,
            hasten=lambda: self._wakeups.stop_requests > asked,
            stopping=lambda name: self._progress.say(name, "stopping"),
        )
        self._client.close()
        self._inventory.close()
        running.remove(self._settings.state_dir)
        if self._settings.redis_url == embedded_redis_url(self._settings.state_dir):
            embedded_redis.remove_socket(self._settings.state_dir)


def without_password(url: str) -> str:
    """Return `url` as it may be shown."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]
