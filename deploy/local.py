"""`celerity up`: everything on one machine, in the foreground, until it is told to stop.

The shell round the supervisor: it starts the services in order and says what happens.
Which models run is not decided here but by the loader, whose control worker, beat and
node agent are services like the gateway. What is run is listed in `services`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

import redis

from deploy import embedded_redis, flower, model_news, preflight, readiness, running, services
from deploy.errors import StartError
from deploy.flower import FlowerPage
from deploy.log_echo import LogEcho
from deploy.model_news import ModelNews
from deploy.progress import Progress
from deploy.supervisor import Died, Supervisor
from deploy.wakeups import Wakeups
from tasks.connections import command_client
from tasks.node.site import site
from tasks.records.nodes import NodeStore
from tasks.records.orders import OrderStore
from tasks.settings import Settings, embedded_redis_url
from workers import launcher
from workers.launcher import output
from workers.launcher.base import ServiceLauncher, slug
from workers.launcher.ending import end_all
from workers.launcher.errors import LaunchError
from workers.launcher.guard import GRACE_S
from workers.launcher.process import ProcessLauncher
from workers.registry import Registry

_REDIS_START_S = 60.0
_TICK_S = 0.25
# Once everything is up, what models do is looked at this often.
_NEWS_EVERY_S = 5.0
_TAIL_LINES = 15


def up(settings: Settings, *, verbose: bool = False, with_flower: bool = False) -> None:
    """Run until a signal says stop. Raises StartError; whatever was started by then is stopped again."""
    if settings.port == 0:
        settings = dataclasses.replace(settings, port=preflight.free_port(settings.host))
    if with_flower and settings.flower_port == 0:
        settings = dataclasses.replace(settings, flower_port=preflight.free_port(flower.HOST))
    settings = dataclasses.replace(settings, models=settings.models.absolute())
    with contextlib.ExitStack() as stack:
        stack.enter_context(running.only_one(settings.state_dir))
        registry = preflight.check(settings)
        page = FlowerPage.prepare(settings) if with_flower else None
        wakeups = stack.enter_context(Wakeups())
        starter = ProcessLauncher(settings.state_dir / "logs", replicas_of=site(settings))
        stack.callback(starter.close)
        LocalCluster(settings, registry, starter, wakeups, verbose=verbose, page=page).run()


class LocalCluster:
    """One run of `celerity up`."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        starter: ServiceLauncher,
        wakeups: Wakeups,
        *,
        verbose: bool,
        page: FlowerPage | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._wakeups = wakeups
        self._supervisor = Supervisor(starter)
        self._progress = Progress(sys.stdout, sys.stderr)
        self._echo = LogEcho(settings.state_dir / "logs") if verbose else None
        self._client = command_client(settings.redis_url)
        self._url = readiness.base_url(settings.host, settings.port)
        self._news = ModelNews()
        self._flower, self._flower_told = page, False
        self._began = time.monotonic()
        self._looked_at = float("-inf")
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
        # The agent first: nothing can be placed before it has said what this machine has.
        for service in (services.agent, services.control, services.beat, services.bulk, services.gateway):
            self._supervisor.start(service(settings))
        if self._flower:
            self._supervisor.start(services.flower(settings))
        if not preflight.pinned(self._registry):
            self._progress.say("models", f"none is pinned in {settings.models}; each is loaded when it is asked for")

    def _tick(self) -> None:
        self._look_for_deaths()
        self._look_at_models()
        for name, line in self._echo.new_lines() if self._echo else ():
            self._progress.say(name, line)
        self._wakeups.wait(self._pause_s())

    def _pause_s(self) -> float:
        """How long nothing needs to be looked at; a death or a signal ends the pause by itself."""
        if not self._ready or self._echo:
            return _TICK_S
        next_start = self._supervisor.next_start_at() or float("inf")
        return min(self._looked_at + _NEWS_EVERY_S, next_start) - time.monotonic()

    def _look_at_models(self) -> None:
        """Tell what is new; say that everything is ready, once it is."""
        now = time.monotonic()
        if self._ready and now - self._looked_at < _NEWS_EVERY_S:
            return
        self._looked_at = now
        self._look_at_flower()
        awaited = None if self._ready else self._settings.node_id
        sight = readiness.models_now(self._client, awaited, preflight.pinned(self._registry))
        if sight is None:
            if not self._ready:
                self._progress.waiting("loader", "starting", now - self._began)
            return
        since_start_s = None if self._ready else now - self._began
        for news in self._news.of(sight, self._registry.models, since_start_s):
            self._progress.say(news.model, news.text)
            if news.bad:
                self._show_log_of(news.model)
        if not self._ready:
            self._look_for_readiness(sight, now - self._began)

    def _look_for_readiness(self, sight: model_news.Sight, elapsed_s: float) -> None:
        pinned = preflight.pinned(self._registry)
        if not self._gateway_up and readiness.gateway_answers(self._settings.host, self._settings.port):
            self._gateway_up = True
            self._progress.say("gateway", f"listening, {self._url}")
        if model_news.all_failed(pinned, sight):
            raise StartError("no pinned model could be loaded; the reasons stand above")
        if awaited := model_news.still_awaited(pinned, sight):
            self._progress.waiting(awaited[0], "loading", elapsed_s)
        elif not self._gateway_up:
            self._progress.waiting("gateway", "starting", elapsed_s)
        elif not model_news.any_ready(pinned, sight):
            self._progress.waiting("models", "waiting for another try", elapsed_s)
        else:
            self._ready = True
            self._progress.ready(f"{self._url}/v1")

    def _look_at_flower(self) -> None:
        """Say where it is, once it answers. Nothing waits for that: it only looks on."""
        if self._flower and not self._flower_told and self._flower.answers():
            self._flower_told = True
            self._progress.say("flower", str(self._flower))

    def _show_log_of(self, model: str) -> None:
        """Show the end of what the model's latest replica said."""
        logs = site(self._settings).logs.glob(f"{slug(model)}-*.log")
        latest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
        if latest is not None:
            self._progress.say(model, f"the end of {latest}:")
            self._progress.block(output.tail(latest, _TAIL_LINES))

    def _look_for_deaths(self) -> None:
        for died in self._supervisor.poll(time.monotonic()):
            self._report(died)

    def _report(self, died: Died) -> None:
        how = f"signal {-died.exit_code}" if died.exit_code < 0 else f"exit code {died.exit_code}"
        again_s = max(0.0, died.again_at - time.monotonic())
        self._progress.say(died.service, f"died ({how}); started again in {again_s:.0f} s. The end of {died.log}:")
        self._progress.block(died.tail)
        if not self._gateway_up:
            raise StartError(f"{died.service} cannot be started")

    def _stop(self) -> None:
        asked = self._wakeups.stop_requests

        def hasten() -> bool:
            return self._wakeups.stop_requests > asked

        def stopping(name: str) -> None:
            self._progress.say(name, "stopping")

        self._supervisor.stop(
            clock=time.monotonic, wait=self._wakeups.wait, hasten=hasten, stopping=stopping, before=services.REDIS_STAGE
        )
        self._end_replicas(hasten)
        self._supervisor.stop(clock=time.monotonic, wait=self._wakeups.wait, hasten=hasten, stopping=stopping)
        self._client.close()
        running.remove(self._settings.state_dir)
        if self._settings.redis_url == embedded_redis_url(self._settings.state_dir):
            embedded_redis.remove_socket(self._settings.state_dir)

    def _end_replicas(self, hasten: Callable[[], bool]) -> None:
        """Have the replicas of this machine finish and end; nobody is left who would start others."""
        try:
            replicas = launcher.create(site(self._settings))
            if replicas.list():
                self._progress.say("models", "stopping")
            grace_s = self._settings.drain_timeout_s + services.AFTER_DRAIN_S
            # Once it is to be quick, it is as if the grace were over.
            ended = end_all(
                replicas,
                grace_s=grace_s,
                clock=lambda: time.monotonic() + (grace_s if hasten() else 0),
                wait=self._wakeups.wait,
            )
            self._forget(ended)
        except LaunchError as error:
            self._progress.say("models", f"not all could be ended: {error}")

    def _forget(self, replicas: Sequence[str]) -> None:
        """Take this machine and its replicas out of Redis, so that nobody waits for them."""
        with contextlib.suppress(redis.RedisError, OSError):
            NodeStore(self._client).remove(self._settings.node_id)
            orders = OrderStore(self._client)
            for replica in replicas:
                orders.remove(replica, node=self._settings.node_id)


def without_password(url: str) -> str:
    """Return `url` as it may be shown."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]
