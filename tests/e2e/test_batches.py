"""Batches on a real vLLM engine through openai-python: each line gets the answer that its request alone would get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import openai
import pytest
from openai.types import Batch, BatchRequestCounts

from deploy.demo_model.corpus import known_answers, load_corpus
from tests.bulk_stack import bulk_on
from tests.stack import Stack, stack
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

# With few seats, 200 lines are not all in the engine at once.
MODELS = """
models:
  demo:
    path: builtin:demo
    max_model_len: 2048
    memory_mib: 2000
    engine_args: {dtype: float32, max_num_seqs: 8}
"""
ANSWERS = dict(known_answers())
QUESTIONS = list(ANSWERS)[:200]
QUESTION = "What is Celerity?"
Address = Literal["/v1/chat/completions", "/v1/completions"]


@dataclass(frozen=True)
class Site:
    """A gateway, a bulk worker and one engine worker, which may be replaced."""

    stack: Stack
    client: openai.OpenAI

    def hand_in(self, url: Address, bodies: dict[str, dict[str, Any]]) -> Batch:
        """Hand in a batch with a line for each body, under its name."""
        lines = [{"custom_id": name, "method": "POST", "url": url, "body": body} for name, body in bodies.items()]
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        file = self.client.files.create(file=("lines.jsonl", content), purpose="batch")
        return self.client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h")

    def counts(self, batch: Batch) -> BatchRequestCounts:
        counts = self.client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        return counts

    def completed(self, batch: Batch) -> Batch:
        def has_ended() -> bool:
            return self.client.batches.retrieve(batch.id).status == "completed"

        wait_until(has_ended, "the batch to be completed", timeout_s=90)
        return self.client.batches.retrieve(batch.id)

    def responses(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        """Return what stands in a result file by the names of its lines; each name is there once."""
        if file_id is None:
            return {}
        found = [json.loads(line) for line in self.client.files.content(file_id).text.splitlines()]
        assert len({line["custom_id"] for line in found}) == len(found)
        return {line["custom_id"]: line["response"] for line in found}

    def streamed(self, question: str) -> str:
        stream = self.client.chat.completions.create(**chat(question), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def chat(question: str) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": question}], "temperature": 0}


def completion(prompt: str) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with stack(tmp_path_factory.mktemp("batches"), MODELS) as running, bulk_on(running) as bulk:
        bulk.worker()
        running.worker("demo")
        url = f"{running.gateway().url}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            yield Site(running, client)


def test_two_hundred_lines_are_answered_right_while_somebody_chats_and_the_engine_worker_is_killed(site: Site) -> None:
    batch = site.hand_in("/v1/chat/completions", {question: chat(question) for question in QUESTIONS})
    wait_until(lambda: site.counts(batch).completed >= 40, "some lines to be done", timeout_s=60)
    assert site.streamed(QUESTION) == ANSWERS[QUESTION]
    assert site.counts(batch).completed < len(QUESTIONS)
    (worker,) = site.stack.workers
    worker.kill()
    assert site.counts(batch).completed < len(QUESTIONS)
    site.stack.worker("demo")

    batch = site.completed(batch)
    assert site.counts(batch).to_dict() == {"total": 200, "completed": 200, "failed": 0}
    assert site.responses(batch.error_file_id) == {}
    responses = site.responses(batch.output_file_id)
    assert list(responses) == QUESTIONS
    said = {name: response["body"]["choices"][0]["message"]["content"] for name, response in responses.items()}
    assert said == {question: ANSWERS[question] for question in QUESTIONS}
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(one["body"]["usage"]["total_tokens"] for one in responses.values())
    for question in QUESTIONS[::20]:
        alone = site.client.chat.completions.create(**chat(question))
        assert (alone.choices[0].message.content, alone.choices[0].finish_reason) == (said[question], "stop")


def test_completions_and_what_the_engine_refuses_are_as_over_http(site: Site) -> None:
    good = {f"good-{i}": completion(" ".join(text.split()[:3])) for i, text in enumerate(load_corpus().documents)}
    batch = site.completed(site.hand_in("/v1/completions", good | {"long": completion("word " * 3000)}))
    assert site.counts(batch).to_dict() == {"total": len(good) + 1, "completed": len(good), "failed": 1}
    responses = site.responses(batch.output_file_id)
    assert list(responses) == list(good)
    for name, body in good.items():
        (choice,) = responses[name]["body"]["choices"]
        assert choice["text"] == site.client.completions.create(**body).choices[0].text
    with pytest.raises(openai.BadRequestError) as refused:
        site.client.completions.create(**completion("word " * 3000))
    refusal = site.responses(batch.error_file_id)["long"]
    assert (refusal["status_code"], refusal["body"]["error"]) == (refused.value.status_code, refused.value.body)
    assert refusal["body"]["error"]["code"] == "context_length_exceeded"
