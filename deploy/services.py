"""What `celerity up` keeps running on one machine, and how each is called. Data only."""

from __future__ import annotations

import sys
from pathlib import Path

import deploy
from deploy import embedded_redis
from deploy.supervisor import Service
from tasks.settings import Settings
from workers.launcher.base import CELERY_WORKER, WORKER_FLAGS, Command, new_replica_id, slug, worker_command
from workers.registry import ModelSpec

# The gateway goes first, so that nobody hands in work while workers finish theirs; Redis
# goes last, since everybody else's last words pass through it.
GATEWAY_STAGE, WORKER_STAGE, CONTROL_STAGE, REDIS_STAGE = range(4)
# Beyond its drain a process may need this long to go: an engine gives its memory back.
_AFTER_DRAIN_S = 15.0
_REDIS_S = 20.0

REDIS, GATEWAY, CONTROL = "redis", "gateway", "control"


def redis(program: embedded_redis.Program, settings: Settings) -> Service:
    return Service(
        name=REDIS,
        command=lambda: embedded_redis.command(program, settings.state_dir),
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
        command=lambda: command,
        stage=GATEWAY_STAGE,
        stop_within_s=settings.drain_timeout_s + _AFTER_DRAIN_S,
    )


def control(settings: Settings) -> Service:
    argv = (*CELERY_WORKER, "-P", "solo", "-Q", "control,default", "-n", "control@%h", *WORKER_FLAGS)
    command = Command(name=CONTROL, argv=argv, env=settings.to_env(), log=CONTROL)
    return Service(name=CONTROL, command=lambda: command, stage=CONTROL_STAGE, stop_within_s=_AFTER_DRAIN_S)


def replicas(spec: ModelSpec, settings: Settings, device: str) -> list[Service]:
    """Return the services of a pinned model: as many as its smallest number of replicas, at least one."""
    return [_replica(spec, settings, device, number) for number in range(1, max(1, spec.replicas_min) + 1)]


def _replica(spec: ModelSpec, settings: Settings, device: str, number: int) -> Service:
    name = spec.id if number == 1 else f"{spec.id}.{number}"
    env = settings.to_env()
    return Service(
        name=name,
        command=lambda: worker_command(spec, new_replica_id(spec.id), env, device=device, log=slug(f"model-{name}")),
        stage=WORKER_STAGE,
        stop_within_s=settings.drain_timeout_s + _AFTER_DRAIN_S,
        may_give_up=True,
    )
