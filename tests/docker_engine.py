"""A Docker engine of the tests' own: in a folder of theirs, without a network, gone when they end.

The machine's own engine, if there is one, is neither used nor needed: the daemon listens
on a socket in the folder and keeps everything there. The image is an empty tree; what
runs in it is this machine's, shown read-only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException

from tests.debian import required
from tests.waiting import wait_until
from workers.launcher.base import Command
from workers.launcher.process import LocalProcess, ProcessLauncher

REPOSITORY = Path(__file__).parent.parent
IMAGE = "celerity-test:empty"
_ENOUGH = ("/usr", "/lib", "/lib64", "/bin")


@dataclass(frozen=True)
class Engine:
    """A daemon that answers. `mounts` is what a Python of this machine needs to run in `IMAGE`."""

    client: Any
    socket: str
    mounts: tuple[str, ...]


def require_program() -> str:
    """Return `dockerd`. Where it cannot run, the tests are skipped, and in CI installed first."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("a Docker engine of the tests' own needs Linux and root")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return required("dockerd", "docker.io", lambda: shutil.which("dockerd", path=path))


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    program = require_program()
    with contextlib.ExitStack() as stack:
        # Not pytest's folder: its path is too long for a socket.
        folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
        stack.callback(_remove, folder)
        launcher = ProcessLauncher(folder / "logs")
        stack.callback(launcher.close)
        socket = f"unix://{folder}/s"
        # It looks for containerd and runc where it is itself.
        env = {"PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(program).parent)])}
        daemon = launcher.start(Command(name="dockerd", argv=_argv(program, folder, socket), env=env, log="dockerd"))
        client = _connect(socket, daemon)
        stack.callback(_stop, client, daemon)
        _import_image(client)
        yield Engine(client, socket, _python())


def _stop(client: Any, daemon: LocalProcess) -> None:
    # Containers are not the daemon's children, and would outlive it.
    for container in client.containers.list(all=True):
        container.remove(force=True)
    client.close()
    daemon.terminate()
    wait_until(lambda: daemon.exit_code() is not None, "dockerd to stop")


def _remove(folder: Path) -> None:
    for line in Path("/proc/mounts").read_text().splitlines():
        if (mounted := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", mounted], check=True)
    shutil.rmtree(folder)


def _argv(program: str, folder: Path, socket: str) -> list[str]:
    argv = [program, "--storage-driver=vfs", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    argv += ["--ip-forward=false", "--data-root", f"{folder}/d", "--exec-root", f"{folder}/e"]
    return [*argv, "-H", socket, "-p", f"{folder}/p"]


def _connect(socket: str, daemon: LocalProcess) -> Any:
    client: list[Any] = []

    def answers() -> bool:
        if daemon.exit_code() is not None:
            reason = "\n".join(daemon.tail(20))
            assert "CI" not in os.environ, reason
            pytest.skip(f"dockerd cannot run on this machine: {reason}")
        # Docker's library leaves a socket open, and Python complains, for each try in vain.
        with contextlib.suppress(DockerException, OSError):
            if Path(socket.removeprefix("unix://")).exists():
                client.append(docker.DockerClient(base_url=socket))
        return bool(client)

    wait_until(answers, "dockerd to answer", timeout_s=60)
    return client[0]


def _import_image(client: Any) -> None:
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tree:
            for name in (*_ENOUGH, "/etc", "/tmp", "/proc", "/sys", "/dev", "/run"):
                entry = tarfile.TarInfo(name.lstrip("/"))
                # What is mounted there takes the mode of what it covers.
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "/tmp" else 0o755
                tree.addfile(entry)
        file.seek(0)
        path = os.pathsep.join([f"{sys.prefix}/bin", "/usr/bin", "/bin"])
        changes = [f"ENV PATH={path} PYTHONPATH={REPOSITORY}", f"WORKDIR {REPOSITORY}"]
        repository, _, tag = IMAGE.partition(":")
        client.api.import_image_from_data(file.read(), repository=repository, tag=tag, changes=changes)


def _python() -> tuple[str, ...]:
    """Return what our own interpreter and code consist of."""
    prefixes = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1]), str(REPOSITORY)}
    return tuple(path for path in (*_ENOUGH, *sorted(prefixes)) if Path(path).exists())
