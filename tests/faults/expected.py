"""What to ask and what must come back: known for the simulated engine, recorded for a real one."""

from __future__ import annotations

import http.client
import itertools
import json
import secrets
from collections.abc import Iterator
from typing import Protocol

from deploy.demo_model.corpus import load_corpus
from tests.faults.client import Ask
from workers.engine.sim import tag_of, token


def sim_ask(model: str, order: str = "", *, tokens: int = 32, stream: bool = True) -> Ask:
    """Return a request for the simulated engine; `order` is one of its faults on demand (`!exit`, say)."""
    prompt = f"{order} tell me {secrets.token_hex(8)}".strip()
    return Ask(model=model, prompt=prompt, expected=sim_text(prompt, tokens), tokens=tokens, stream=stream)


class Book(Protocol):
    """Gives out requests whose answers are known."""

    def next(self, *, stream: bool = True, tokens: int | None = None) -> Ask: ...


def sim_text(prompt: str, tokens: int) -> str:
    """Return what the simulated engine says to `prompt`."""
    tag = tag_of(prompt)
    return "".join(token(tag, index) for index in range(tokens))


class SimBook:
    """Every prompt is another one, so that a word of somebody else's answer shows."""

    def __init__(self, model: str, tokens: int) -> None:
        self._model, self._tokens = model, tokens

    def next(self, *, stream: bool = True, tokens: int | None = None) -> Ask:
        return sim_ask(self._model, tokens=tokens or self._tokens, stream=stream)


class RecordedBook:
    """Questions whose answers were recorded while nothing was wrong."""

    def __init__(self, model: str, answers: dict[str, str], tokens: int) -> None:
        self._model, self._tokens = model, tokens
        self._turn: Iterator[tuple[str, str]] = itertools.cycle(answers.items())

    def next(self, *, stream: bool = True, tokens: int | None = None) -> Ask:
        prompt, expected = next(self._turn)
        return Ask(model=self._model, prompt=prompt, expected=expected, tokens=self._tokens, stream=stream)


def record(port: int, model: str, *, tokens: int, questions: int = 8) -> RecordedBook:
    """Ask the demo model what it knows, one question after the other, and keep what it says.

    The longest answers, so that a fault finds them in the middle. Each is asked twice:
    an answer that differs by itself could not be told from a broken one.
    """
    facts = sorted(load_corpus().facts, key=lambda entry: -len(entry.answer))[: 2 * questions]
    answers: dict[str, str] = {}
    for entry in facts:
        question = entry.questions[0]
        first, second = (_answer(port, model, question, tokens) for _ in range(2))
        if first == second:
            answers[question] = first
    chosen = dict(list(answers.items())[:questions])
    assert chosen, "the model gives no answer twice"
    return RecordedBook(model, chosen, tokens)


def _answer(port: int, model: str, question: str, tokens: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return str(answer["choices"][0]["message"]["content"])
