"""Check what a client may ask of the shape of an answer."""

from __future__ import annotations

from typing import Any

from tasks.errors import UnsupportedParameterError
from tasks.openai.fields import known_keys, refuse, strings
from tasks.openai.json_schema import check_schema
from tasks.openai.patterns import check_pattern
from tasks.openai.tools import check_name

MAX_GRAMMAR = 16 * 1024
MAX_CHOICES = 1000

_FORMAT_KEYS = frozenset({"type", "json_schema"})
_JSON_SCHEMA_KEYS = frozenset({"name", "description", "schema", "strict"})
_KINDS = ("json", "regex", "choice", "grammar", "json_object")
_OPTIONS = ("disable_any_whitespace", "disable_additional_properties")
_STRUCTURED_KEYS = frozenset({*_KINDS, *_OPTIONS})


def check_response_format(value: Any, param: str) -> None:
    kind = value.get("type") if type(value) is dict else None
    if kind == "structural_tag":
        raise UnsupportedParameterError("'structural_tag' is not supported; use 'json_schema'.", param=f"{param}.type")
    if kind not in ("text", "json_object", "json_schema"):
        refuse(f"{param}.type", "must be text, json_object or json_schema.")
    known_keys(value, _FORMAT_KEYS, param)
    if kind != "json_schema":
        return
    wrapper = value.get("json_schema")
    at = f"{param}.json_schema"
    if type(wrapper) is not dict:
        refuse(at, "is required: an object with 'name' and 'schema'.")
    known_keys(wrapper, _JSON_SCHEMA_KEYS, at)
    check_name(wrapper.get("name"), f"{at}.name")
    if type(wrapper.get("description", "")) not in (str, type(None)):
        refuse(f"{at}.description", "must be a string.")
    if type(wrapper.get("strict", False)) not in (bool, type(None)):
        refuse(f"{at}.strict", "must be true or false.")
    check_schema(wrapper.get("schema"), f"{at}.schema")


def check_structured_outputs(value: Any, param: str) -> None:
    """vLLM's own field: exactly one of json, regex, choice, grammar and json_object."""
    if type(value) is not dict:
        refuse(param, "must be an object.")
    known_keys(value, _STRUCTURED_KEYS, param)
    if sum(value.get(kind) is not None for kind in _KINDS) != 1:
        refuse(param, f"must have exactly one of {', '.join(_KINDS)}.")
    for key in (*_OPTIONS, "json_object"):
        if value.get(key) is not None and type(value[key]) is not bool:
            refuse(f"{param}.{key}", "must be true or false.")
    if value.get("json") is not None:
        check_schema(value["json"], f"{param}.json")
    if value.get("regex") is not None:
        check_pattern(value["regex"], f"{param}.regex")
    if value.get("choice") is not None:
        strings(value["choice"], f"{param}.choice", most=MAX_CHOICES, longest=1024)
        if not value["choice"]:
            refuse(f"{param}.choice", "must not be empty.")
    grammar = value.get("grammar")
    if grammar is not None and (type(grammar) is not str or not 1 <= len(grammar) <= MAX_GRAMMAR):
        refuse(f"{param}.grammar", f"must be a string of 1 to {MAX_GRAMMAR} characters.")
