"""Programs that a comparison starts: each in a session of its own, ended with all that it started."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.processes import alive
from tests.stack import REPOSITORY
from tests.waiting import wait_until

_END_WITHIN_S = 15.0
_TAIL_LINES = 15


class NotStartedError(Exception):
    """A program ended before it answered. The text ends with the last lines of its log."""


@contextlib.contextmanager
def started(
    command: Sequence[str], *, log: Path, probe: str, env: Mapping[str, str] | None = None, within_s: float = 120.0
) -> Iterator[psutil.Process]:
    """Run a program until its end, from the moment that `probe` (a URL) answers 200. Raises NotStartedError."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=REPOSITORY,
            env={**os.environ, **(env or {})},
        )
    root = psutil.Process(process.pid)
    try:
        try:
            wait_until(lambda: process.poll() is not None or answers(probe), f"{probe} to answer", timeout_s=within_s)
        except AssertionError as error:
            raise NotStartedError(f"{error}: {tail(log)}") from None
        if process.poll() is not None:
            raise NotStartedError(f"ended with {process.returncode}: {tail(log)}")
        yield root
    finally:
        family = tree(root)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_WITHIN_S)
        for left in alive(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def tree(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants, none if it has ended."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
