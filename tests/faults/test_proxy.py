"""The proxy that cuts, holds, delays and loses what it carries."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """Answer every byte on every connection with itself."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1024):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    acceptor.join()
    for thread in threads:
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    proxy = Proxy(echo, 2)
    yield proxy
    proxy.close()


def connect(port: int, timeout_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)


def test_it_carries_bytes(proxy: Proxy) -> None:
    with connect(proxy.ports[0]) as one:
        one.sendall(b"hello")
        assert one.recv(10) == b"hello"


def test_what_is_held_arrives_later_and_only_one_listener_is_held(proxy: Proxy) -> None:
    with connect(proxy.ports[0]) as held, connect(proxy.ports[1]) as free:
        held.sendall(b"a")
        assert held.recv(1) == b"a"
        proxy.order("hold", 0)
        held.sendall(b"b")
        free.sendall(b"c")
        assert free.recv(1) == b"c"
        held.settimeout(0.2)
        with pytest.raises(TimeoutError):
            held.recv(1)
        held.settimeout(10)
        proxy.order("pass", 0)
        assert held.recv(1) == b"b"


def test_what_is_dropped_never_arrives_and_nothing_that_follows_it(proxy: Proxy) -> None:
    with connect(proxy.ports[0]) as one, connect(proxy.ports[0]) as quiet:
        for connection in (one, quiet):
            connection.sendall(b"a")
            assert connection.recv(1) == b"a"
        proxy.order("drop")
        one.sendall(b"b")
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.recv(1)
        proxy.order("pass")
        one.sendall(b"c")
        with pytest.raises(TimeoutError):
            one.recv(1)
        quiet.sendall(b"d")
        assert quiet.recv(1) == b"d"


def test_a_reset_breaks_open_connections_but_no_later_ones(proxy: Proxy) -> None:
    with connect(proxy.ports[0]) as one:
        one.sendall(b"a")
        assert one.recv(1) == b"a"
        proxy.order("reset", 0)
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    test_it_carries_bytes(proxy)


def test_latency_is_kept_in_order(proxy: Proxy) -> None:
    with connect(proxy.ports[0]) as one:
        proxy.order("latency 30")
        for byte in (b"1", b"2", b"3"):
            one.sendall(byte)
        received = b""
        while len(received) < 3:
            received += one.recv(3)
        assert received == b"123"
