"""What `celerity up` says while it works: one line a fact on stderr, and on a terminal one that changes.

Only `ready …` goes to stdout, so that a script can wait for it.
"""

from __future__ import annotations

import shutil
from typing import TextIO

_REPEAT_S = 15.0


class Progress:
    """Prints what happens to whom. A wait that repeats itself is told now and then."""

    def __init__(self, out: TextIO, lines: TextIO) -> None:
        self._out = out
        self._lines = lines
        self._moving = lines.isatty()
        self._shown = False
        self._told_at: dict[str, float] = {}

    def say(self, who: str, what: str) -> None:
        self._clear()
        print(f"{who:<10} {what}", file=self._lines, flush=True)

    def block(self, lines: list[str]) -> None:
        """Show somebody else's words, set off from ours."""
        self._clear()
        for line in lines:
            print(f"           | {line}", file=self._lines, flush=True)

    def waiting(self, who: str, what: str, elapsed_s: float) -> None:
        """Say that `who` still is at `what`."""
        text = f"{who:<10} {what} ({elapsed_s:.0f} s)"
        if self._moving:
            self._clear()
            print(text[: shutil.get_terminal_size().columns - 1], end="", file=self._lines, flush=True)
            self._shown = True
        elif elapsed_s - self._told_at.get(who, -_REPEAT_S) >= _REPEAT_S:
            self._told_at[who] = elapsed_s
            print(text, file=self._lines, flush=True)

    def ready(self, url: str) -> None:
        self._clear()
        print(f"ready {url}", file=self._out, flush=True)

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self._lines, flush=True)
            self._shown = False
