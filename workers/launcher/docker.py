"""Starts replicas as containers of a Docker engine, and finds them by their labels.

What this installation did not start on this node does not bear its labels, and is never
looked at. Nothing is pulled, and nothing is tried again: that is decided elsewhere.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from workers.launcher import container
from workers.launcher.base import EXIT_UNSEEN, Command, Resources, require_safe
from workers.launcher.errors import (
    ImageMissingError,
    LauncherDownError,
    LaunchError,
    NameTakenError,
    RefusedError,
    SupervisorGoneError,
)
from workers.launcher.site import Site, is_held
from workers.launcher.spares import Spare

_ANSWER_WITHIN_S = 30
_DEAF_AT_MOST_S = 2.0
_POLL_S = 0.01
_CONFLICT = 409
_RUNNING = frozenset({"running", "paused", "restarting", "removing"})


class Container:
    """Satisfies `workers.launcher.base.Replica`."""

    def __init__(self, it: Any) -> None:
        self._it = it

    @property
    def name(self) -> str:
        return str(self._it.labels[container.REPLICA])

    @property
    def model(self) -> str:
        return str(self._it.labels[container.MODEL])

    @property
    def pid(self) -> int:
        """As the machine counts, 0 when it does not run."""
        return int(self._state["Pid"])

    @property
    def handle(self) -> str:
        return f"container {self._it.id[:12]}"

    @property
    def started_at(self) -> float:
        return datetime.fromisoformat(self._it.attrs["Created"]).timestamp()

    @property
    def log(self) -> str:
        return f"`docker logs {self._it.name}`"

    def exit_code(self) -> int | None:
        try:
            with _translated(f"look at {self._it.name}"):
                self._it.reload()
        except _GoneError:
            return EXIT_UNSEEN
        if self._state["Status"] in _RUNNING:
            return None
        return EXIT_UNSEEN if self._state["Status"] == "created" else int(self._state["ExitCode"])

    def terminate(self) -> None:
        # In the moment before its first process listens, the kernel would drop it.
        give_up = time.monotonic() + _DEAF_AT_MOST_S
        while self.exit_code() is None and not _hears(self.pid, signal.SIGTERM) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        self._signal("SIGTERM")

    def kill(self) -> None:
        self._signal("SIGKILL")

    def tail(self, lines: int) -> list[str]:
        with suppress(_GoneError), _translated(f"read the log of {self._it.name}"):
            text: bytes = self._it.logs(tail=lines)
            return [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
        return []

    def why(self) -> str | None:
        if self._state.get("OOMKilled"):
            return f"it took more memory than the {self._it.attrs['HostConfig']['Memory'] >> 20:,} MiB it was allowed"
        return self._state.get("Error") or None

    def forget(self) -> None:
        # Without force, so that the engine refuses what still runs.
        with suppress(_GoneError), _translated(f"remove {self._it.name}"):
            self._it.remove(v=True)

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._it.attrs["State"]
        return state

    def _signal(self, number: str) -> None:
        with suppress(_GoneError, _ConflictError), _translated(f"stop {self._it.name}"):
            self._it.kill(signal=number)


class DockerLauncher:
    """Satisfies `workers.launcher.base.Launcher`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._installation = site.installation()
        self._supervised = is_held(site)
        self._engine: Any = None

    def start(self, command: Command, resources: Resources) -> Container:
        require_safe(command.name)
        options = container.options(command, resources, self._site, self._installation)
        try:
            with _translated(f"create {options['name']}"):
                made = self._client().containers.create(**options)
        except _GoneError:
            raise ImageMissingError(
                f"there is no image {self._site.image} here; pull it, build it, or correct CELERITY_DOCKER_IMAGE"
            ) from None
        except _ConflictError:
            raise NameTakenError(f"there is a container {options['name']} already; start under a new id") from None
        try:
            with _translated(f"start {options['name']}"):
                made.start()
            # Looked at only now: whoever ends the replicas of a supervisor lists them after it has gone.
            if self._supervised and not is_held(self._site):
                raise SupervisorGoneError("`celerity up` has ended; start it again")
        except LaunchError:
            with suppress(LaunchError), _translated(f"remove {options['name']}"):
                made.remove(force=True, v=True)
            raise
        return Container(made)

    def list(self) -> tuple[Container, ...]:
        wanted = [f"{key}={value}" for key, value in container.labels(self._site, self._installation).items()]
        with _translated("list the containers"):
            found = self._client().containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
        ours = [Container(it) for it in found if container.REPLICA in it.labels]
        return tuple(sorted(ours, key=lambda it: (it.started_at, it.name)))

    def prepare(self, wanted: Collection[Spare]) -> None:
        """Nothing: a container begins with a program of its own."""

    def on_end(self, call: Callable[[], None]) -> None:
        """Nothing: whoever starts containers looks at them often enough."""

    def tend(self) -> None:
        """Nothing: the kernel keeps the limits, and the engine its logs."""

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _client(self) -> Any:
        # Made when it is needed, since an engine may be started later than we are.
        if self._engine is None:
            self._engine = docker.from_env(timeout=_ANSWER_WITHIN_S)
        return self._engine


def _hears(pid: int, number: signal.Signals) -> bool:
    """Say whether the process has prepared for the signal; also if that cannot be seen from here."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


class _GoneError(LaunchError):
    """The engine knows nothing of that name: a container that somebody removed, an image."""


class _ConflictError(LaunchError):
    """The engine says that this does not go with how things are."""


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Raise LaunchErrors for whatever the engine, or the way to it, says."""
    try:
        yield
    except (NotFound, ImageNotFound) as error:
        raise _GoneError(f"cannot {doing}: {error.explanation}") from error
    except APIError as error:
        if error.status_code == _CONFLICT:
            raise _ConflictError(f"cannot {doing}: {error.explanation}") from error
        raise RefusedError(f"Docker cannot {doing}: {error.explanation or error}") from error
    except (DockerException, OSError) as error:
        # requests' errors are OSErrors; the SDK lets them through.
        text = "Docker does not answer; start it (`systemctl start docker`), or set DOCKER_HOST to where it is"
        raise LauncherDownError(f"{text} ({error})") from error
