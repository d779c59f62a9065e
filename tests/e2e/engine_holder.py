"""A process that holds an engine, for the test that kills it. Writes the engine's process id and folder."""

from __future__ import annotations

import sys

from tests.e2e.engine_loop import demo, engine_processes, running


def main() -> None:
    with running(demo()) as loop:
        (process,) = engine_processes()
        sys.stdout.write(f"{process.pid} {loop.engine.scratch}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
