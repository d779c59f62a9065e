"""What a replica is around its own program: what it has imported before, and how it ends.

Started by its launcher, without a zygote:
`python -m workers.launcher.replica_process MODULE[,MODULE…] PROGRAM ARGUMENT…`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NoReturn

# What CUDA and ROCm hold open once they are initialised. NVML, which may be, does without.
_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd")


def become(modules: Sequence[ModuleType], program: str, args: Sequence[str]) -> NoReturn:
    """Run `program` as `python -m` would, in a process that has nothing but `modules` imported."""
    leave(lambda: _run(modules, program, args))


def leave(last: Callable[[], int]) -> NoReturn:
    """Do `last`, and end this process with what it returns. Does not return to whoever forked us, whatever happens."""
    code = 1
    try:
        code = last()
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:  # noqa: BLE001 - a process's boundary: beyond it may be what we were forked of
        traceback.print_exc()
    # To take the libraries apart that an engine has imported costs the interpreter seconds.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def unfit() -> str | None:
    """Return why a fork of this process might not work."""
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        return f"what was imported has started {threads - 1} threads"
    for held in Path("/proc/self/fd").iterdir():
        if held.exists() and str(held.resolve()).startswith(_DEVICES):
            return f"what was imported holds {held.resolve()}"
    return None


def _run(modules: Sequence[ModuleType], program: str, args: Sequence[str]) -> int:
    for module in modules:
        if call := getattr(module, "forked", None):
            call()
    sys.argv = [program, *args]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
    return 0


def _exit_code(end: SystemExit) -> int:
    """Return what the interpreter would make of it."""
    match end.code:
        case None:
            return 0
        case int():
            return end.code & 0xFF
        case _:
            sys.stderr.write(f"{end.code}\n")
            return 1


def main() -> None:
    names, program, *args = sys.argv[1:]
    modules: list[ModuleType] = []
    # Whoever cannot do without will say so where it is asked for.
    with suppress(ImportError):
        modules = [importlib.import_module(name) for name in names.split(",")]
    gc.freeze()
    become([] if unfit() else modules, program, args)


if __name__ == "__main__":
    main()
