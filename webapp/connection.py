"""A client's connection, with the deadlines that gunicorn's gevent worker lacks.

gunicorn bounds a header by its keep-alive time only, and neither the reading of a body
nor a write at all. It also learns of a client's departure at its next write, which a
silent answer never makes. This object stands where gunicorn expects the socket.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import gevent

log = logging.getLogger(__name__)

_READ = 1  # libev's EV_READ
_LINGER_STEP = 64 * 1024
_STATE_EVERY_S = 0.5
_TCP_ESTABLISHED = 1  # the first byte of Linux's tcp_info


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How long a client may take, in seconds."""

    idle_s: float
    """Between an answer and its next request."""
    header_s: float
    """From the first byte of a header to its last; also from the connect to that first byte."""
    body_s: float
    """From the header to the last byte of the body."""
    write_s: float
    """To take one piece of an answer."""
    linger_s: float = 2.0
    """To read an early refusal, when the rest of the body is still on its way."""


class _Phase(Enum):
    IDLE = auto()  # no byte of a next request yet
    HEAD = auto()
    BODY = auto()  # from the end of the header to the end of the answer


class ClientConnection:
    """What gunicorn uses of a socket, and what our gateway adds to it."""

    def __init__(self, sock: Any, limits: ConnectionLimits) -> None:
        self._sock = sock
        self._limits = limits
        self._phase = _Phase.IDLE
        self._idle_s = limits.header_s
        self._deadline = 0.0
        self._closing = False
        self._last_request = False
        self._served = False
        self._to_hold = 0
        self._held = b""
        self.chunked = False
        """Whether the answer's body goes out in chunks."""
        self._set_user_timeout()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read; an empty answer stands for a client that has left or was too slow with its header.

        Raises TimeoutError when the body is late, so that the handler can say so.
        """
        if self._phase is _Phase.IDLE:
            data = self._recv(size, flags, 0.0 if self._closing else self._idle_s)
            self._phase = _Phase.HEAD
            self._deadline = time.monotonic() + self._limits.header_s
            return data
        left = self._deadline - time.monotonic()
        if self._phase is _Phase.HEAD:
            return self._recv(size, flags, left)
        if left <= 0:
            raise TimeoutError("body deadline")
        # Who was given more time by `allow_body` may still not fall silent.
        self._sock.settimeout(min(left, self._limits.body_s))
        return bytes(self._sock.recv(size, flags))

    def _recv(self, size: int, flags: int, within_s: float) -> bytes:
        self._sock.settimeout(max(within_s, 0.0))
        try:
            return bytes(self._sock.recv(size, flags))
        except (TimeoutError, BlockingIOError):
            return b""
        except OSError:
            if self._closing:  # `close_when_idle` woke this very read
                return b""
            raise

    def sendall(self, data: bytes) -> None:
        """Write all of `data`. A client that does not take it in time counts as gone.

        gunicorn writes the header of an answer by itself, right before the first piece
        of the body, and the end of a chunked one right behind the last; what is `hold` for
        leaves in one write with what follows.
        """
        if self._to_hold:
            self._to_hold -= 1
            self._held += data
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._sock.settimeout(0.0)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._send_slowly(data[sent:])

    def _send_slowly(self, data: bytes) -> None:
        self._sock.settimeout(self._limits.write_s)
        try:
            self._sock.sendall(data)
        except TimeoutError:
            log.info("slow client dropped", extra={"event": "slow_client_dropped"})
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read") from None

    def forward(self, piece: bytes) -> bool:
        """Write a further piece of a streamed body, as far as the client takes it at once. Neither waits nor raises.

        False: a part is held back, for `flush`.
        """
        data = b"%X\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece
        if not (self._held or self._to_hold):
            try:
                sent = self._sock.send(data, 0, 0.0)
            except OSError:  # it has left, or does not read: whoever waits for it will learn that
                sent = 0
            if sent == len(data):
                return True
            data = data[sent:]
        self._held += data
        return False

    def flush(self) -> None:
        """Write what was held back and nothing has followed."""
        self._to_hold = 0
        if self._held:
            self.sendall(b"")

    def hold(self) -> None:
        """Keep the next piece back until the one behind it, or `flush`: it follows at once."""
        self._to_hold += 1

    def begin_request(self) -> None:
        """The header has been read."""
        self._to_hold, self._held = 1, b""
        self._phase = _Phase.BODY
        self._deadline = time.monotonic() + self._limits.body_s

    def allow_body(self, within_s: float) -> None:
        """Give the body `within_s` from now on, as long as the client is not silent for `body_s` in between."""
        self._deadline = time.monotonic() + within_s

    def end_request(self) -> None:
        """The answer has been written, and the body was read to its end."""
        self._phase = _Phase.IDLE
        self._served = True
        self._idle_s = self._limits.idle_s
        self._closing = self._closing or self._last_request

    def linger(self, max_bytes: int) -> None:
        """Let the client read an answer that was given before it had sent all of its body.

        To close with unread bytes would reset the connection, and the answer with it.
        """
        until = time.monotonic() + self._limits.linger_s
        with suppress(OSError):  # it has left
            self._sock.shutdown(socket.SHUT_WR)
            while max_bytes > 0 and (left := until - time.monotonic()) > 0:
                data = self._recv(_LINGER_STEP, 0, left)
                if not data:
                    return
                max_bytes -= len(data)

    @property
    def resting(self) -> bool:
        """Whether an answer is out and no byte of a next request has come."""
        return self._phase is _Phase.IDLE and self._served

    def close_when_idle(self) -> None:
        """Accept no further request: end now if idle, else once the answer is out."""
        self._closing = True
        if self._phase is _Phase.IDLE:
            self._sock.shutdown(socket.SHUT_RD)

    def close_after_answer(self) -> None:
        """Accept one request, and no other."""
        self._last_request = True

    def watch(self, on_left: Callable[[], None]) -> Departure:
        """Have `on_left` called, in a greenlet of its own, as soon as the client leaves.

        Only while an answer is being made: whatever arrives is left unread.
        """
        return Departure(self._sock, on_left)

    def _set_user_timeout(self) -> None:
        """Let the kernel give up a client whose machine has vanished, as soon as a ping goes unanswered."""
        if self._sock.family in (socket.AF_INET, socket.AF_INET6):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._limits.write_s * 1000))

    def send(self, data: bytes) -> int:
        return int(self._sock.send(data))

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def getpeername(self) -> Any:
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    def gettimeout(self) -> float | None:
        timeout: float | None = self._sock.gettimeout()
        return timeout

    def settimeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)


class Departure:
    """Watches for the end of a client's stream without taking a byte of it.

    No timer is needed, but for a client that sends its next request meanwhile: behind
    those bytes its end cannot be read, so the state of its connection is looked at
    twice a second.
    """

    def __init__(self, sock: Any, on_left: Callable[[], None]) -> None:
        self._sock = sock
        self._on_left = on_left
        self._watcher = gevent.get_hub().loop.io(sock.fileno(), _READ)
        self._watcher.start(self._look)

    def _look(self) -> None:
        # Runs in gevent's hub, which must not wait: hence the zero timeout here and
        # the greenlet in `_left`.
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        try:
            gone = self._sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        finally:
            self._sock.settimeout(timeout)
        self.stop()
        if gone:
            self._left()
        elif self._sock.family in (socket.AF_INET, socket.AF_INET6):
            self._watcher = gevent.get_hub().loop.timer(_STATE_EVERY_S, _STATE_EVERY_S)
            self._watcher.start(self._look_at_state)

    def _look_at_state(self) -> None:
        if self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _TCP_ESTABLISHED:
            self.stop()
            self._left()

    def _left(self) -> None:
        gevent.spawn(self._on_left)

    def stop(self) -> None:
        """Watch no longer. Must be called before the socket is closed; may be called twice."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
