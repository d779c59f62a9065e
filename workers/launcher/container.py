"""What the container of a replica is called, shows and may do. Data only.

Nothing in it comes from a client: the command is ours, the image and the mounts are the
operator's, and a model's name is one of models.yaml.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docker.types import DeviceRequest, LogConfig, Mount

from workers.devices import Device, DeviceKind
from workers.launcher.base import Command, Resources
from workers.launcher.errors import RefusedError
from workers.launcher.site import Site

INSTALLATION, NODE = "celerity.installation", "celerity.node"
REPLICA, MODEL = "celerity.replica", "celerity.model"

_INIT = ("python3", "-m", "workers.launcher.init_process")
_HOME = "/tmp"  # noqa: S108 - the container's own, in memory
# The image need not know our user, and torch asks for its name.
_WHO = {"HOME": _HOME, "USER": "celerity", "LOGNAME": "celerity"}
# Compilers put what they make there and load it, hence exec; Docker's default forbids it.
# Where the image has the folder, runc gives it the image's mode instead of this one.
_TMPFS = {_HOME: "rw,exec,nosuid,nodev,mode=1777,size=4g"}
# What vLLM's processes pass tensors through; counted against the memory limit as it is used.
_SHM = "8g"
# Threads count too, and torch starts one a core in each of several pools.
_PIDS = 8192
_LOG = {"max-size": "5m", "max-file": "2"}
_NOBODY = "65534:65534"


def labels(site: Site, installation: str) -> dict[str, str]:
    """Return what every container of ours here bears, and no other."""
    return {INSTALLATION: installation, NODE: site.node}


def name(replica: str) -> str:
    return f"celerity-{replica}"


def options(command: Command, resources: Resources, site: Site, installation: str) -> dict[str, Any]:
    """Return what the engine is asked to create. Raises RefusedError for what it could only fail at later."""
    if not site.image:
        raise RefusedError("CELERITY_DOCKER_IMAGE names no image; set it to one that has Celerity in it")
    _check_network(site.network, command.env)
    gpus = [device for device in resources.devices if device.kind is not DeviceKind.CPU]
    limit = None if resources.memory_mib is None else f"{resources.memory_mib}m"
    return {
        "image": site.image,
        "name": name(command.name),
        "labels": labels(site, installation) | {REPLICA: command.name, MODEL: command.env.get("CELERITY_MODEL", "")},
        # The first word is this machine's interpreter; the image has its own.
        "entrypoint": list(_INIT),
        "command": ["python3", *command.argv[1:]],
        "environment": _environment(command.env, gpus),
        "device_requests": [_request(gpus)] if gpus else [],
        "mounts": [Mount(path, path, type="bind", read_only=True) for path in _shown(command.reads, site.mounts)],
        "user": site.user or container_user(command.env, uid=os.getuid(), gid=os.getgid()),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "privileged": False,
        "read_only": True,
        "tmpfs": _TMPFS,
        "shm_size": _SHM,
        "mem_limit": limit,
        "memswap_limit": limit,
        "pids_limit": _PIDS,
        "network_mode": site.network,
        # A replica never comes back under its id.
        "restart_policy": {"Name": "no"},
        "log_config": LogConfig(type=LogConfig.types.JSON, config=_LOG),
        "detach": True,
    }


def container_user(env: Mapping[str, str], *, uid: int, gid: int) -> str:
    """Return who the replica runs as.

    1. Whoever we are, so that files which only we can read can be read there.
    2. Nobody, if we are root.
    3. But root again if Redis is behind a socket that only root can open. It has no
       capabilities there, so all that it can do more is what root's own files allow.
    """
    if uid != 0 or env.get("CELERITY_REDIS_URL", "").startswith("unix:"):
        return f"{uid}:{gid}"
    return _NOBODY


def _environment(env: Mapping[str, str], gpus: list[Device]) -> dict[str, str]:
    # Which GPUs it sees is the engine's to say: inside, they are counted anew. An image of
    # NVIDIA's shows all of them unless it is told otherwise.
    return {**env, **_WHO} | ({} if gpus else {"NVIDIA_VISIBLE_DEVICES": "void"})


def _request(gpus: list[Device]) -> DeviceRequest:
    if any(device.kind is not DeviceKind.CUDA for device in gpus):
        raise RefusedError("containers get NVIDIA's GPUs only; set CELERITY_LAUNCHER=process for others")
    if missing := [device.id for device in gpus if not device.uuid]:
        raise RefusedError(
            f"the driver gives no uuid for {', '.join(missing)}, and its number may change; see nvidia-smi"
        )
    return DeviceRequest(driver="nvidia", device_ids=[device.uuid for device in gpus], capabilities=[["gpu"]])


def _shown(reads: tuple[str, ...], more: tuple[str, ...]) -> list[str]:
    """Return what is mounted: nothing twice, and nothing inside of what is mounted anyway."""
    paths = [Path(path) for path in dict.fromkeys((*reads, *more))]
    for path in paths:
        if not path.exists():
            raise RefusedError(
                f"{path} does not exist, and the replica has to read it; correct models.yaml or the settings"
            )
    return [str(path) for path in paths if not any(other in path.parents for other in paths)]


def _check_network(network: str, env: Mapping[str, str]) -> None:
    url = urlsplit(env.get("CELERITY_REDIS_URL", ""))
    if network != "host" and url.hostname in {"localhost", "127.0.0.1", "::1"}:
        raise RefusedError(
            f"Redis is at {url.hostname}, which in the network {network!r} is the container itself; "
            "give CELERITY_REDIS_URL an address that can be reached there, or set CELERITY_DOCKER_NETWORK=host"
        )
