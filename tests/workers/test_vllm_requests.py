"""A job's body → what vLLM's request classes get."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from workers.engine.base import Job, RequestRefusedError
from workers.engine.vllm_requests import body, warm_up


def made(
    fields: Any, *, endpoint: str = "chat", stream: bool = False, job_id: str = "r1", id_prefix: str = "chatcmpl-"
) -> dict[str, Any]:
    text = fields if isinstance(fields, bytes) else orjson.dumps(fields)
    return body(Job(id=job_id, endpoint=endpoint, body=text, stream=stream), model="m", id_prefix=id_prefix)


def test_the_model_and_the_id_are_ours() -> None:
    answer = made({"model": "an alias", "request_id": "theirs", "messages": []})
    assert (answer["model"], answer["request_id"], answer["messages"]) == ("m", "r1", [])


def test_an_id_never_gets_its_prefix_twice() -> None:
    assert made({}, job_id="chatcmpl-abc")["request_id"] == "abc"


def test_the_job_says_whether_it_streams() -> None:
    options = {"stream_options": {"include_usage": True}}
    assert made({"stream": True} | options) == {"model": "m", "request_id": "r1", "stream": False}
    assert made(options, stream=True) == {"model": "m", "request_id": "r1", "stream": True} | options


@pytest.mark.parametrize("field", ["chat_template", "prompt_embeds", "use_beam_search", "kv_transfer_params"])
def test_a_way_past_the_operator_is_refused(field: str) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        made({field: "x"})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)
    assert made({field: None})["model"] == "m"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b"[" * 5000])
def test_what_is_not_an_object_is_refused(text: bytes) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        made(text)
    assert caught.value.code == "invalid_json"


def test_an_embedding_has_no_stream_and_answers_in_json() -> None:
    answer = made({"input": "x"}, endpoint="embedding", id_prefix="embd-")
    assert answer == {"model": "m", "request_id": "r1", "input": "x"}
    with pytest.raises(RequestRefusedError) as caught:
        made({"input": "x", "encoding_format": "bytes"}, endpoint="embedding")
    assert caught.value.param == "encoding_format"


@pytest.mark.parametrize("endpoint", ["chat", "completion", "embedding"])
def test_there_is_a_warm_up_for_each_endpoint(endpoint: str) -> None:
    job = warm_up(endpoint)
    assert job.endpoint == endpoint
    assert body(job, model="m", id_prefix="")["model"] == "m"
