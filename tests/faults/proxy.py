"""A TCP proxy between our processes and Redis that can be made as bad as a network.

`python -m tests.faults.proxy UPSTREAM LISTENERS` opens as many listeners on free
loopback ports, prints the ports on one line, and then obeys lines on its standard input:

    <listener|*> pass            forward everything, and what was held
    <listener|*> hold            forward nothing and keep it, as a partition does: no RST, no FIN
    <listener|*> drop            take everything and lose it; a connection that lost something carries nothing again
    <listener|*> latency MS      forward everything, that much later
    <listener|*> reset           end every connection with a RST
    * upstream PORT              where new connections go

Each line is answered with `ok`. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_PIECE = 65536


@dataclass(eq=False)
class _Listener:
    """One port and the connections that came through it."""

    upstream: int
    lossy: bool = False
    latency_s: float = 0.0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        # A task that is cancelled when the proxy ends would be reported by asyncio's own callback.
        with contextlib.suppress(asyncio.CancelledError):
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.flowing.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            self.writers.add(far_writer)
            # TCP delivers no byte without those before it: what lost one, in either way, stays silent.
            whole = asyncio.Event()
            whole.set()
            try:
                await asyncio.gather(self._pump(reader, far_writer, whole), self._pump(far_reader, writer, whole))
            finally:
                _close(far_writer)
                self.writers.discard(far_writer)
        except OSError:
            pass  # either end has gone, and the other is told by the close below
        finally:
            _close(writer)
            self.writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, whole: asyncio.Event) -> None:
        """Carry bytes one way, each piece at its own time, so that latency does not lower throughput."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        carrier = asyncio.create_task(self._carry(line, writer))
        clock = asyncio.get_running_loop().time
        try:
            while data := await reader.read(_PIECE):
                if self.lossy:
                    whole.clear()
                if whole.is_set():
                    await line.put((clock() + self.latency_s, data))
            await line.put((clock(), b""))
            await carrier
        finally:
            carrier.cancel()

    async def _carry(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await line.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await self.flowing.wait()
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    def reset(self) -> None:
        for writer in list(self.writers):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            writer.transport.abort()

    def obey(self, order: list[str]) -> None:
        match order:
            case ["pass"]:
                self.lossy, self.latency_s = False, 0.0
                self.flowing.set()
            case ["hold"]:
                self.flowing.clear()
            case ["drop"]:
                self.lossy = True
            case ["latency", ms]:
                self.latency_s = float(ms) / 1000
            case ["reset"]:
                self.reset()
            case ["upstream", port]:
                self.upstream = int(port)
            case _:
                raise ValueError(f"unknown order: {order}")


def _close(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        writer.close()


async def serve(upstream: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    listeners = [_Listener(upstream) for _ in range(count)]
    servers = []
    for listener in listeners:
        listener.flowing.set()
        servers.append(await asyncio.start_server(listener.accept, "127.0.0.1", 0, backlog=512))
    sys.stdout.write(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers) + "\n")
    sys.stdout.flush()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        which, *order = line.split()
        for listener in listeners if which == "*" else [listeners[int(which)]]:
            listener.obey(order)
        sys.stdout.write("ok\n")
        sys.stdout.flush()
    for listener in listeners:
        listener.reset()
    # Nothing is left to be tidied: both ends of every connection have their RST.
    os._exit(0)


class Proxy:
    """The harness's end of a proxy process."""

    def __init__(self, upstream: int, listeners: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.proxy", str(upstream), str(listeners)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.ports = [int(port) for port in self._process.stdout.readline().split()]

    def order(self, what: str, listener: int | None = None) -> None:
        """Give an order to one listener, or to all, and return once it is carried out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{'*' if listener is None else listener} {what}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer == "ok\n", answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
