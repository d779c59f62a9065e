"""Check prompts and inputs: one or several, as text or as token ids."""

from __future__ import annotations

from typing import Any

from tasks.openai.fields import refuse, token_ids

MAX_PROMPTS = 128
MAX_INPUTS = 2048
_SHAPES = "must be a string, a list of strings, a list of token ids or a list of such lists, and not empty."


def check_prompt(value: Any, param: str) -> None:
    """`prompt` of a completion."""
    _check(value, param, MAX_PROMPTS)


def check_input(value: Any, param: str) -> None:
    """`input` of an embedding."""
    _check(value, param, MAX_INPUTS)


def prompts_in(value: Any) -> int:
    """Count the prompts of a value that was checked."""
    return 1 if type(value) is str or type(value[0]) is int else len(value)


def tokens_at_least(value: Any) -> int:
    """Return the tokens of the longest prompt, as far as they can be counted here: 1 for any text."""
    if type(value) is str or type(value[0]) is str:
        return 1
    return len(value) if type(value[0]) is int else max(len(prompt) for prompt in value)


def _check(value: Any, param: str, most: int) -> None:
    if not value or type(value) not in (str, list):
        refuse(param, _SHAPES)
    if type(value) is str:
        return
    if type(value[0]) is int:
        token_ids(value, param, most=len(value))
        return
    if len(value) > most:
        refuse(param, f"may hold at most {most} prompts.")
    kind = type(value[0])
    for i, item in enumerate(value):
        if type(item) is not kind or kind not in (str, list) or not item:
            refuse(f"{param}[{i}]" if kind in (str, list) else param, _SHAPES)
        if kind is list:
            token_ids(item, f"{param}[{i}]", most=len(item))
