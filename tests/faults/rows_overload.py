"""F33 and F34: more than can be done, and clients that try again."""

from __future__ import annotations

import random
import statistics
import threading
import time
from typing import Any

import openai

from tests.faults.load import Load, Outcomes, reach
from tests.faults.outcome import Kind, Outcome
from tests.faults.row import Run, first_words
from tests.faults.setups import SEATS

FLOOD_S = 30.0
TIMES = 10
_REFUSED_WITHIN_S = 0.1


def flood(run: Run) -> None:
    """F33: ten times as much as can be done, for 30 s, in an open loop: nobody waits for an answer to ask again."""
    alone = statistics.median(reach(run.system.port, run.book.next()).took_s for _ in range(3))
    capacity = _capacity(run)
    began = time.monotonic()
    run.fault()
    flooded = Outcomes()
    threads: list[threading.Thread] = []
    while (now := time.monotonic()) < began + FLOOD_S:
        due = int((now - began) * capacity * TIMES)
        while len(threads) < due:
            what = run.book.next(stream=len(threads) % 2 == 0)
            thread = threading.Thread(target=lambda what=what: flooded.add(reach(run.system.port, what)), daemon=True)
            thread.start()
            threads.append(thread)
        time.sleep(0.005)
    run.healed()
    recovered = _recovery(run, alone)
    for thread in threads:
        thread.join()
    for outcome in flooded:
        run.outcomes.add(outcome)
    _check_flood(run, list(flooded), began, capacity)
    run.check("back to normal within 10 s", recovered <= 10, f"{recovered:.1f} s")


def _capacity(run: Run) -> float:
    """Return how many answers a second the workers give when they are just full."""
    seen = Outcomes()
    load = Load(run.system, run.book, seen, clients=SEATS + 2).start()
    time.sleep(2)
    began, before = time.monotonic(), len(seen)
    time.sleep(8)
    rate = (len(seen) - before) / (time.monotonic() - began)
    load.stop()
    return rate


def _recovery(run: Run, alone: float) -> float:
    began = time.monotonic()
    while time.monotonic() - began < 30:
        outcome = run.outcomes.add(reach(run.system.port, run.book.next()))
        if outcome.kind is Kind.CLEAN and outcome.took_s < 2 * alone + 0.2:
            break
        time.sleep(0.2)
    return time.monotonic() - began


def _check_flood(run: Run, flooded: list[Outcome], began: float, capacity: float) -> None:
    clean = [o for o in flooded if o.kind is Kind.CLEAN]
    refused = [o for o in flooded if o.status in (429, 503)]
    odd = [o for o in flooded if o.kind is not Kind.CLEAN and o.status not in (429, 503)]
    run.check("whoever is accepted is answered in time", not odd, first_words(odd))
    # From when the queue is full to when the flood ends.
    goodput = sum(began + 5 <= o.ended <= began + FLOOD_S for o in clean) / (FLOOD_S - 5)
    run.check("goodput ≥ 90 % of capacity", goodput >= 0.9 * capacity, f"{goodput:.2f} of {capacity:.2f} answers/s")
    run.check("most are refused", len(refused) > len(flooded) / 2, f"{len(refused)} of {len(flooded)}")
    if refused:
        times = sorted(o.took_s for o in refused)
        p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
        told = f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
        run.check("refused in under 100 ms (p99)", p99 < _REFUSED_WITHIN_S, told)
        hints = {o.retry_after for o in refused}
        run.check("with Retry-After, not all the same", "" not in hints and len(hints) > 1, sorted(hints))


def retry_storm(run: Run) -> None:
    """F34: 20 of OpenAI's own clients, which try twice again, while the only worker is killed."""
    sent: list[str] = []
    logical = [0]
    lock = threading.Lock()
    stop = threading.Event()

    def count(request: Any) -> None:
        with lock:
            sent.append(request.headers.get("x-stainless-retry-count", ""))

    def client(index: int) -> None:
        chance = random.Random(index)
        ids = [""]

        def note(response: Any) -> None:
            ids[0] = response.headers.get("x-request-id", "")

        with (
            openai.DefaultHttpxClient(event_hooks={"request": [count], "response": [note]}) as http,
            openai.OpenAI(
                base_url=f"http://127.0.0.1:{run.system.port()}/v1", api_key="none", max_retries=2, http_client=http
            ) as sdk,
        ):
            while not stop.is_set():
                with lock:
                    logical[0] += 1
                outcome = run.outcomes.add(_with_sdk(run, sdk, stream=chance.random() < 0.5))
                outcome.request_id = ids[0]

    threads = [threading.Thread(target=client, args=(index,), daemon=True) for index in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    run.fault()
    for slot in run.system.workers(run.model):
        slot.process.kill()
    time.sleep(8)
    stop.set()
    for thread in threads:
        thread.join()
    run.system.wait_ready()
    amplification = len(sent) / logical[0]
    again = sum(count not in ("", "0") for count in sent)
    told = f"{amplification:.2f} ({again} repeated)"
    run.check("at most 1.2 requests for each one meant", amplification <= 1.2, told)
    run.all_clean()


def _with_sdk(run: Run, sdk: openai.OpenAI, *, stream: bool) -> Outcome:
    what = run.book.next(stream=stream)
    outcome = Outcome(model=what.model, stream=stream, began=time.monotonic())
    messages: Any = [{"role": "user", "content": what.prompt}]
    create = sdk.chat.completions.create
    try:
        if stream:
            parts = create(model=what.model, max_tokens=what.tokens, messages=messages, stream=True)
            text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        else:
            answer = create(model=what.model, max_tokens=what.tokens, messages=messages)
            text = answer.choices[0].message.content or ""
    except openai.OpenAIError as error:
        outcome.kind, outcome.why = Kind.FAILED, f"{type(error).__name__}: {error}"
    else:
        right = text == what.expected
        outcome.kind, outcome.why = (Kind.CLEAN, "") if right else (Kind.DIRTY, f"wrong text: {text[:60]!r}")
    outcome.ended = time.monotonic()
    return outcome
