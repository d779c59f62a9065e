"""The node agent inside its Celery worker: a bootstep that runs it on a thread of its own.

`celery -A tasks.node_step worker -P solo -Q node.<node>`: an app that is loaded from here
has the step. The queue is for whoever wants the machine to look at once; the agent looks
twice a second anyway.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps

from tasks.app import app, settings
from tasks.connections import command_client
from tasks.node.agent import NodeAgent
from tasks.node.site import site
from workers import launcher

LOOK = "tasks.node.look"


class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Once a process, whatever becomes of the connection to the broker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._launcher = launcher.create(site(settings))
        self._agent = NodeAgent(command_client(settings.redis_url), settings, self._launcher)
        self._thread = threading.Thread(target=self._agent.run, name="node-agent", daemon=True)
        app.node_agent = self._agent

    def start(self, worker: Any) -> None:
        self._thread.start()

    def stop(self, worker: Any) -> None:
        self._agent.stop()
        self._thread.join(20)
        self._launcher.close()


@app.task(name=LOOK, ignore_result=True, send_events=False)  # type: ignore[untyped-decorator]  # celery ships no types
def look() -> None:
    """Have this machine look at its orders now."""
    app.node_agent.wake()


app.steps["worker"].add(AgentStep)
