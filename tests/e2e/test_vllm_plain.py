"""Plain answers that we write ourselves are vLLM's, byte for byte, and cost none of what its own cost.

What the engine says comes to us and to vLLM's serving layer, which so writes the same
answer again. How many tokens an output has depends on the moment, so it is recorded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from deploy.demo_model import corpus
from tests.e2e.engine_loop import MARKS, EngineLoop, demo, job, running
from workers.engine import vllm_plain_run
from workers.engine.base import Frames, Job, RequestRefusedError, Result

pytestmark = MARKS

QUESTION, ANSWER = corpus.product_answers()[0]
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
RUNNING_USAGE: dict[str, Any] = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "1 + 1 = 2."},
    {"role": "user", "content": '日本語 🎉 "quoted" \\ </tool_call>\n\t\x07'},
]


def chat(*questions: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question} for question in questions or (QUESTION,)]
    return {"messages": messages, "temperature": 0} | fields


def completion(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "temperature": 0, "max_tokens": 12} | fields


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat", chat()),
    "of one token": ("chat", chat(max_tokens=1)),
    "of one token with usage": ("chat", chat(max_tokens=1, **USAGE)),
    "with usage": ("chat", chat(max_tokens=12, **USAGE)),
    "with usage in every frame": ("chat", chat(max_tokens=12, **RUNNING_USAGE)),
    "a dialogue": ("chat", chat(max_tokens=20) | {"messages": DIALOGUE}),
    "up to a stop text": ("chat", chat(stop=[" language mod"], **USAGE)),
    "up to one of two stop texts": ("chat", chat(stop=["zq", " language mod"], **RUNNING_USAGE)),
    "with its stop text": ("chat", chat(stop=" language mod", include_stop_str_in_output=True)),
    "up to a stop token": ("chat", chat("What is 1 + 1?", stop_token_ids=list(range(300, 1000)), ignore_eos=True)),
    "that holds text back in vain": ("chat", chat(stop=["a text that never comes"], max_tokens=16, **RUNNING_USAGE)),
    "beyond its end": ("chat", chat("What is 1 + 1?", ignore_eos=True, max_tokens=30, skip_special_tokens=False)),
    "that must not end early": ("chat", chat("What is 1 + 1?", min_tokens=15, max_tokens=20)),
    "sampled": ("chat", chat(temperature=2.0, seed=7, max_tokens=40, ignore_eos=True, top_p=0.9, top_k=200)),
    "pieces of characters": ("chat", chat("日本語 🎉 é", temperature=2.0, seed=11, max_tokens=60, ignore_eos=True)),
    "pieces of characters, counted": (
        "chat",
        chat("🎉", temperature=2.0, seed=3, max_completion_tokens=60, ignore_eos=True, **RUNNING_USAGE),
    ),
    "neutral fields": (
        "chat",
        chat(n=1, logprobs=False, tools=None, tool_choice="none", response_format={"type": "text"}),
    ),
    "completion": ("completion", completion("Celerity", **USAGE)),
    "completion, counted": (
        "completion",
        completion("日本語 🎉 é", ignore_eos=True, temperature=2.0, seed=5, **RUNNING_USAGE),
    ),
    "completion up to a stop text": ("completion", completion("What is", stop=["e"], max_tokens=40)),
    "completion beyond its end": ("completion", completion("The demo", ignore_eos=True, max_tokens=30)),
}


@pytest.fixture(scope="module")
def loop() -> Iterator[EngineLoop]:
    with running(demo(max_model_len=512)) as engine_loop:
        yield engine_loop


@contextlib.contextmanager
def recording() -> Iterator[list[Any]]:
    """Keep what the engine says to plain runs, as vLLM's serving layer would be told."""
    from vllm.v1.engine.output_processor import RequestState

    said: list[Any] = []
    heard: list[Any] = []
    complete, hear = RequestState._new_completion_output, vllm_plain_run.PlainRun.hear

    def completed(self: Any, *args: Any) -> Any:
        completion = complete(self, *args)
        output = RequestState._new_request_output(self, self.external_req_id, [completion], completion.finished())
        said.append(output)
        return completion

    def heard_by_us(self: Any, *args: Any) -> None:
        heard.append(said.pop())
        hear(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RequestState, "_new_completion_output", completed)
        patch.setattr(vllm_plain_run.PlainRun, "hear", heard_by_us)
        yield heard


