"""Which prompts begin alike, so that they are sent one after the other and find each other's prefix cached. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

# An engine caches whole blocks of some 16 tokens; what two short prompts share is not worth their order.
_BEGINNING = 256
# Token ids where a prompt is given as such.
_BEGINNING_IDS = 64
_INSTRUCTIONS = ("system", "developer")
_NONE = "00000000"


def prefix_of(body: Mapping[str, Any]) -> str:
    """Return 16 hex digits: eight for the model with its instructions, eight for how the prompt itself begins.

    Sorted by them, prompts with the same system message stand together, and among these
    the ones that go on alike. Those too short to share anything keep their order.
    """
    instructions, beginning = _parts(body)
    whose = _digits(f"{body.get('model')}\0{instructions}")
    return whose + (_digits(beginning) if len(beginning) >= _BEGINNING else _NONE)


def _parts(body: Mapping[str, Any]) -> tuple[str, str]:
    messages = body.get("messages")
    if isinstance(messages, list):
        return _of_messages(messages)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt:
        # Of several prompts the first; of one, its token ids.
        prompt = prompt[0] if isinstance(prompt[0], str) else repr(prompt[:_BEGINNING_IDS])
    return "", prompt[:_BEGINNING] if isinstance(prompt, str) else ""


def _of_messages(messages: list[Any]) -> tuple[str, str]:
    instructions: list[str] = []
    beginning = ""
    for message in messages:
        if not isinstance(message, dict):
            break
        texts = _texts(message.get("content"))
        if message.get("role") in _INSTRUCTIONS and not beginning:
            instructions.extend(texts)
            continue
        beginning += "".join(islice(texts, 16))[:_BEGINNING]
        if len(beginning) >= _BEGINNING:
            break
    return "\0".join(instructions), beginning[:_BEGINNING]


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def _digits(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()
