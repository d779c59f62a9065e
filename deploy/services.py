"""What `celerity up` keeps running on one machine, and how each is called. Data only."""

from __future__ import annotations

import sys
from pathlib import Path

import deploy
from deploy import embedded_redis
from deploy.supervisor import Service
from tasks.queues import BATCH_QUEUE, LOADER_QUEUE, node_queue
from tasks.settings import Settings
from workers.launcher.base import CELERY, WORKER_FLAGS, Command

# The gateway goes first, so that nobody hands in work while workers finish theirs. Then those who would start
# workers; then the workers, which are nobody's service. Redis goes last: everybody else's last words pass through it.
GATEWAY_STAGE, LOADER_STAGE, REDIS_STAGE = range(3)
# Beyond its drain a process may need this long to go: an engine gives its memory back.
AFTER_DRAIN_S = 15.0
_REDIS_S = 20.0

REDIS, GATEWAY, CONTROL, AGENT, BEAT = "redis", "gateway", "control", "agent", "beat"
BULK, FLOWER = "bulk", "flower"


def redis(program: embedded_redis.Program, settings: Settings) -> Service:
    return Service(
        name=REDIS,
        command=embedded_redis.command(program, settings.state_dir),
        stage=REDIS_STAGE,
        stop_within_s=_REDIS_S,
        hastens=False,
    )


def gateway(settings: Settings) -> Service:
    config = Path(deploy.__file__).parent / "gunicorn.conf.py"
    argv = (sys.executable, "-m", "gunicorn", "-c", str(config))
    command = Command(name=GATEWAY, argv=argv, env=settings.to_env(), log=GATEWAY)
    return Service(
        name=GATEWAY,
        command=command,
        stage=GATEWAY_STAGE,
        stop_within_s=settings.drain_timeout_s + AFTER_DRAIN_S,
    )


def control(settings: Settings) -> Service:
    """What decides which models run where."""
    return _worker(CONTROL, "tasks.app", f"{LOADER_QUEUE},default", settings)


def agent(settings: Settings) -> Service:
    """What starts and stops workers on this machine."""
    return _worker(AGENT, "tasks.node_step", node_queue(settings.node_id), settings)


def beat(settings: Settings) -> Service:
    """What has the loader look every two seconds. It has nothing to remember."""
    argv = (*CELERY, "-A", "tasks.app", "beat", "--pidfile=", "--loglevel", "WARNING")
    return _service(BEAT, argv, settings)


def bulk(settings: Settings) -> Service:
    """What takes in bulk work, and feeds it to the engines."""
    return _worker(BULK, "tasks.bulk_step", BATCH_QUEUE, settings)


def flower(settings: Settings) -> Service:
    """What shows workers, tasks and queues to a browser on this machine."""
    return _service(FLOWER, (sys.executable, "-m", "deploy.flower_server"), settings)


def _worker(name: str, app: str, queues: str, settings: Settings) -> Service:
    argv = (*CELERY, "-A", app, "worker", "-P", "solo", "-Q", queues, "-n", f"{name}@{settings.node_id}", *WORKER_FLAGS)
    return _service(name, argv, settings)


def _service(name: str, argv: tuple[str, ...], settings: Settings) -> Service:
    command = Command(name=name, argv=argv, env=settings.to_env(), log=name)
    return Service(name=name, command=command, stage=LOADER_STAGE, stop_within_s=AFTER_DRAIN_S)
