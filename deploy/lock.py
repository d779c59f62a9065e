"""Write the lock files: every version pinned, every file hashed (`make lock`).

`requirements/*.lock` are made from the extras of setup.cfg and from nothing
else. Each begins with a digest of what it was made from, so that `--check` can
say, offline and at once, whether a lock still belongs to its setup.cfg.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.installer import entries

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "requirements"
BUILD_IN = "build.in"
INPUTS_LINE = "# inputs: sha256:"

_HEADER = """\
# Made by `make lock` from setup.cfg; not edited by hand.
# For Linux x86_64 with glibc 2.31 or later and CPython 3.11 or later. Install with:
#   pip install --no-deps --require-hashes -r THIS_FILE
"""


class LockError(Exception):
    """A lock could not be made. The text is the resolver's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """One lock file and what is resolved into it."""

    name: str
    extras: tuple[str, ...]
    """Extras of setup.cfg, beside what every installation needs."""
    constraints: tuple[str, ...] = ()
    """Locks made before this one, with whose versions it has to agree."""
    excludes: str | None = None
    """A file of packages to leave out, though something asks for them."""


# In the order of making. The engines come first where they are the pickier
# side: the others follow their versions, so that any of them can be installed
# over any other (`tests/test_repository.py` checks that they agree).
LOCKS = (
    Lock(name="cpu.lock", extras=("cpu", "flower"), excludes="cpu-excludes.in"),
    Lock(name="base.lock", extras=("flower",), constraints=("cpu.lock",)),
    Lock(name="gpu.lock", extras=("gpu", "flower"), constraints=("base.lock",)),
    Lock(name="dev.lock", extras=("dev",), constraints=("cpu.lock",)),
)


def digest(lock: Lock, setup_cfg: str, files: Sequence[str]) -> str:
    """Return the fingerprint of everything that decides what `lock` holds.

    Comments and the other sections of setup.cfg do not count.
    """
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(setup_cfg)
    wanted = [config["options"]["python_requires"], config["options"]["install_requires"]]
    wanted += [config["options.extras_require"][extra] for extra in lock.extras]
    lines = [line.split("#")[0].strip() for text in (*wanted, *files) for line in text.splitlines()]
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()


def recorded_digest(lock_text: str) -> str | None:
    """Return the fingerprint a lock file carries, or None if it has none."""
    found = re.search(rf"^{re.escape(INPUTS_LINE)}([0-9a-f]+)$", lock_text, re.MULTILINE)
    return found[1] if found else None


def stale(root: Path = ROOT) -> list[str]:
    """Return the names of the locks that no longer belong to setup.cfg."""
    setup_cfg = (root / "setup.cfg").read_text()
    return [lock.name for lock in LOCKS if _recorded(root, lock) != digest(lock, setup_cfg, _files(root, lock))]


def resolver_options(lock: Lock, *, index_url: str, find_links: str) -> list[str]:
    """Return uv's options for `lock`; uv does not read pip's configuration, so pip's own places are passed on."""
    options = ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url", "--quiet"]
    options += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    options += [option for extra in lock.extras for option in ("--extra", extra)]
    options += [option for name in lock.constraints for option in ("--constraint", f"{FOLDER}/{name}")]
    if lock.excludes:
        options += ["--excludes", f"{FOLDER}/{lock.excludes}"]
    if index_url:
        options += ["--default-index", index_url]
    if find_links:
        options += [option for place in find_links.split() for option in ("--find-links", place)]
    elif "cpu" in lock.extras:
        options += ["--torch-backend", "cpu"]
    return options


def make(lock: Lock, root: Path = ROOT) -> int:
    """Resolve `lock` anew, write it, and return how many packages it pins."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "setup.cfg", f"{FOLDER}/{BUILD_IN}"]
    command += resolver_options(lock, index_url=_pip("index-url"), find_links=_pip("find-links"))
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LockError(f"{lock.name}: {done.stderr.strip()}")
    pinned = entries(done.stdout)
    if lock.name == "dev.lock":
        for name in entries((root / FOLDER / "base.lock").read_text()):
            pinned.pop(name, None)
    fingerprint = digest(lock, (root / "setup.cfg").read_text(), _files(root, lock))
    (root / FOLDER / lock.name).write_text(f"{_HEADER}{INPUTS_LINE}{fingerprint}\n{''.join(pinned.values())}")
    return len(pinned)


def _recorded(root: Path, lock: Lock) -> str | None:
    path = root / FOLDER / lock.name
    return recorded_digest(path.read_text()) if path.exists() else None


def _files(root: Path, lock: Lock) -> list[str]:
    wanted = [BUILD_IN, *([lock.excludes] if lock.excludes else [])]
    return [(root / FOLDER / name).read_text() for name in wanted]


def _pip(option: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{option}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.lock", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the locks belong to setup.cfg")
    if parser.parse_args(argv).check:
        for name in (old := stale()):
            print(f"{FOLDER}/{name} was made from another setup.cfg: run `make lock` and commit the result")
        return 1 if old else 0
    try:
        for lock in LOCKS:
            print(f"{FOLDER}/{lock.name}: {make(lock)} packages")
    except LockError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
