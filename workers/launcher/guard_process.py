"""The helper processes that make sure nobody outlives the supervisor. They import next to nothing.

`watch` is the guard: it reads process groups from a pipe and does nothing else, until
nobody holds the pipe's other end any more. That happens only when the supervisor has
ended, in whatever way, SIGKILL included. Then it ends the groups that are left, and the
replicas of its site, which are nobody's children any more.

`run` is what a guarded process is before its own program begins: it puts its group on
the pipe and becomes the program. So there is no moment in which the supervisor can die
and leave a process that the guard has not heard of.

`replica` is the same for a replica, which a node agent starts and the supervisor has never
heard of: it puts itself on record, where the guard and the next agent look. The record
comes first and the look at the supervisor second; the guard does it the other way round.
So one of the two sees the other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress

_POLL_S = 0.05
_NO_SUPERVISOR = 75  # EX_TEMPFAIL


def watch(grace_s: float, site: str | None) -> None:
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
    left = _ask(rest)
    deadline = time.monotonic() + grace_s
    if site is not None:
        _end_replicas(site, grace_s)
    _finish(left, deadline)
    _finish(_ask(first), time.monotonic() + grace_s)


def run(pipe: int, argv: list[str]) -> None:
    # Shorter than PIPE_BUF, so it arrives whole whoever else writes.
    os.write(pipe, b"+%d\n" % os.getpid())
    os.close(pipe)
    os.execvp(argv[0], argv)  # noqa: S606 - the launcher's own command, no shell


def replica(record: str, facts: str, site: str, argv: list[str]) -> None:
    enlist(record, facts, site)
    os.execvp(argv[0], argv)  # noqa: S606 - the launcher's own command, no shell


def enlist(record: str, facts: str, site: str) -> None:
    """Write `facts` and who we are to the file `record`. With a `site`, end when no supervisor holds it."""
    known = {"pid": os.getpid(), "started_at": time.time(), "ticks": start_ticks(os.getpid())}
    draft = f"{record}.new"
    with open(draft, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes as long to import as all the rest
        json.dump(json.loads(facts) | known, file)
    os.replace(draft, record)  # noqa: PTH105
    if site:
        from workers.launcher.site import Site, is_held  # noqa: PLC0415 - only where there is a supervisor

        if not is_held(Site.from_json(site)):
            os.unlink(record)  # noqa: PTH108
            sys.stderr.write("not started: `celerity up`, to which it would have belonged, has ended\n")
            sys.exit(_NO_SUPERVISOR)


def start_ticks(pid: int) -> int | None:
    """Return when the process began, in ticks since the machine did; None where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as above
            # Behind the name, which may hold anything; there it is the 20th.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _end_replicas(site: str, grace_s: float) -> None:
    # Only now, so that a guard that waits, which is nearly always, stays small.
    from workers.launcher import create  # noqa: PLC0415
    from workers.launcher.ending import end_all  # noqa: PLC0415
    from workers.launcher.errors import LaunchError  # noqa: PLC0415
    from workers.launcher.site import Site  # noqa: PLC0415

    try:
        end_all(create(Site.from_json(site)), grace_s=grace_s)
    except LaunchError as error:
        # The processes that are left must be ended all the same; replicas wait for the next start.
        sys.stderr.write(f"replicas could not be ended: {error}\n")


def _ask(groups: list[int]) -> set[int]:
    """Ask everybody to stop; return the groups that still have a process."""
    return {group for group in groups if _signal(group, signal.SIGTERM)}


def _finish(left: set[int], deadline: float) -> None:
    """Wait for `left` until `deadline`, and kill who is left then."""
    while (left := {group for group in left if _signal(group, 0)}) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if left:
        from workers.launcher.group import finish  # noqa: PLC0415 - as above

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
            watch(float(grace_s), None)
        case ["watch", grace_s, site]:
            watch(float(grace_s), site)
        case ["run", pipe, *argv]:
            run(int(pipe), argv)
        case ["replica", record, facts, site, *argv]:
            replica(record, facts, site, argv)
        case _:
            sys.exit(
                "usage: guard_process watch GRACE_S [SITE] | run PIPE PROGRAM … | replica RECORD FACTS SITE PROGRAM …"
            )


if __name__ == "__main__":
    main()
