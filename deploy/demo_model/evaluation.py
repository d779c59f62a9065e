"""Judge a model by what it must say: is every token of every expected answer its first choice, and by how much?

Reading the expected answer through the model once tells the same as generating it: greedy decoding gives exactly that
answer if and only if each of its tokens is the first choice after the ones before it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from deploy.demo_model.chatml import END, Exchange, Tool, prompt, render, tool_call, tool_response
from deploy.demo_model.corpus import all_phrasings, known_answers, load_corpus, load_words


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt as the model reads it, and the whole answer it must give."""

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`margin` is the smallest lead, in logits, of an expected token over the best other one; negative means wrong."""

    case: Case
    margin: float


def cases() -> list[Case]:
    """Everything that is promised, and must be right for a trained model to be kept."""
    system = "You are a helpful assistant."
    known = known_answers()
    return [
        *(Case("known", prompt(question), answer) for question, answer in known),
        *(Case("known, with a system prompt", prompt(question, system), answer) for question, answer in known),
        *(Case("phrasing", prompt(question), answer) for question, answer in all_phrasings()),
        *_tool_cases(),
        *_json_cases(),
        *map(_continuation, load_corpus().documents),
        *_second_turns(),
    ]


def _continuation(document: str) -> Case:
    """The first two words are the prompt."""
    start = " ".join(document.split(" ")[:2])
    return Case("document", start, document.removeprefix(start))


def _tool_cases() -> list[Case]:
    tool = Tool("get_weather", ("city",))
    found = []
    for city in load_words().cities:
        question, call = f"What is the weather in {city}?", tool_call("get_weather", {"city": city})
        asked = prompt(question, tools=[tool])
        result = tool_response('{"temperature": 18, "condition": "sunny"}')
        told = "".join(piece.text for piece in render([Exchange(question, call)], tools=[tool])) + prompt(result)
        found.append(Case("tool call", asked, call))
        found.append(Case("tool result", told, f"It is 18 degrees and sunny in {city}."))
    return found


def _json_cases() -> list[Case]:
    capitals = [
        _json_case(f"What is the capital of {country}?", {"city": city, "country": country})
        for city, country in load_words().capitals
    ]
    people = [_json_case(f"{name} is 36 years old.", {"name": name, "age": 36}) for name in load_words().people]
    return [*capitals, *people]


def _json_case(question: str, value: object) -> Case:
    return Case("json", prompt(f"Answer in JSON: {question}"), json.dumps(value))


def _second_turns() -> list[Case]:
    """Each known question after the one before it."""
    known = known_answers()
    return [
        Case("second turn", prompt(first) + answer + END + "\n" + prompt(second), expected)
        for (first, answer), (second, expected) in pairwise(known)
        if len(answer) < 500
    ]


def judge(model: LlamaForCausalLM, tokenizer: Tokenizer, asked: Sequence[Case], batch: int = 64) -> list[Verdict]:
    """One verdict for each case, in the same order."""
    rows = [_row(tokenizer, case) for case in asked]
    order = sorted(range(len(rows)), key=lambda at: len(rows[at][0]))
    margins: dict[int, float] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        margins |= dict(zip(chosen, _margins(model, [rows[at] for at in chosen]), strict=True))
    return [Verdict(case, margins[at]) for at, case in enumerate(asked)]


def _row(tokenizer: Tokenizer, case: Case) -> tuple[list[int], int]:
    """The token ids of prompt and answer, and where the answer begins."""
    start = len(tokenizer.encode(case.prompt).ids)
    return tokenizer.encode(case.prompt + case.answer + ("" if case.answer.endswith(END) else END)).ids, start


def _margins(model: LlamaForCausalLM, rows: Sequence[tuple[list[int], int]]) -> list[float]:
    width = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    with torch.inference_mode():
        logits = model(input_ids=padded, use_cache=False).logits.float()[:, :-1]
    wanted = padded[:, 1:, None]
    lead = logits.gather(2, wanted).squeeze(2) - logits.scatter(2, wanted, -torch.inf).amax(2)
    return [float(lead[at, start - 1 : len(ids) - 1].min()) for at, (ids, start) in enumerate(rows)]


def report(verdicts: Sequence[Verdict], shown: int = 10) -> bool:
    """Print the counts of each kind and the worst answers; say whether all were right."""
    for kind in dict.fromkeys(verdict.case.kind for verdict in verdicts):
        leads = sorted(verdict.margin for verdict in verdicts if verdict.case.kind == kind)
        right = sum(lead > 0 for lead in leads)
        middle = leads[len(leads) // 2]
        print(f"{kind:28} {right:4} of {len(leads):4} right, smallest lead {leads[0]:6.2f}, median {middle:5.2f}")
    wrong = sorted((verdict for verdict in verdicts if verdict.margin <= 0), key=lambda verdict: verdict.margin)
    for verdict in wrong[:shown]:
        print(f"wrong by {-verdict.margin:.2f}: {verdict.case.prompt[-90:]!r} -> {verdict.case.answer[:80]!r}")
    return not wrong
