"""The two helper processes that make sure nobody outlives the launcher. They import next to nothing.

`watch` is the guard: it reads process groups from a pipe and does nothing else, until
nobody holds the pipe's other end any more. That happens only when the launcher has
ended, in whatever way, SIGKILL included. Then it ends the groups that are left.

`run` is what a guarded process is before its own program begins: it puts its group on
the pipe and becomes the program. So there is no moment in which the launcher can die
and leave a process that the guard has not heard of.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

_POLL_S = 0.05


def watch(grace_s: float) -> None:
    # Only the end of the pipe ends a guard: whoever signals the launcher's whole family must not reach it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, None] = {}
    for line in sys.stdin.buffer:
        change, group = line[:1], int(line[1:])
        if change == b"+":
            groups[group] = None
        else:
            groups.pop(group, None)
    # Whoever was started first is what the others need to say goodbye (Redis).
    first, rest = list(groups)[:1], list(groups)[1:]
    _end(rest, grace_s)
    _end(first, grace_s)


def run(pipe: int, argv: list[str]) -> None:
    # Shorter than PIPE_BUF, so it arrives whole whoever else writes.
    os.write(pipe, b"+%d\n" % os.getpid())
    os.close(pipe)
    os.execvp(argv[0], argv)  # noqa: S606 - the launcher's own command, no shell


def _end(groups: list[int], grace_s: float) -> None:
    left = {group for group in groups if _signal(group, signal.SIGTERM)}
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = {group for group in left if _signal(group, 0)}
    if left:
        # Only now, so that a guard that waits, which is nearly always, stays small.
        from workers.launcher.group import finish  # noqa: PLC0415

        for group in left:
            finish(group)


def _signal(group: int, number: int) -> bool:
    """Say whether the group still has a process."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


def main() -> None:
    match sys.argv[1:]:
        case ["watch", grace_s]:
            watch(float(grace_s))
        case ["run", pipe, *argv]:
            run(int(pipe), argv)
        case _:
            sys.exit("usage: guard_process watch GRACE_S | run PIPE PROGRAM [ARGUMENT …]")


if __name__ == "__main__":
    main()