def vllms_own(loop: EngineLoop, one: Job, heard: list[Any]) -> bytes:
    """Return what vLLM's serving layer writes of the same outputs."""
    route = loop.engine._routes[one.endpoint]
    serving = route.handler.__self__
    fields = orjson.loads(one.body) | {"model": "demo", "stream": one.stream}
    return loop.call(written(serving, one, route.parse.validate_python(fields), route.id_prefix + one.id, heard))


async def written(serving: Any, one: Job, request: Any, answer_id: str, heard: list[Any]) -> bytes:
    from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata

    async def outputs() -> AsyncIterator[Any]:
        for output in heard:
            yield output

    metadata = RequestResponseMetadata(request_id=answer_id)
    own = type(serving)
    if one.endpoint == "completion" and not one.stream:
        answer = own.request_output_to_completion_response(
            serving, heard, request, answer_id, 0, "demo", None, metadata
        )
        return bytes(answer.model_dump_json(), "utf-8")
    if one.endpoint == "completion":
        numbered = ((0, output) async for output in outputs())
        frames = own.completion_stream_generator(
            serving, request, [], numbered, answer_id, 0, "demo", 1, None, metadata
        )
        return "".join([frame async for frame in frames]).encode()
    tokenizer = serving.renderer.tokenizer
    asked: Any = (serving, request, outputs(), answer_id, "demo", [], tokenizer, metadata)
    if one.stream:
        return "".join([frame async for frame in own.chat_completion_stream_generator(*asked)]).encode()
    parser = serving._make_parser(request, tokenizer, {})
    answer = await own.chat_completion_full_generator(*asked, parser)
    return bytes(answer.model_dump_json(), "utf-8")


def long_ago(data: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b'"created":1000', data)


def answered(loop: EngineLoop, one: Job) -> tuple[bytes, list[Any]]:
    """Return all that is written of an answer, and what the engine said."""
    with recording() as heard:
        *frames, result = loop.call(loop.pieces(one))
    assert isinstance(result, Result)
    assert heard, "not a plain run"
    data = b"".join(piece.data for piece in frames if isinstance(piece, Frames))
    return (data + b"data: [DONE]\n\n" if one.stream else result.body), heard


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_is_vllms_own_byte_for_byte(loop: EngineLoop, shape: str) -> None:
    for _again in range(3):  # the second time it is prepared from a recipe, the third time from all that was learnt
        one = job(*SHAPES[shape], stream=True)
        data, heard = answered(loop, one)
        assert long_ago(data) == long_ago(vllms_own(loop, one, heard))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_answer_is_vllms_own_byte_for_byte(loop: EngineLoop, shape: str) -> None:
    for _again in range(3):
        endpoint, body = SHAPES[shape]
        one = job(endpoint, {name: value for name, value in body.items() if name != "stream_options"})
        data, heard = answered(loop, one)
        assert long_ago(data) == long_ago(vllms_own(loop, one, heard))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_what_the_engine_is_asked_for_is_the_same_with_a_recipe(
    loop: EngineLoop, endpoint: str, *, stream: bool
) -> None:
    asked: list[dict[str, Any]] = []
    core = loop.engine._llm.engine_core
    add = core.add_request_async

    async def noting(request: Any) -> Any:
        asked.append({name: getattr(request, name) for name in request.__struct_fields__})
        return await add(request)

    sampling: dict[str, Any] = {"max_tokens": 5, "top_p": 0.5, "seed": 99, "stop": ["zq"]}
    body = chat(**sampling) if endpoint == "chat" else completion(QUESTION, **sampling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "add_request_async", noting)
        for fields in (body, body, body | {"user": "someone"}):
            loop.call(loop.pieces(job(endpoint, fields, stream=stream)))
    ids = [(request.pop("request_id"), request.pop("external_req_id")) for request in asked]
    times = [request.pop("arrival_time") for request in asked]
    first, *others = asked
    assert others == [first, first]
    assert times == sorted(times)
    assert len({external for _, external in ids}) == 3
    assert all(id_.startswith(f"{external}-") for id_, external in ids)


