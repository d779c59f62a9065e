"""Failures on demand of the simulated engine, for whoever rehearses them.

Only a model whose entry says `sim: {faults: true}` listens. The first word of the last
user message (or of the prompt) asks for one:

    !exit           the process ends at once, before a token
    !exit-after N   the process ends when it has given N tokens of its own
    !error          the request breaks, and nothing else
    !hang           the loop stands still for ever
    !stall          no token ever comes; the rest goes on
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

EXIT_CODE = 70


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request. `exit_after` is a number of tokens."""

    kind: str = ""
    exit_after: int | None = None

    async def before_tokens(self) -> None:
        match self.kind:
            case "!exit":
                os._exit(EXIT_CODE)
            case "!error":
                raise RuntimeError("the request asked for this error")
            case "!hang":
                _hang()
            case "!stall":
                await asyncio.Event().wait()

    def after_tokens(self, given: int) -> None:
        """Strike if so many tokens were to be given by this engine; it is asked before each next one."""
        if given == self.exit_after:
            os._exit(EXIT_CODE)


NONE = Fault()


def fault_in(text: str) -> Fault:
    """Return what `text` asks for, which is mostly nothing."""
    match text.split(maxsplit=2)[:2]:
        case ["!exit-after", number, *_] if number.isdecimal():
            return Fault(exit_after=int(number))
        case [("!exit" | "!error" | "!hang" | "!stall") as kind, *_]:
            return Fault(kind)
        case _:
            return NONE


def _hang() -> None:
    while True:
        time.sleep(3600)
