"""The body of POST /v1/batches: OpenAI's fields."""

from __future__ import annotations

from typing import Any

from tasks.messages import Endpoint
from tasks.openai.fields import Checked, OneOf, RequestSchema, Text, known_keys, refuse
from tasks.openai.metadata import check as check_metadata
from webapp.openai.request_state import PATHS
from webapp.openai.uploads import LEAST_S, MOST_S

_ENDPOINTS = {path: endpoint for endpoint, path in PATHS.items()}


def endpoint_of(path: str) -> Endpoint:
    return _ENDPOINTS[path]


def _check_expiry(value: Any, param: str) -> None:
    if type(value) is not dict:
        refuse(param, "must be an object.")
    known_keys(value, frozenset({"anchor", "seconds"}), param)
    if value.get("anchor") != "created_at":
        refuse(f"{param}.anchor", "must be 'created_at'.")
    seconds = value.get("seconds")
    if type(seconds) is not int or not LEAST_S <= seconds <= MOST_S:
        refuse(f"{param}.seconds", f"must be a whole number from {LEAST_S} to {MOST_S}.")


class BatchSchema(RequestSchema):
    """POST /v1/batches."""

    needed = ("input_file_id", "endpoint", "completion_window")

    input_file_id = Text(64)
    endpoint = OneOf(*_ENDPOINTS)
    completion_window = OneOf("24h")
    metadata = Checked(check_metadata)
    output_expires_after = Checked(_check_expiry)


BATCH = BatchSchema()
