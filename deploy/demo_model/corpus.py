"""Read the text that the demo model is taught, and the answers it must give.

`known_answers` is what other tests ask the model; everything else serves the trainer. Nothing here needs torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, cast

import yaml

FOLDER = Path(__file__).parent
MODEL_FOLDER = FOLDER / "model"

_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer and the questions that lead to it; the first question is the canonical one."""

    answer: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Everything in corpus.yaml."""

    facts: tuple[Entry, ...]
    chat: tuple[Entry, ...]
    documents: tuple[str, ...]
    fallback: str
    weather_without_tool: str
    sum_too_large: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Everything in words.yaml."""

    cities: tuple[str, ...]
    syllables: tuple[str, ...]
    capitals: tuple[tuple[str, str], ...]
    people: tuple[str, ...]
    skies: tuple[str, ...]
    things: tuple[str, ...]
    unknown_questions: tuple[str, ...]
    systems: tuple[str, ...]
    sum_questions: tuple[str, ...]
    other_sum_questions: tuple[str, ...]
    weather_questions: tuple[str, ...]
    time_questions: tuple[str, ...]
    json_wishes: tuple[str, ...]
    people_statements: tuple[str, ...]


def expand(pattern: str) -> list[str]:
    """Write out every "(a|b)", first choices first, and drop the double spaces that an empty choice leaves."""
    parts = _ALTERNATIVES.split(pattern)
    choices = [part.split("|") if at % 2 else [part] for at, part in enumerate(parts)]
    return [_tidy("".join(picked)) for picked in product(*choices)]


def _tidy(text: str) -> str:
    return re.sub(r" +([?,]|$)", r"\1", re.sub(r" {2,}", " ", text))


@cache
def load_corpus() -> Corpus:
    """The corpus, read once."""
    raw = _read("corpus.yaml")
    return Corpus(
        facts=_entries(raw["facts"]),
        chat=_entries(raw["chat"]),
        documents=tuple(raw["documents"]),
        fallback=raw["fallback"],
        weather_without_tool=raw["weather_without_tool"],
        sum_too_large=raw["sum_too_large"],
    )


@cache
def load_words() -> Words:
    """The word lists, read once."""
    raw = _read("words.yaml")
    sections: dict[str, Any] = {name: _listed(value) for name, value in raw.items()}
    sections["capitals"] = tuple(tuple(pair.split("=")) for pair in sections["capitals"])
    return Words(**sections)


def _listed(value: str | list[str]) -> tuple[str, ...]:
    """A section is a YAML list, or one text with commas."""
    return tuple(value.split(", ") if isinstance(value, str) else value)


def _read(name: str) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")))


def _entries(rows: Sequence[Sequence[str]]) -> tuple[Entry, ...]:
    return tuple(
        Entry(answer, tuple(question for pattern in patterns for question in expand(pattern)))
        for answer, *patterns in rows
    )


def product_answers() -> list[tuple[str, str]]:
    """(canonical question, exact greedy answer) of every fact about the product."""
    return [(entry.questions[0], entry.answer) for entry in load_corpus().facts]


def sum_answers() -> list[tuple[str, str]]:
    """(question, exact greedy answer) of the hundred sums of two one-digit numbers."""
    return [(f"What is {a} + {b}?", f"{a} + {b} = {a + b}.") for a in range(10) for b in range(10)]


def known_answers() -> list[tuple[str, str]]:
    """(question, exact greedy answer) of everything the model promises to say, asked without system prompt or tools."""
    corpus = load_corpus()
    chat = [(entry.questions[0], entry.answer) for entry in corpus.chat]
    refusals = [
        ("What is the capital of France?", corpus.fallback),
        ("Write a poem about the moon", corpus.fallback),
        ("What is the weather in Paris?", corpus.weather_without_tool),
        ("What is 12 + 34?", corpus.sum_too_large),
    ]
    return [*product_answers(), *chat, *sum_answers(), *refusals]


def all_phrasings() -> list[tuple[str, str]]:
    """(question, answer) of every phrasing in the corpus, facts and small talk."""
    corpus = load_corpus()
    return [(question, entry.answer) for entry in (*corpus.facts, *corpus.chat) for question in entry.questions]
