"""Check that a regular expression is valid and stays small once it is written out as an automaton."""

from __future__ import annotations

import re
import warnings
from typing import Any

from tasks.openai.fields import refuse

MAX_LENGTH = 2048
MAX_STATES = 20_000

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)


def check_pattern(value: Any, param: str) -> None:
    """Refuse a pattern that could stop or stall the engine's grammar compiler."""
    if type(value) is not str or len(value) > MAX_LENGTH:
        refuse(param, f"must be a regular expression of at most {MAX_LENGTH} characters.")
    try:
        with warnings.catch_warnings():
            # A warning would print the pattern, which is the client's text.
            warnings.simplefilter("error")
            re.compile(value)
    except (re.error, RecursionError, OverflowError, Warning):
        refuse(param, "is not a valid regular expression.")
    if states(value) > MAX_STATES:
        refuse(param, "is too large: its repetitions multiply.")


def states(pattern: str) -> int:
    """Estimate the states of a valid pattern, from above: each repetition counts as written out."""
    sizes = [0]  # of the groups that are open, the outermost first
    last = 0  # size of the last atom
    for token in _TOKEN.finditer(pattern):
        match token[0][0]:
            case "(":
                sizes.append(0)
            case ")" if len(sizes) > 1:
                last = sizes.pop() + 1
                sizes[-1] += last
            case "{" if token[1] or token[2]:
                times = max(int(token[2] or token[1]), 1)
                sizes[-1] += last * (times - 1)
                last *= times
            case "*" | "+" | "?" | "|":
                pass
            case _:
                last = 1
                sizes[-1] += 1
    return sum(sizes)
