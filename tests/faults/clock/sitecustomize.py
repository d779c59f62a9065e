"""Python runs this at its start where the folder is on PYTHONPATH: `time.time` and `time.time_ns` can then be moved.

The number of seconds to add stands in the file that FAULTS_CLOCK names; without it the
clock is right. Monotonic clocks stay as they are, as they do when a machine's clock
jumps. `datetime.now` asks the system itself and does not jump.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_EVERY_S = 0.05


def install(file: Path) -> None:
    real, real_ns = time.time, time.time_ns
    state = {"until": 0.0, "offset": 0.0}

    def offset() -> float:
        now = time.monotonic()
        if now > state["until"]:
            try:
                state["offset"] = float(file.read_text() or 0)
            except (OSError, ValueError):
                state["offset"] = 0.0
            state["until"] = now + _EVERY_S
        return state["offset"]

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1_000_000_000)


if "FAULTS_CLOCK" in os.environ:
    install(Path(os.environ["FAULTS_CLOCK"]))
