"""F6, F7 and F23–F25: workers that cannot start, messages that come twice or too late, clocks that jump."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from deploy.demo_model.corpus import MODEL_FOLDER
from tasks import keys
from tasks.queues import Priority, model_queue, queue_list
from tasks.requests.request_store import RequestStore, message_of
from tests.faults.client import ask
from tests.faults.expected import sim_ask
from tests.faults.keeping import accept, state_of
from tests.faults.load import reach, together
from tests.faults.row import Run, first_words
from tests.faults.setups import FAST, LOADING
from tests.stack import free_port
from tests.waiting import wait_until

CLOCK_FOLDER = Path(__file__).parent / "clock"


def cannot_load(run: Run) -> None:
    """F6: `celerity up` with a model that the engine cannot load, beside one that works."""
    folder = run.system.folder / "broken"
    folder.mkdir()
    models = folder / "models.yaml"
    # The demo model's weights have no such quantization, which only the engine finds out.
    models.write_text(
        "models:\n  broken: {path: 'builtin:demo', pinned: true, max_model_len: 128, memory_mib: 2000,"
        " engine_args: {dtype: float32, quantization: awq}}\n"
        f"  {FAST}: {{engine: sim, pinned: true}}\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "deploy", "up", "--port", str(port), "--models", str(models)]
    command += ["--redis-url", run.system.redis.url, "--state-dir", str(folder / "state")]
    load = run.load(4)
    time.sleep(3)
    run.fault()
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "CELERITY_NODE_ID": "broken"})
    try:
        wait_until(lambda: _status(port, "/health") == 200, "the other node to be up", timeout_s=60)
        outcome = ask(port, sim_ask("broken"))
        again = ask(port, sim_ask("broken"))
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)
    run.healed()
    load.stop()
    run.check("who waits gets model_load_failed", outcome.code == "model_load_failed", outcome.why)
    told = f"{again.code} after {again.took_s:.1f} s"
    run.check("and the next one at once", again.code == "model_load_failed" and again.took_s < 1, told)
    run.check("no path is shown", str(MODEL_FOLDER.parent) not in outcome.why, outcome.why)
    run.all_clean()


def killed_while_loading(run: Run) -> None:
    """F7: requests wait through a load that is killed in the middle and begun again once."""
    (slot,) = run.system.workers(LOADING)
    slot.respawn = False
    slot.process.kill()
    threads = together(lambda _: reach(run.system.port, run.book.next()), 10, run.outcomes)
    wait_until(lambda: run.system.waiting(LOADING) == 10, "the requests to wait")
    run.system.start_worker(slot)
    deaths = len(slot.exits)
    with run.system.client() as client:
        wait_until(lambda: client.exists(keys.replica(slot.replica_id)), "the worker to load")
    time.sleep(1.5)
    run.fault()
    slot.process.kill()
    for thread in threads:
        thread.join()
    run.check("one reload", len(slot.exits) == deaths + 1, len(slot.exits) - deaths)
    run.system.wait_ready()
    run.outcomes.add(reach(run.system.port, run.book.next()))
    run.all_clean()


def delivered_twice(run: Run) -> None:
    """F23: raw messages pushed again while their requests wait and run."""
    list_key = queue_list(model_queue(run.model), Priority.INTERACTIVE)
    # These run all the while.
    threads = together(lambda _: reach(run.system.port, run.book.next(tokens=1000)), 6, run.outcomes)
    load = run.load(8)
    pushed = 0
    time.sleep(2)
    run.fault()
    with run.system.client() as client:
        store = RequestStore(client)
        give_up = time.monotonic() + 14
        while time.monotonic() < give_up:
            for key in client.scan_iter(keys.request("*"), count=1000):
                if found := store.record(key.decode().removeprefix(keys.request(""))):
                    message = message_of(found[0])
                    client.lpush(list_key, message, message)
                    pushed += 2
            time.sleep(1)
    for thread in threads:
        thread.join()
    load.stop()
    run.check("messages were pushed twice", pushed > 50, pushed)
    again = [o.request_id for o in run.outcomes if run.watcher.of(o.request_id).tries > 1]
    run.check("no request ran twice", not again, len(again))
    run.all_clean()


def expired(run: Run) -> None:
    """F24: no worker for longer than requests may wait; a worker that comes later must not run them."""
    (slot,) = run.system.workers(run.model)
    run.system.stop_worker(slot)
    slot.process.wait(40)
    run.fault()
    waited = together(lambda _: ask(run.system.port(), run.book.next()), 4, run.outcomes)
    # These wait for nobody, so no gateway takes them back.
    kept = [accept(run.system.port(), run.book.next(stream=False))[0] for _ in range(4)]
    for thread in waited:
        thread.join()
    codes = {outcome.code for outcome in run.outcomes}
    run.check("who waited gets 504 deadline_exceeded", codes == {"deadline_exceeded"}, first_words(list(run.outcomes)))
    time.sleep(2)
    run.system.start_worker(slot)
    run.system.wait_ready()
    run.healed()
    wait_until(lambda: run.system.waiting(run.model) == 0, "the queue to be read")
    time.sleep(1)
    states = [state_of(run.system, path) for path in kept]
    run.check("the late ones are failed", set(states) == {"failed"}, states)
    log = slot.process.log.read_text()
    ids = [path.rpartition("/")[2] for path in kept]
    tries = [run.watcher.of(i).tries for i in ids]
    run.check("and were never run", not any(tries), tries)
    run.check("the worker says so in its log", log.count("expired") >= 1 or "deadline_exceeded" in log, log[-300:])
    run.outcomes.add(reach(run.system.port, run.book.next()))


def clock_jumps(run: Run) -> None:
    """F25: the clock of one worker and of one gateway jumps an hour ahead, and then an hour back."""
    folder = run.system.folder
    load = run.load(8)
    time.sleep(4)
    run.fault()
    for offset in (3600, -3600, 0):
        (folder / "clock").write_text(str(offset))
        time.sleep(6)
    run.healed()
    time.sleep(2)
    load.stop()
    exits = [slot.exits for slot in run.system.slots if slot.exits]
    run.check("no worker has ended", not exits, exits)
    run.all_clean()
    run.gaps_within(1.0)


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
