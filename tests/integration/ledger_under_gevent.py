"""The ledger as a patched gateway uses it: `python -m tests.integration.ledger_under_gevent URL [FILE]`.

Greenlets and threads of the system take and record at once. With FILE, which is SQLite's,
another connection then holds the lock for writing; the loop has to go on turning while a
greenlet waits for it.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sqlite3  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from gevent.threadpool import ThreadPool  # noqa: E402

from tasks.bulk.ledger import Ledger  # noqa: E402
from tests.tasks.bulk.ledger_rows import answer, batch, counts_of, lines, numbers, started  # noqa: E402


def work(ledger: Ledger, here: str) -> list[int]:
    done: list[int] = []
    while taken := ledger.take(here, "demo", 3):
        ledger.record([answer(one) for one in taken])
        done += numbers(taken)
    return done


def work_apart(url: str, here: str) -> list[int]:
    ledger = Ledger(url)
    try:
        return work(ledger, here)
    finally:
        ledger.close()


def wait_for_the_lock(ledger: Ledger, path: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = gevent.spawn(lambda: ledger.add_batch(batch(9)))
    turns = 0
    while turns < 20:
        gevent.sleep(0.001)
        turns += 1
        assert not waiting.ready()
    other.execute("ROLLBACK")
    other.close()
    assert waiting.get(timeout=10)


def main(url: str, path: str | None) -> None:
    ledger = Ledger(url)
    here = started(ledger, lines(200))
    pools = [ThreadPool(1) for _ in range(3)]
    apart = [pool.spawn(work_apart, url, here) for pool in pools]
    inside = [gevent.spawn(work, ledger, here) for _ in range(10)]
    done = sorted(number for one in [*apart, *inside] for number in one.get(timeout=60))
    assert done == list(range(1, 201)), done
    assert counts_of(ledger, here).completed == 200
    if path is not None:
        wait_for_the_lock(ledger, path)
    ledger.close()
    for pool in pools:
        pool.kill()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
