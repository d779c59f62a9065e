"""openai-python against the whole system: what it may ask of OpenAI, it may ask of us."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from deploy.demo_model.corpus import known_answers
from tests.e2e.conftest import System
from tests.stack import in_threads
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

ANSWERS = dict(known_answers())
QUESTION = "What is Celerity?"
LONG = "Explain Celerity in detail"
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_it_answers_in_one_piece(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=ask(QUESTION), temperature=0)
    assert answer.choices[0].message.content == ANSWERS[QUESTION]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "demo"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer._request_id is not None


def test_an_alias_is_its_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="light", messages=ask(QUESTION), temperature=0)
    assert (answer.model, answer.choices[0].message.content) == ("demo", ANSWERS[QUESTION])


def test_it_streams_token_by_token(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="demo", messages=ask(LONG), temperature=0, stream=True)
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ANSWERS[LONG]
    assert len(chunks) > 50
    assert [c.choices[0].delta.role for c in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)


def test_usage_comes_in_the_last_chunk_of_a_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=ask(QUESTION),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    whole = client.chat.completions.create(model="demo", messages=ask(QUESTION), temperature=0)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens  # type: ignore[union-attr]


def test_the_stream_helper_puts_it_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="demo", messages=ask(QUESTION), temperature=0) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert (message.role, message.content) == ("assistant", ANSWERS[QUESTION])


def test_the_async_client_works_as_well(system: System) -> None:
    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=system.url, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model="demo", messages=ask(QUESTION), temperature=0)
            stream = await client.chat.completions.create(
                model="demo", messages=ask(QUESTION), temperature=0, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content or "", "".join(pieces)

    assert asyncio.run(both()) == (ANSWERS[QUESTION], ANSWERS[QUESTION])


def test_two_choices_come_apart(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=ask(QUESTION), temperature=0.01, n=2)
    assert [choice.message.content for choice in answer.choices] == [ANSWERS[QUESTION]] * 2
    with client.chat.completions.stream(model="demo", messages=ask(QUESTION), temperature=0.01, n=2) as stream:
        streamed = stream.get_final_completion()
    assert [choice.message.content for choice in streamed.choices] == [ANSWERS[QUESTION]] * 2


def test_it_calls_a_tool(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=ask("What is the weather in Paris?"), tools=[WEATHER], temperature=0
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


def test_it_calls_a_tool_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=ask("What is the weather in Paris?"), tools=[WEATHER], temperature=0
    ) as stream:
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
        "required": ["city", "country"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="demo",
        messages=ask("Answer in JSON: in which country is Paris?"),
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}},
    )
    assert answer.choices[0].finish_reason == "stop"
    assert set(json.loads(answer.choices[0].message.content or "")) == {"city", "country"}


def test_logprobs_come_with_every_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=ask(QUESTION), temperature=0, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in logprobs.content)


def test_it_stops_where_it_is_told_to(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=ask(QUESTION), temperature=0, stop=[" serves"])
    assert answer.choices[0].message.content == "Celerity"
    assert answer.choices[0].finish_reason == "stop"


def test_it_takes_as_many_stop_strings_as_the_gateway_lets_through(client: openai.OpenAI) -> None:
    stop = [f"never-{index}" for index in range(15)] + [" serves"]
    answer = client.chat.completions.create(model="demo", messages=ask(QUESTION), temperature=0, stop=stop)
    assert answer.choices[0].message.content == "Celerity"


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="demo", messages=ask("Tell me something"), temperature=2.0, seed=seed, max_tokens=30
        )
        return answer.choices[0].message.content

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_prompt_that_does_not_fit_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=ask("word " * 5000))
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as streamed:
        client.chat.completions.create(model="demo", messages=ask("word " * 5000), stream=True)
    assert streamed.value.code == "context_length_exceeded"


def test_embeddings_of_a_chat_model_are_refused_clearly(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="demo", input="hello")
    assert refused.value.code == "unsupported_endpoint"


def test_a_plain_completion_goes_on(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="Celerity is", temperature=0, max_tokens=20)
    pieces = client.completions.create(model="demo", prompt="Celerity is", temperature=0, max_tokens=20, stream=True)
    assert whole.choices[0].text.strip()
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-17", messages=ask("hello"))
    assert missing.value.code == "model_not_found"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert "demo" in [model.id for model in client.models.list()]
    assert client.models.retrieve("demo").id == "demo"


@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_connection_frees_the_engine(system: System, stream: bool) -> None:
    connection = system.gateway.connect()
    body = {"model": "demo", "messages": ask(LONG), "stream": stream, "max_tokens": 1500, "ignore_eos": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    if stream:
        connection.getresponse().read(10)
    wait_until(lambda: system.running() == 1, "the engine to run the request")
    assert connection.sock is not None
    connection.sock.close()
    connection.close()
    wait_until(lambda: system.running() == 0, "the engine to be idle")
    client = openai.OpenAI(base_url=system.url, api_key="none", max_retries=0)
    assert client.chat.completions.create(model="demo", messages=ask("What is 3 + 4?"), temperature=0).choices
    client.close()


def test_answers_do_not_depend_on_the_company_they_are_in(client: openai.OpenAI) -> None:
    questions = list(ANSWERS)[:32]

    def one(index: int) -> None:
        answer = client.chat.completions.create(model="demo", messages=ask(questions[index]), temperature=0)
        assert answer.choices[0].message.content == ANSWERS[questions[index]]

    in_threads(32, one)


def test_bad_input_leaves_the_worker_untouched(system: System, client: openai.OpenAI) -> None:
    bad: list[dict[str, Any]] = [
        {"temperature": "hot"},
        {"n": 0},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 123}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}}},
        {"structured_outputs": {"regex": "((a+)+"}},
        {"logit_bias": {"999999999": 1}},
        {"max_tokens": -1},
        {"chat_template": "{{ 1/0 }}"},
    ]
    for extra in bad:
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="demo", messages=ask("hello"), extra_body=extra)
        good = client.chat.completions.create(model="demo", messages=ask("What is 3 + 4?"), temperature=0)
        assert good.choices[0].message.content == "3 + 4 = 7."
    assert system.worker.process.poll() is None
    assert "What is 3 + 4?" not in system.worker.log.read_text() + system.gateway.log.read_text()
