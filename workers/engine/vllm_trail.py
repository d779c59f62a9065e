"""What vLLM's engine said of one request, as text that travels with the frames.

One line tells of some of the engine's outputs, in the order in which vLLM's serving
layer took them; `;` parts them. An output is `[PROMPT@]SAID|SAID…`, where SAID is
`[CHOICE:]TOKEN,TOKEN…[!FINISH]`; a prompt or choice that is not written is 0. FINISH is
vLLM's finish reason, `stop=TOKEN` for a stop token, or `text` for a stop text, which is
found again in the tokens.

    9906,11;358!length        two outputs of the only choice, the second its last
    0:5|1:7!stop=2            one output with a token of either choice
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

TEXT = "text"
"""The finish of a choice that ended with a stop text."""


class TrailError(Exception):
    """Nobody can go on from this trail."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one choice said in one output."""

    choice: int
    tokens: tuple[int, ...]
    finish: str | None = None
    stop_token: int | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the engine for one prompt."""

    prompt: int
    said: tuple[Said, ...]


def encode(prompt: int, completions: Sequence[Any]) -> str:
    """Write down one output, given by its vLLM `CompletionOutput`s."""
    if len(completions) == 1 and not prompt:  # every token of nearly every answer
        return _said(completions[0])
    said = "|".join([_said(completion) for completion in completions])
    return f"{prompt}@{said}" if prompt else said


def _said(completion: Any) -> str:
    ids = completion.token_ids
    text = str(ids[0]) if len(ids) == 1 else ",".join(map(str, ids))
    if completion.index:
        text = f"{completion.index}:{text}"
    if (finish := completion.finish_reason) is None:
        return text
    match completion.stop_reason:
        case None:
            return f"{text}!{finish}"
        case int(token):
            return f"{text}!{finish}={token}"
        case _:
            return f"{text}!{TEXT}"


def decode(lines: Iterable[bytes]) -> list[Output]:
    """Read every line of an answer. Raises TrailError for what `encode` cannot have written."""
    try:
        return [_output(part) for line in lines for part in line.decode("ascii").split(";") if part]
    except ValueError as error:
        raise TrailError("the trail cannot be read") from error


def _output(text: str) -> Output:
    prompt, _, said = text.rpartition("@")
    return Output(int(prompt or 0), tuple(_read(part) for part in said.split("|")))


def _read(text: str) -> Said:
    text, _, end = text.partition("!")
    choice, _, ids = text.rpartition(":")
    finish, _, token = end.partition("=")
    tokens = tuple(int(part) for part in ids.split(",")) if ids else ()
    return Said(int(choice or 0), tokens, finish or None, int(token) if token else None)
