"""Flower as `celerity up --flower` runs it: `python -m deploy.flower_server`.

`celery -A tasks.app flower` with what cannot be said on its command line: the password comes
from its file, the pages of `deploy.flower_pages` stand before Flower's own, and an outage
of Redis costs a line in the log and nothing else. Flower's own variables (`FLOWER_MAX_TASKS`,
`FLOWER_READ_ONLY=false` …) hold, except where it listens and who is let in.
"""

from __future__ import annotations

import logging
import signal
import time
from functools import partial
from typing import Any

import redis
from celery.events import EventReceiver
from flower import command
from flower.app import Flower
from flower.events import Events
from flower.options import options
from flower.urls import settings as flower_settings
from kombu.exceptions import OperationalError
from tornado.ioloop import IOLoop

from deploy.flower import HOST, USER, read_password
from deploy.flower_pages import DiscreetInspector, discreet, pages
from tasks.app import app, settings
from tasks.connections import command_client
from tasks.logs import configure
from workers.registry_watch import RegistryWatch

log = logging.getLogger("deploy.flower_server")

_LOST = (redis.RedisError, OperationalError, OSError)
_RETRY_S = 1.0
# A worker says that it is online a moment before it listens to what it is asked.
_LISTENS_AFTER_S = 0.3
# Each takes some 7 KiB, and people look at the latest.
_MAX_TASKS = 5_000
# A replica that has ended is shown as offline for so long, and then forgotten: its successor has another name.
_FORGET_OFFLINE_S = 900
_QUIET = ("flower", "kombu", "tornado", "celery")


class TaskEvents(Events):  # type: ignore[misc]  # flower ships no types
    """Flower's event thread, which comes back within a second of Redis, and says once that it was lost."""

    _lost = False

    def start(self) -> None:
        super().start()
        self._ask_soon()

    def on_event(self, event: dict[str, Any]) -> None:
        super().on_event(discreet(event))
        if event["type"] == "worker-online":
            self._ask_soon()

    def run(self) -> None:
        while True:
            try:
                with self.capp.connection() as connection:
                    connection.ensure_connection(max_retries=1, interval_start=0, interval_max=0)
                    receiver = EventReceiver(connection, handlers={"*": self.on_event}, app=self.capp)
                    self._tell(lost=False)
                    receiver.capture(limit=None, timeout=None, wakeup=True)
            except Exception as error:  # noqa: BLE001 - process boundary: a thread that ends would show old facts for ever
                self._tell(lost=True, reason=type(error).__name__)
            time.sleep(_RETRY_S)

    async def on_enable_events(self) -> None:
        try:
            await self.io_loop.run_in_executor(None, self.capp.control.enable_events)
        except _LOST as error:
            log.debug("events not asked for: %r", error)

    def _ask_soon(self) -> None:
        """Ask before the next five seconds are over. From any thread."""
        if self.enable_events:
            self.io_loop.add_callback(self.io_loop.call_later, _LISTENS_AFTER_S, self.on_enable_events)

    def _tell(self, *, lost: bool, reason: str | None = None) -> None:
        if lost and not self._lost:
            log.warning("redis is lost", extra={"event": "redis_lost", "reason": reason})
        elif self._lost and not lost:
            log.info("redis is back", extra={"event": "redis_back"})
        self._lost = lost


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    configure(settings.log_level)
    for name in _QUIET:
        # Flower tells each question that a busy worker has not answered within a second.
        logging.getLogger(name).setLevel(logging.ERROR)
    _set_options()
    loop = IOLoop.current()
    events = TaskEvents(
        app,
        db=options.db,
        io_loop=loop,
        enable_events=options.enable_events,
        max_workers_in_memory=options.max_workers,
        max_tasks_in_memory=options.max_tasks,
    )
    command.extract_settings()
    server = Flower(capp=app, options=options, events=events, io_loop=loop, **flower_settings)
    server.inspector = DiscreetInspector(loop, app, options.inspect_timeout / 1000)
    client = command_client(settings.redis_url)
    server.add_handlers(".*", pages(client, RegistryWatch(settings.models, settings.models_dir)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(partial(_stop, server)))
    port = server.start_http_server()
    log.info("flower listens", extra={"event": "flower_listens", "port": port})
    server.start()
    client.close()


def _set_options() -> None:
    options.max_tasks = _MAX_TASKS
    options.purge_offline_workers = _FORGET_OFFLINE_S
    options.read_only = True
    command.apply_env_options()
    options.address, options.port, options.unix_socket = HOST, settings.flower_port, ""
    options.basic_auth, options.auth = [f"{USER}:{read_password(settings.state_dir)}"], ""


async def _stop(server: Any) -> None:
    """Have the workers send no more events, which cost them time, and end."""
    try:
        await server.io_loop.run_in_executor(None, app.control.disable_events)
    except _LOST as error:
        log.debug("events not switched off: %r", error)
    server.stop()


if __name__ == "__main__":
    main()
