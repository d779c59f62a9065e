"""A real engine worker goes on when the agent that started it dies, and belongs to the next one."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks import keys
from tasks.messages import Done
from tests.stack import REPOSITORY, Stack, chat, read
from tests.waiting import wait_until
from workers.launcher import create
from workers.launcher.base import EXIT_UNSEEN, new_replica_id, worker_command
from workers.launcher.ending import end_all
from workers.launcher.site import Site, held
from workers.registry import ModelSpec

pytestmark = pytest.mark.integration

AGENT = """
import json, signal, sys
from workers.launcher import create
from workers.launcher.base import Command, Resources
from workers.launcher.site import Site
create(Site.from_json(sys.argv[1])).start(Command(**json.loads(sys.argv[2])), Resources())
print("started", flush=True)
signal.pause()
"""


def test_a_worker_answers_for_the_agent_after_the_one_that_started_it(running: Stack, tmp_path: Path) -> None:
    site = Site(state_dir=tmp_path, node="n")
    worker = worker_command(ModelSpec(id="sim", engine="sim"), new_replica_id("sim"), running.settings.to_env())
    told = json.dumps({"name": worker.name, "argv": list(worker.argv), "env": dict(worker.env), "log": worker.log})
    with ExitStack() as ending:
        # As a supervisor would: whoever has not put itself on record by the end gives up by itself.
        ending.callback(lambda: end_all(create(site), grace_s=0))
        ending.enter_context(held(site))
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, site.to_json(), told], stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        ending.callback(agent.kill)
        assert agent.stdout is not None
        with agent.stdout:
            assert agent.stdout.readline() == b"started\n"
        # In the middle of its load, as a deploy would.
        agent.kill()
        agent.wait()
        launcher = create(site)
        wait_until(launcher.list, "the worker to be on record")
        (replica,) = launcher.list()
        client = running.client()

        def ready() -> bool:
            assert replica.exit_code() is None, "\n".join(replica.tail(50))
            return client.hget(keys.replica(replica.name), "state") == b"ready"

        wait_until(ready, "the worker to be ready", timeout_s=120)
        assert client.hget(keys.replica(replica.name), "pid") == str(replica.pid).encode()
        dispatcher = running.dispatcher()
        events = read(dispatcher.submit(chat("hello", gateway=dispatcher.gateway_id), max_depth=10))
        assert isinstance(events[-1], Done)
        launcher.tend()
        replica.terminate()
        wait_until(lambda: replica.exit_code() is not None, "the worker to stop")
        assert replica.exit_code() == EXIT_UNSEEN
        assert not client.exists(keys.replica(replica.name))
        client.close()
