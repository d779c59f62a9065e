"""Two A40s where there are none: a stand-in for the driver's library, found and called as the real one is.

pynvml opens `libnvidia-ml.so.1` by name, so the library is compiled under that name and
its folder put first where a process looks for libraries. That is settled when a process
starts, hence the survey runs in one of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

import pytest

from workers.cuda_visible import ORDER, VISIBLE
from workers.devices import Device, DeviceKind, Holder
from workers.inventory import Inventory, Survey

REPOSITORY = Path(__file__).parents[2]
SOURCE = Path(__file__).with_suffix(".c")
TWO_A40S = "gpu 0 46068 1000 NVIDIA A40\ngpu 1 46068 0 NVIDIA A40\n"


def build(folder: Path) -> Path:
    """Compile the library into `folder` and return it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        assert "CI" not in os.environ, "a C compiler is needed: install gcc"
        pytest.skip("needs a C compiler (gcc) to make a stand-in for NVIDIA's driver")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(SOURCE)], check=True)
    return library


class Machine:
    """A process that sees the double, and surveys its devices whenever it is asked."""

    def __init__(self, library: Path, facts: Path, **environ: str) -> None:
        self._facts = facts
        kept = {name: value for name, value in os.environ.items() if name not in (VISIBLE, ORDER)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**kept, "LD_LIBRARY_PATH": str(library.parent), "NVML_DOUBLE": str(facts), **environ},
        )

    def survey(self, facts: str, *, ours: tuple[int, ...] = ()) -> Survey:
        """Look at a machine of which `facts` are true; nvml_double.c says how they are written."""
        return _decode(self._ask("survey", facts, ours))

    def held(self, facts: str, *, ours: tuple[int, ...]) -> dict[str, int]:
        """Ask what `ours` hold there."""
        return self._ask("held", facts, ours)

    def _ask(self, question: str, facts: str, ours: tuple[int, ...]) -> dict[str, Any]:
        self._facts.write_text(facts)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([question, ours]) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def _decode(told: dict[str, Any]) -> Survey:
    devices = tuple(
        Device(
            **it
            | {
                "kind": DeviceKind(it["kind"]),
                "foreign": None if it["foreign"] is None else tuple(Holder(**holder) for holder in it["foreign"]),
            }
        )
        for it in told.pop("devices")
    )
    return Survey(devices=devices, **told)


def answer(questions: IO[str], answers: IO[str]) -> None:
    inventory = Inventory()
    for line in questions:
        question, pids = json.loads(line)
        ours = set(pids).__contains__
        told = inventory.held(ours) if question == "held" else asdict(inventory.survey(ours))
        answers.write(json.dumps(told) + "\n")
        answers.flush()
    inventory.close()


if __name__ == "__main__":
    answer(sys.stdin, sys.stdout)
