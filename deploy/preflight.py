"""What must be true before `celerity up` starts anything. Every refusal says how to change it."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import socket
from pathlib import Path

import psutil

from deploy.errors import StartError
from tasks.settings import Settings, SettingsError
from webapp.exposure import require_keys_beyond_loopback
from workers.launcher import LAUNCHERS
from workers.registry import ModelSpec, Registry, RegistryError


def check(settings: Settings) -> Registry:
    """Return the models. Raises StartError."""
    try:
        require_keys_beyond_loopback(settings)
    except SettingsError as error:
        raise StartError(str(error)) from None
    if settings.api_keys_file is not None and not settings.api_keys_file.exists():
        raise StartError(f"{settings.api_keys_file} does not exist; make it with `celerity keys add NAME`")
    if settings.launcher not in LAUNCHERS:
        raise StartError(f"CELERITY_LAUNCHER is {settings.launcher!r}; it can be {' or '.join(LAUNCHERS)}")
    registry = load_registry(settings.models, settings.models_dir)
    for spec in pinned(registry):
        if problem := model_problem(spec, registry):
            raise StartError(f"{settings.models}: {spec.id}: {problem}")
    check_port(settings.host, settings.port)
    return registry


def load_registry(models: Path, models_dir: Path | None) -> Registry:
    """Raises StartError."""
    try:
        return Registry.load(models, models_dir)
    except RegistryError as error:
        hint = "" if models.exists() else "; name the file with --models or CELERITY_MODELS"
        raise StartError(f"{error}{hint}") from None


def pinned(registry: Registry) -> list[ModelSpec]:
    return [spec for spec in registry.models.values() if spec.pinned]


def model_problem(spec: ModelSpec, registry: Registry) -> str | None:
    """Return why `spec` could not be loaded on this machine, as far as that shows without loading it."""
    if spec.engine != "vllm":
        return None
    if (problem := registry.problems.get(spec.id)) is not None:
        return problem
    if importlib.util.find_spec("vllm") is None:
        return "needs vLLM, which is not installed; run `make setup`"
    folder = Path(spec.path or "")
    if not folder.is_absolute():
        return None
    if not folder.is_dir():
        return f"there is no folder {folder}; correct its `path:`"
    return None


def check_port(host: str, port: int, *, setting: str = "--port or CELERITY_PORT") -> None:
    """Raise StartError unless a server could listen there now."""
    try:
        bind(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _listener(port)
            raise StartError(
                f"port {port} is taken{f' by {holder}' if holder else ''}; choose another with {setting}"
            ) from None
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with contextlib.ExitStack() as undo:
        listener = undo.enter_context(socket.socket(family, kind, protocol))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        undo.pop_all()
    return listener


def free_port(host: str) -> int:
    """Return a port nobody listens on at the moment."""
    with bind(host, 0) as listener:
        return int(listener.getsockname()[1])


def _listener(port: int) -> str | None:
    """Return who listens on `port`, where the system tells us."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return None
    return None
