"""Ends the replicas of a launcher that nobody wants any more: orphans, or all of them when everything stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable

from workers.launcher.base import Launcher, Replica

_POLL_S = 0.05
# A process that was killed and does not die hangs in a driver; nobody can do more about it.
_DIES_WITHIN_S = 10.0


def end_all(
    launcher: Launcher,
    *,
    grace_s: float,
    keep: Container[str] = (),
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> tuple[str, ...]:
    """End every replica but those in `keep`, and forget it; return who that was.

    Who has not stopped within `grace_s` is killed; who does not die even then stays listed.
    Raises LaunchError when the launcher does not answer: what it can then is to be asked again.
    """

    def left_after(within_s: float, of: Iterable[Replica]) -> list[Replica]:
        left = [replica for replica in of if replica.exit_code() is None]
        deadline = clock() + within_s
        while left and clock() < deadline:
            wait(_POLL_S)
            left = [replica for replica in left if replica.exit_code() is None]
        return left

    unwanted = [replica for replica in launcher.list() if replica.name not in keep]
    for replica in unwanted:
        replica.terminate()
    stubborn = left_after(grace_s, unwanted)
    for replica in stubborn:
        replica.kill()
    immortal = {replica.name for replica in left_after(_DIES_WITHIN_S, stubborn)}
    ended = [replica for replica in unwanted if replica.name not in immortal]
    for replica in ended:
        replica.forget()
    return tuple(replica.name for replica in ended)
