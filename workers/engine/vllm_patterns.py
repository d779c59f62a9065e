"""Patterns of what vLLM writes: its own samples, cut where a value stands, to be filled in with others.

A sample is made with the marks below in the place of the values, so a pattern is right by
being vLLM's own text. Knows nothing else of vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

ID = "celerity-mark-id"
TEXT = "celerity-mark-text"
FINISH = "celerity-mark-finish"
STOP = "celerity-mark-stop"

# Each value with the name of its slot. Numbers are found by the names of their fields.
_SLOT = re.compile(
    rf'(?P<id>"{ID}")|(?P<text>"{TEXT}")|(?P<finish>"{FINISH}")|(?P<stop>"{STOP}")'
    r'|(?<="created":)(?P<created>\d+)'
    r'|(?<="prompt_tokens":)(?P<prompt>\d+)'
    r'|(?<="completion_tokens":)(?P<completion>\d+)'
    r'|(?<="total_tokens":)(?P<total>\d+)'
)


class PatternError(Exception):
    """A sample of vLLM's does not look as expected."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text with slots between its pieces; there is one piece more than slots."""

    pieces: tuple[bytes, ...]
    slots: tuple[str, ...] = ()

    @classmethod
    def cut(cls, sample: str, *slots: str) -> Self:
        """Raises PatternError where the sample does not have each of `slots`, in any order, and no others."""
        pieces, found, end = [], [], 0
        for match in _SLOT.finditer(sample):
            pieces.append(sample[end : match.start()].encode())
            found.append(str(match.lastgroup))
            end = match.end()
        if sorted(found) != sorted(slots):
            raise PatternError(f"a sample has {sorted(found)} in place of {sorted(slots)}")
        return cls((*pieces, sample[end:].encode()), tuple(found))

    def bind(self, values: Mapping[str, bytes]) -> Pattern:
        """Fill in what `values` has, and leave the other slots open."""
        pieces, slots = [self.pieces[0]], []
        for slot, piece in zip(self.slots, self.pieces[1:], strict=True):
            if (value := values.get(slot)) is None:
                slots.append(slot)
                pieces.append(piece)
            else:
                pieces[-1] += value + piece
        return Pattern(tuple(pieces), tuple(slots))

    def fill(self, values: Mapping[str, bytes]) -> bytes:
        """Fill in every slot. Raises KeyError where `values` lacks one."""
        text = self.pieces[0]
        for slot, piece in zip(self.slots, self.pieces[1:], strict=True):
            text += values[slot] + piece
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePatterns:
    """The frames of a streamed answer."""

    opening: Pattern | None
    """Before the first token, if there is such a frame."""
    token: Pattern
    silent: Pattern | None
    """With tokens that have no text yet; None where nothing is written of them."""
    last: Pattern
    """With the end of the text."""
    bare_last: Pattern
    """The same, where there is no text any more."""
    usage: Pattern | None
    """After the last, if it was asked for."""

    def bind(self, values: Mapping[str, bytes]) -> FramePatterns:
        return FramePatterns(
            opening=self.opening and self.opening.bind(values),
            token=self.token.bind(values),
            silent=self.silent and self.silent.bind(values),
            last=self.last.bind(values),
            bare_last=self.bare_last.bind(values),
            usage=self.usage and self.usage.bind(values),
        )
