"""Where a launcher works: what is the same after a restart, so that it finds what its predecessor started."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One node of one installation, and how replicas are launched there."""

    state_dir: Path
    node: str
    launcher: str = "process"
    image: str | None = None
    """For containers; it has to have Celerity and `python3` in it."""
    network: str = "host"
    user: str | None = None
    """`UID:GID` of a container's processes; None: `container_user` chooses."""
    mounts: tuple[str, ...] = ()
    """Further files and folders that containers may read."""

    @property
    def replicas(self) -> Path:
        """The folder of the records of replicas that run as processes."""
        return self.state_dir / "replicas"

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs" / "replicas"

    def installation(self) -> str:
        """Return the id of the installation, which is made when it is first asked for."""
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self.state_dir / "installation"
        draft = self.state_dir / f"installation.{os.getpid()}"
        draft.write_text(secrets.token_hex(8))
        # A link, unlike a rename, does not replace what another process has just made.
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
        draft.unlink()
        return file.read_text()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        told = json.loads(text)
        return cls(**told | {"state_dir": Path(told["state_dir"]), "mounts": tuple(told["mounts"])})


@contextlib.contextmanager
def held(site: Site) -> Iterator[None]:
    """Let replicas be started at `site` for as long as this process lives and stays in here.

    The lock is the kernel's, so it is free as soon as its holder has ended, however it ended.
    """
    descriptor = _open(site)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(site: Site) -> bool:
    """Say whether a supervisor lives that will end the replicas of `site` when it ends."""
    descriptor = _open(site)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _open(site: Site) -> int:
    site.replicas.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(site.replicas / "held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
