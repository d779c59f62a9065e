"""A job's body → the body that vLLM's request classes are given.

The gateway has checked it once; what could pass the operator by is refused here again,
since a job may also come from elsewhere.
"""

from __future__ import annotations

from typing import Any

import orjson

from workers.engine.base import Job, RequestRefusedError

# Ways past the scheduler, the limits or the operator's template.
_REFUSED_FIELDS = frozenset(
    {"chat_template", "prompt_embeds", "use_beam_search", "kv_transfer_params", "ec_transfer_params"}
)
# The others answer with something else than JSON.
_EMBEDDING_FORMATS = ("float", "base64")

_WARM_UP: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2},
    "completion": {"prompt": "Hello", "max_tokens": 2},
    "embedding": {"input": "Hello"},
}


def body(job: Job, *, model: str, id_prefix: str) -> dict[str, Any]:
    """Return the body under the engine's model id and the job's id, streaming as the job says.

    vLLM puts `id_prefix` before the id; an id that has it already does not get it twice.
    """
    fields = _object(job.body)
    for name in sorted(_REFUSED_FIELDS & fields.keys()):
        if fields[name]:
            raise RequestRefusedError("unsupported_parameter", f"{name} is not allowed here.", param=name)
    fields |= {"model": model, "request_id": job.id.removeprefix(id_prefix)}
    if job.endpoint == "embedding":
        if fields.get("encoding_format", "float") not in _EMBEDDING_FORMATS:
            text = f"encoding_format must be {' or '.join(_EMBEDDING_FORMATS)}."
            raise RequestRefusedError("invalid_request", text, param="encoding_format")
        return fields
    fields["stream"] = job.stream
    if not job.stream:
        fields.pop("stream_options", None)
    return fields


def warm_up(endpoint: str) -> Job:
    """Return a job that makes a fresh engine go the whole way once."""
    return Job(id="warm-up", endpoint=endpoint, body=orjson.dumps(_WARM_UP[endpoint]), stream=endpoint != "embedding")


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestRefusedError("invalid_json", "The request body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise RequestRefusedError("invalid_json", "The request body is not a JSON object.")
    return value
