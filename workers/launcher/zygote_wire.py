"""What a launcher and its zygote say to each other, on a socket that nobody else has."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

_LENGTH = struct.Struct("!Q")
_FILES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A replica to be forked; `record`, `facts` and `site` are what `guard_process.enlist` is told."""

    program: str
    """A module that is run as `python -m` would."""
    args: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    record: str
    facts: str
    site: str


def send_order(control: socket.socket, order: Order, log: int, gate: int) -> None:
    """Send it with its log, and the socket on which the fork waits for its start."""
    text = json.dumps(asdict(order)).encode()
    socket.send_fds(control, [_LENGTH.pack(len(text))], [log, gate])
    control.sendall(text)


def receive_order(control: socket.socket) -> tuple[Order, int, int] | None:
    """Return an order, its log and its gate; None when the launcher has ended."""
    head, files, _, _ = socket.recv_fds(control, _LENGTH.size, _FILES)
    if len(head) < _LENGTH.size or len(files) < _FILES:
        return None
    missing = _LENGTH.unpack(head)[0]
    text = bytearray()
    while missing > len(text):
        if not (piece := control.recv(missing - len(text))):
            return None
        text += piece
    return Order(**json.loads(text)), files[0], files[1]


def tell(control: socket.socket, **said: Any) -> None:
    """Say something to the launcher. Not if it does not listen: it learns of an end in other ways, too."""
    with suppress(OSError):
        control.send(json.dumps(said).encode() + b"\n", socket.MSG_DONTWAIT)


class Hearing:
    """The launcher's ear."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._begun = b""

    def messages(self, wait_s: float) -> Iterator[dict[str, Any]]:
        """Wait so long for something to be said, and yield it. Raises EOFError when the zygote has ended."""
        self._control.settimeout(wait_s)
        try:
            heard = self._control.recv(65536)
        except (BlockingIOError, TimeoutError):
            return
        except OSError as error:
            raise EOFError from error
        if not heard:
            raise EOFError
        *lines, self._begun = (self._begun + heard).split(b"\n")
        for line in lines:
            yield json.loads(line)
