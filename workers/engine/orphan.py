"""A vLLM plugin: an engine process ends when the worker that started it has died.

vLLM's engine process waits for work from its parent and does not notice that nobody
is left to send any: after a SIGKILL of the worker it would hold its memory for ever.
vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`).
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

SCRATCH_PREFIX = "celerity-engine-"
"""How the folder is called that a worker gives its engine for sockets and temporary files."""


def new_scratch() -> str:
    """Make this worker's folder, and remove those whose worker was killed together with its engine."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        owner = left.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-")


# A clean end takes 3 s; a process that hangs is not waited for.
_GRACE_S = 8.0


def register() -> None:
    """Called by vLLM. Does nothing in a process that is not the child of another Python process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent,), name="celerity-orphan", daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()  # a pipe that the kernel closes with the parent: nothing is polled
    scratch = Path(tempfile.gettempdir())
    if scratch.name.startswith(SCRATCH_PREFIX):  # the worker would have removed it
        shutil.rmtree(scratch, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_S)
    os._exit(1)
