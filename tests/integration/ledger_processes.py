"""What the tests of the ledger run as processes of their own: `python -m tests.integration.ledger_processes WHAT …`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from tasks.bulk.ledger import Ledger
from tests.tasks.bulk.ledger_rows import answer, numbers


def say(*numbers: int) -> None:
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


def take(url: str, batch: str) -> None:
    """Take and record until there is nothing left, and print the numbers."""
    ledger = Ledger(url)
    while taken := ledger.take(batch, "demo", 7):
        assert len(ledger.record([answer(one) for one in taken])) == len(taken)
        say(*numbers(taken))
    ledger.close()


def work(url: str, batch: str) -> None:
    """Take, give back and record until killed."""
    ledger = Ledger(url)
    while taken := ledger.take(batch, "demo", 20):
        ledger.give_back(taken[:5])
        ledger.record([answer(one) for one in taken[5:]])
        say(len(taken))
    ledger.close()


def die(url: str, batch: str, what: str, at: str) -> None:
    """Do one thing, and die before its statement number `at`; print what was done where there are not that many."""
    ledger = Ledger(url)
    running = ledger.running([batch])
    left = [int(at)]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    # Its commit counts too.
    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    match what:
        case "record":
            done = len(ledger.record([answer(one) for one in running]))
        case "give_back":
            done = ledger.give_back(running)
        case "take":
            done = len(ledger.take(batch, "demo", 5))
        case _:
            raise AssertionError(what)
    say(done)


if __name__ == "__main__":
    things: dict[str, Callable[..., None]] = {"take": take, "work": work, "die": die}
    things[sys.argv[1]](*sys.argv[2:])
