"""A process that was forked of the worker when that had one thread and no connection, to become its engine's later.

vLLM runs an engine in a process of Python's `multiprocessing`. Spawned, that imports
again all that the worker has imported; forked when it is needed, it would copy the
worker's threads' locks and hold its connections open. A seed has neither drawback. It
waits for what a spawned process is told, and for the environment as it is by then.

A seed is a child of the worker, and ends when the worker does. Whoever finds none left,
or has open files to hand over, gets a process that is spawned.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import context, popen_spawn_posix, reduction, spawn, util
from multiprocessing.process import BaseProcess
from typing import NoReturn

_LENGTH = struct.Struct("!Q")

Settle = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Seed:
    """A child that waits to be told what it is on the pipe `telling`, and whose end shows on the pipe `living`."""

    pid: int
    telling: int
    living: int

    def close(self) -> None:
        os.close(self.telling)
        os.close(self.living)


# Those of this process. A fork of it has none: they are not its children.
_seeds: list[Seed] = []
os.register_at_fork(after_in_child=_seeds.clear)


def plant(settle: Settle) -> None:
    """Fork a seed, which calls `settle` as soon as it has the environment of what it is to be."""
    told, telling = os.pipe()
    living, lived = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(telling)
        os.close(living)
        _wait(told, settle)
    os.close(told)
    os.close(lived)
    _seeds.append(Seed(pid, telling, living))


def multiprocessing_context() -> context.SpawnContext | None:
    """Return a context whose next process is a seed of ours; None when there is no seed."""
    return _Context() if _seeds else None


class _NoFilesError(Exception):
    """A process cannot be told of open files by a pipe."""


class _Popen(popen_spawn_posix.Popen):
    """Satisfies what `multiprocessing` wants of a process's starter. A seed is a child like a forked one."""

    def __init__(self, process_obj: BaseProcess, seed: Seed) -> None:
        self._seed = seed
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        raise _NoFilesError

    def _launch(self, process_obj: BaseProcess) -> None:
        what = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), what)
            reduction.dump(process_obj, what)
        finally:
            context.set_spawning_popen(None)
        environment = json.dumps(dict(os.environ)).encode()
        self.pid, self.sentinel = self._seed.pid, self._seed.living
        # It stays open: the child takes its closing for our end.
        self.finalizer = util.Finalize(self, self._seed.close)
        with open(self._seed.telling, "wb", closefd=False) as pipe:
            pipe.write(_LENGTH.pack(len(environment)) + environment + what.getvalue())


def _start(process_obj: BaseProcess) -> popen_spawn_posix.Popen:
    while _seeds:
        try:
            return _Popen(process_obj, _seeds.pop())
        except _NoFilesError:
            break
        except BrokenPipeError:
            continue
    return popen_spawn_posix.Popen(process_obj)


class _Process(context.SpawnProcess):
    _Popen = staticmethod(_start)


class _Context(context.SpawnContext):
    Process = _Process


def _wait(told: int, settle: Settle) -> NoReturn:
    code = 1
    try:
        if (environment := _environment(told)) is not None:
            os.environ.clear()
            os.environ.update(environment)
            settle()
            code = spawn._main(told, os.dup(told))
    except BaseException:  # noqa: BLE001 - a fork's boundary: beyond it is the worker's own code
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _environment(told: int) -> dict[str, str] | None:
    """Return what we are told first; None when our worker has ended."""
    if not (head := _exactly(told, _LENGTH.size)):
        return None
    return dict(json.loads(_exactly(told, _LENGTH.unpack(head)[0])))


def _exactly(pipe: int, size: int) -> bytes:
    # Without a buffer, which would swallow what follows.
    data = b""
    while len(data) < size and (piece := os.read(pipe, size - len(data))):
        data += piece
    return data if len(data) == size else b""