def test_a_token_costs_one_text_in_json_and_no_model_of_pydantics(loop: EngineLoop) -> None:
    made: list[object] = []
    texts: list[str] = []
    dump = orjson.dumps

    def dumps(value: Any, *args: Any) -> bytes:
        if isinstance(value, str):
            texts.append(value)
        return dump(value, *args)

    body = chat(max_tokens=40, ignore_eos=True)
    loop.call(loop.pieces(job("chat", body, stream=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "model_dump_json", lambda self, **_: made.append(self))
        patch.setattr(BaseModel, "__init__", lambda self, **_: made.append(self))
        patch.setattr(orjson, "dumps", dumps)
        *frames, result = loop.call(loop.pieces(job("chat", body, stream=True)))
    assert not made
    assert isinstance(result, Result)
    # Beside the text of each frame but the role's: the id, and why it ended.
    assert len(texts) == len(frames) - 1 + 2


def test_frames_are_handed_over_within_the_engines_step(loop: EngineLoop) -> None:
    taken: list[Frames] = []
    one = job("chat", chat(max_tokens=9), stream=True)
    given = Job(id=one.id, endpoint="chat", body=one.body, stream=True, on_frames=taken.append)
    (result,) = loop.call(loop.pieces(given))
    assert isinstance(result, Result)
    assert result.completion_tokens == 9
    again, _ = answered(loop, one)
    assert long_ago(b"".join(piece.data for piece in taken) + b"data: [DONE]\n\n") == long_ago(again)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_a_prompt_that_does_not_fit_is_refused_with_a_recipe_too(
    loop: EngineLoop, endpoint: str, *, stream: bool
) -> None:
    def asked(text: str) -> Job:
        body = chat(text, max_tokens=100) if endpoint == "chat" else completion(text, max_tokens=100)
        return job(endpoint, body, stream=stream)

    for _again in range(3):
        loop.call(loop.pieces(asked("hi")))
    with pytest.raises(RequestRefusedError) as refused:
        loop.call(loop.pieces(asked("word " * 300)))
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_a_whole_answer_makes_no_model_of_pydantics(loop: EngineLoop, endpoint: str) -> None:
    made: list[object] = []
    body = chat(max_tokens=7) if endpoint == "chat" else completion(QUESTION, max_tokens=7)
    loop.call(loop.pieces(job(endpoint, body)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "model_dump_json", lambda self, **_: made.append(self))
        patch.setattr(BaseModel, "__init__", lambda self, **_: made.append(self))
        patch.setattr(loop.engine._routes[endpoint].parse, "validate_python", made.append, raising=False)
        (result,) = loop.call(loop.pieces(job(endpoint, body)))
    assert not made
    assert isinstance(result, Result)
    assert result.completion_tokens == 7


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_vllms_prompts_come_without_what_is_around_them(loop: EngineLoop, endpoint: str) -> None:
    renderer = loop.engine._client.renderer
    usual: list[str] = []

    def noting(name: str) -> Any:
        render = getattr(renderer, name)

        def renders(*args: Any, **options: Any) -> Any:
            usual.append(name)
            return render(*args, **options)

        return renders

    with pytest.MonkeyPatch.context() as patch:
        for name in ("render_chat", "render_cmpl"):
            patch.setattr(renderer, name, noting(name))
        for text in ("one", "two", "three", "four"):
            body = chat(text, max_tokens=3) if endpoint == "chat" else completion(text, max_tokens=3)
            loop.call(loop.pieces(job(endpoint, body)))
    assert len(usual) == 2


def test_a_question_with_long_fields_is_not_kept(loop: EngineLoop) -> None:
    loop.call(loop.pieces(job("chat", chat("hi", max_tokens=1, stop=["zq" * 5000]), stream=True)))
    assert max(map(len, loop.engine._routes["chat"].recipes._kept), default=0) < 5000
