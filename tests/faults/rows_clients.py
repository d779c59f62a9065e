"""F19–F22: clients that leave, come in crowds and leave, do not read, or do not finish what they say."""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator

from tests.faults.client import Ask
from tests.faults.expected import sim_ask
from tests.faults.outcome import Kind, Outcome
from tests.faults.row import Run
from tests.faults.setups import FAST, SIM, SLOW
from tests.waiting import wait_until

IDLE_WITHIN_S = 5.0
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Dangling:
    """A request whose client can leave at any moment."""

    def __init__(self, port: int, what: Ask, *, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(30)
        self.sock.connect(("127.0.0.1", port))
        self.sock.sendall(request_bytes(what))

    def read_some(self) -> bytes:
        return self.sock.recv(4096)

    def leave(self, *, rudely: bool = False) -> None:
        if rudely:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.sock.close()


def request_bytes(what: Ask) -> bytes:
    body = what.body()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def leaves_in_every_phase(run: Run) -> None:
    """F19: queued, while the prompt is read, while it streams, without streaming, and without a worker."""
    small = run.model
    _leaving(run, small, "while it streams", [sim_ask(small, tokens=5000)] * 3, ready=_running(run, small, 3))
    _leaving(
        run, small, "without streaming", [sim_ask(small, tokens=5000, stream=False)] * 3, ready=_running(run, small, 3)
    )
    _leaving(run, SLOW, "before the first token", [sim_ask(SLOW, "!stall")] * 3, ready=_running(run, SLOW, 3))
    seats = [Dangling(run.system.port(), sim_ask(small, tokens=5000)) for _ in range(4)]
    wait_until(_running(run, small, 4), "the seats to be taken")
    queued = [sim_ask(small, tokens=5000)] * 5
    _leaving(
        run,
        small,
        "in the queue",
        queued,
        ready=lambda: run.system.waiting(small) == 5,
        idle=lambda: run.system.waiting(small) == 0,
    )
    for dangling in seats:
        dangling.leave(rudely=True)
    _idle(run, small, "after RST", lambda: run.system.in_flight(small) == 0)
    # No worker serves this model here.
    _leaving(
        run,
        SIM,
        "without a worker",
        [sim_ask(SIM)] * 3,
        ready=lambda: run.system.waiting(SIM) == 3,
        idle=lambda: run.system.waiting(SIM) == 0,
    )


def leaves_a_real_engine(run: Run) -> None:
    """F19 on vLLM: in the middle of a stream, and while an answer in one piece is made."""
    for stream in (True, False):
        name = "while it streams" if stream else "without streaming"
        what = Ask(
            model=run.model, prompt="Count for me.", expected="", tokens=1500, stream=stream, extra={"ignore_eos": True}
        )
        _leaving(run, run.model, name, [what] * 4, ready=_running(run, run.model, 1))


def _running(run: Run, model: str, count: int) -> Callable[[], bool]:
    return lambda: run.system.in_flight(model) >= count


def _leaving(
    run: Run,
    model: str,
    phase: str,
    asks: list[Ask],
    *,
    ready: Callable[[], bool],
    idle: Callable[[], bool] | None = None,
) -> None:
    began = time.monotonic()
    danglings = [Dangling(run.system.port(), what) for what in asks]
    wait_until(ready, f"requests {phase}", timeout_s=30)
    run.fault()
    for dangling in danglings:
        dangling.leave()
        run.outcomes.add(Outcome(model=model, stream=True, began=began, ended=time.monotonic(), kind=Kind.CANCELLED))
    _idle(run, model, phase, idle or (lambda: run.system.in_flight(model) == 0))


def _idle(run: Run, model: str, phase: str, idle: Callable[[], bool]) -> None:
    began = time.monotonic()
    with contextlib.suppress(AssertionError):
        wait_until(idle, f"{model} to be idle", timeout_s=30)
    took = time.monotonic() - began
    run.check(
        f"{phase}: nothing is left within {IDLE_WITHIN_S:g} s", took <= IDLE_WITHIN_S, f"{took:.1f} s", timed=True
    )


def come_and_leave(run: Run) -> None:
    """F20: 500 clients connect, mostly ask, and leave at any moment."""
    load = run.load(4)
    time.sleep(3)
    before = [gateway.descriptors() for gateway in run.system.gateways]
    memory = [gateway.serving().memory_info().rss for gateway in run.system.gateways]
    run.fault()

    def visitor(index: int) -> None:
        chance = random.Random(index)
        for _ in range(25):
            _visit(run, chance)

    threads = [threading.Thread(target=visitor, args=(index,), daemon=True) for index in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.stop()
    _idle(
        run, run.model, "500 visits", lambda: run.system.in_flight(run.model) == 0 and not run.system.waiting(run.model)
    )
    _check_descriptors(run, before)
    grown = [
        gateway.serving().memory_info().rss - was for gateway, was in zip(run.system.gateways, memory, strict=True)
    ]
    run.check("gateways grow by less than 30 MiB", max(grown) < 30 << 20, [f"{g / 2**20:.1f} MiB" for g in grown])
    rest = run.unlike(Kind.CLEAN, Kind.CANCELLED)
    run.check("whoever stays is answered", not rest, len(rest))


def _visit(run: Run, chance: random.Random) -> None:
    what = run.book.next(stream=chance.random() < 0.7, tokens=400)
    began = time.monotonic()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", run.system.port()), timeout=10) as sock:
        data = request_bytes(what)
        # Some never say anything, some stop in the middle, most ask.
        part = chance.choices((0, len(data) // 2, len(data)), (1, 1, 8))[0]
        sock.sendall(data[:part])
        time.sleep(chance.random() * 0.4)
        if chance.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    run.outcomes.add(
        Outcome(model=run.model, stream=what.stream, began=began, ended=time.monotonic(), kind=Kind.CANCELLED)
    )


def _check_descriptors(run: Run, before: list[int]) -> None:
    """Idle connections to Redis may stay; one for each visit may not."""

    def now() -> list[int]:
        return [gateway.descriptors() for gateway in run.system.gateways]

    with contextlib.suppress(AssertionError):
        wait_until(
            lambda: all(n <= was + 10 for n, was in zip(now(), before, strict=True)), "descriptors", timeout_s=15
        )
    after = now()
    passed = all(n <= was + 10 for n, was in zip(after, before, strict=True))
    run.check("no descriptor is leaked", passed, f"{before} before, {after} after")


def do_not_read(run: Run) -> None:
    """F21: clients that ask for megabytes and never read; the limit on a write ends them."""
    load = run.load(8)
    time.sleep(4)
    before = _p99(run)
    with run.system.client() as client:
        used = int(client.info("memory")["used_memory"])
    run.fault()
    danglings = [Dangling(run.system.port(), sim_ask(FAST, tokens=60_000), receive_buffer=4096) for _ in range(4)]
    began = time.monotonic()
    with _peak(run) as peak, contextlib.suppress(AssertionError):
        wait_until(lambda: run.system.in_flight(FAST) > 0, "the answers to begin")
        wait_until(lambda: _gateways_hold(run, FAST) == 0, "the server to end them", timeout_s=60)
    took = time.monotonic() - began
    run.healed()
    for dangling in danglings:
        dangling.leave(rudely=True)
    time.sleep(2)
    load.stop()
    run.check("they are ended by the limit on a write (3 s, and what the kernel takes)", took < 30, f"{took:.1f} s")
    run.check("Redis holds no more than the answers", peak[0] - used < 150 << 20, f"{(peak[0] - used) / 2**20:.0f} MiB")
    after = _p99(run, since=run.fault_at or 0)
    run.check("p99 of the others at most doubles", after <= 2 * before + 0.5, f"{before:.2f} s, then {after:.2f} s")
    run.all_clean()


def _gateways_hold(run: Run, model: str) -> float:
    told = [gateway.metric(f'celerity_requests_in_flight{{model="{model}"}}') for gateway in run.system.gateways]
    return sum(number or 0 for number in told)


@contextlib.contextmanager
def _peak(run: Run) -> Iterator[list[int]]:
    peak = [0]
    stop = threading.Event()

    def look() -> None:
        with run.system.client() as client:
            while not stop.wait(0.1):
                peak[0] = max(peak[0], int(client.info("memory")["used_memory"]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _p99(run: Run, since: float = 0.0) -> float:
    times = [o.took_s for o in run.outcomes if o.kind is Kind.CLEAN and o.began >= since]
    return statistics.quantiles(times, n=100)[98]


def speak_slowly(run: Run) -> None:
    """F22: 20 clients a byte a second into the header, 20 a byte a second into the body."""
    load = run.load(8)
    time.sleep(2)
    run.fault()
    ends: dict[str, list[float]] = {"header": [], "body": []}
    replies: list[bytes] = []

    def slow(kind: str) -> None:
        data = request_bytes(run.book.next())
        cut = 20 if kind == "header" else data.index(b"\r\n\r\n") + 8
        began = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", run.system.port()), timeout=1) as sock,
            contextlib.suppress(OSError),
        ):
            sock.sendall(data[:cut])
            for at in range(cut, cut + 20):
                sock.sendall(data[at : at + 1])
                with contextlib.suppress(TimeoutError):
                    reply = sock.recv(4096)
                    replies.append(reply)
                    break
        ends[kind].append(time.monotonic() - began)

    threads = [
        threading.Thread(target=slow, args=(kind,), daemon=True) for kind in ("header", "body") for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.healed()
    load.stop()
    run.check("slow headers are closed (limit 2 s)", max(ends["header"]) < 5, f"{max(ends['header']):.1f} s")
    run.check("slow bodies are ended (limit 3 s)", max(ends["body"]) < 6, f"{max(ends['body']):.1f} s")
    status = sum(reply.startswith(b"HTTP/1.1 408") for reply in replies)
    run.check("with 408 where there was a header", status == 20, status)
    run.all_clean()
