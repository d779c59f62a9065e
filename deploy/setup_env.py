"""Make the virtual environment that every other command runs in: `make setup`.

It runs before anything is installed, so it imports only the standard library
and `deploy.installer`, which does the same. It installs what the lock files
name, by hash, and never chooses a version. Nothing here acts but `main`.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.installer import Installer, SetupError, say

ROOT = Path(__file__).resolve().parent.parent
STAMP = "celerity-setup.json"
PROJECT = "setup.cfg"
RUNTIME_LOCKS = {"none": "base.lock", "cpu": "cpu.lock", "gpu": "gpu.lock"}
DEV_LOCK = "dev.lock"
# A full environment and the downloads unpacked beside it: measured for `none` and `cpu`, estimated for `gpu`.
NEEDED_MIB = {"none": 500, "cpu": 4_000, "gpu": 20_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an environment holds; kept inside it as its stamp."""

    python: str
    prefix: str
    """Where it was made: its scripts name this folder, so a moved environment is a broken one."""
    engine: str
    """`cpu`, `gpu` or `none` (gateway and control worker only)."""
    digests: dict[str, str]
    """The lock files installed into it and the project's own metadata, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an environment needs; nothing when it is all false and empty."""

    rebuild: bool = False
    locks: tuple[str, ...] = ()
    project: bool = False

    def __bool__(self) -> bool:
        return self.rebuild or self.project or bool(self.locks)


def plan(found: State | None, wanted: State) -> Plan:
    """Return what brings `found` to `wanted`. Dev tools that are there already are not too much."""
    if found is None or (found.python, found.prefix, found.engine) != (wanted.python, wanted.prefix, wanted.engine):
        return Plan(rebuild=True, locks=tuple(name for name in wanted.digests if name != PROJECT), project=True)
    lacking = [name for name, digest in wanted.digests.items() if found.digests.get(name) != digest]
    return Plan(locks=tuple(name for name in lacking if name != PROJECT), project=bool(lacking))


def wanted_state(venv: Path, *, engine: str, dev: bool, root: Path = ROOT) -> State:
    """Return what the files of the clone ask for."""
    names = [RUNTIME_LOCKS[engine], *([DEV_LOCK] if dev else [])]
    digests = {name: hashlib.sha256((root / "requirements" / name).read_bytes()).hexdigest() for name in names}
    digests[PROJECT] = metadata_digest((root / PROJECT).read_text())
    return State(python=platform.python_version(), prefix=str(venv), engine=engine, digests=digests)


def metadata_digest(setup_cfg: str) -> str:
    """Return the fingerprint of what an editable installation copies; the tools' sections do not count."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(setup_cfg)
    kept = {name: dict(config[name]) for name in config.sections() if name == "metadata" or name.startswith("options")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read_stamp(venv: Path) -> State | None:
    """Return what `venv` says it holds, or None where that cannot be known."""
    try:
        return State(**json.loads((venv / STAMP).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def adopted(venv: Path, wanted: State) -> State | None:
    """Return the state of an environment made by hand: kept when its Python is the one wanted, and empty to us."""
    try:
        made_with = (venv / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return None
    if f"version = {wanted.python}" not in made_with or not (venv / "bin" / "python").exists():
        return None
    return State(python=wanted.python, prefix=wanted.prefix, engine=wanted.engine, digests={})


def space_problem(engine: str, free_mib: int, where: Path) -> str | None:
    """Return what to tell a user whose disk is too small, or None if it is not."""
    if free_mib >= NEEDED_MIB[engine]:
        return None
    return (
        f"{where} has {free_mib} MiB free and about {NEEDED_MIB[engine]} MiB are needed: "
        "free some space, or put the environment on another disk with `make setup VENV=FOLDER`"
    )


def platform_problem(system: str, machine: str) -> str | None:
    """Return why the locks cannot be installed on this machine, or None if they can."""
    if (system, machine) == ("Linux", "x86_64"):
        return None
    return f"the lock files are for Linux on x86_64; this is {system} on {machine}"


def nvidia_gpus() -> int:
    """Return how many NVIDIA GPUs the driver shows; 0 without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@contextlib.contextmanager
def alone(root: Path = ROOT) -> Iterator[None]:
    """Hold off a second set-up of the same clone: two would install over each other."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this clone to end")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def prepare(venv: Path, *, engine: str, dev: bool) -> bool:
    """Bring `venv` to what was asked for. Returns whether there was anything to do."""
    wanted = wanted_state(venv, engine=engine, dev=dev)
    found = read_stamp(venv) or adopted(venv, wanted)
    todo = plan(found, wanted)
    if not todo:
        return False
    venv.parent.mkdir(parents=True, exist_ok=True)
    if problem := space_problem(engine, shutil.disk_usage(venv.parent).free // 2**20, venv.parent):
        raise SetupError(problem)
    kept = {} if todo.rebuild or found is None else dict(found.digests)
    installer = Installer(venv, ROOT)
    if todo.rebuild:
        installer.create()
    (venv / STAMP).unlink(missing_ok=True)  # an interrupted installation must not look finished
    for name in todo.locks:
        installer.install_lock(name)
    if todo.project:
        installer.install_project()
    if RUNTIME_LOCKS[engine] in todo.locks:
        installer.check(engine)
    state = State(**{**asdict(wanted), "digests": kept | wanted.digests})
    (venv / STAMP).write_text(json.dumps(asdict(state), indent=1))
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.setup_env", description="Make the virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--engine", choices=["auto", *RUNTIME_LOCKS], default="auto")
    parser.add_argument("--dev", action="store_true", help="with the tools for testing and linting")
    args = parser.parse_args(argv)
    started = time.monotonic()
    try:
        if problem := platform_problem(platform.system(), platform.machine()):
            raise SetupError(problem)
        engine = args.engine if args.engine != "auto" else ("gpu" if nvidia_gpus() else "cpu")
        venv = Path(os.path.abspath(args.venv))  # noqa: PTH100 - resolve() would follow a link the user put there
        with alone():
            changed = prepare(venv, engine=engine, dev=args.dev)
    except SetupError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    took = f"set up in {time.monotonic() - started:.0f} s" if changed else "up to date"
    say(f"{args.venv.name} is {took} (engine: {engine})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
