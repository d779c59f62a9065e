"""Check a chat's messages: roles, contents and tool calls. Text only."""

from __future__ import annotations

from typing import Any

from tasks.errors import InvalidJsonError, UnsupportedParameterError
from tasks.openai import strict_json
from tasks.openai.fields import known_keys, objects, refuse
from tasks.openai.tools import check_name

MAX_MESSAGES = 1500
MAX_PARTS = 1000
MAX_TOOL_CALLS = 128
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
# Clients send an assistant's message back with every key that the answer had.
_KEYS = frozenset(
    {
        *("role", "content", "name", "tool_calls", "tool_call_id", "refusal"),
        *("reasoning", "reasoning_content", "annotations", "audio", "function_call"),
    }
)
_TOOL_CALL_KEYS = frozenset({"id", "type", "function", "index"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})


def check_messages(value: Any, param: str) -> None:
    """Refuse what no chat template of a text model can render."""
    parts = 0
    for i, message in enumerate(objects(value, param, MAX_MESSAGES)):
        parts += _check_message(message, f"{param}[{i}]")
    if parts > MAX_PARTS:
        refuse(param, f"may have at most {MAX_PARTS} content parts altogether.")


def _check_message(message: dict[str, Any], at: str) -> int:
    """Return how many content parts the message has."""
    known_keys(message, _KEYS, at)
    role = message.get("role")
    if type(role) is not str or role not in _ROLES:
        refuse(f"{at}.role", f"must be one of {', '.join(sorted(_ROLES))}.")
    for key in ("audio", "function_call"):
        if message.get(key) is not None:
            raise UnsupportedParameterError(f"'{at}.{key}' is not supported here.", param=f"{at}.{key}")
    for key in ("name", "refusal", "reasoning", "reasoning_content"):
        if message.get(key) is not None and type(message[key]) is not str:
            refuse(f"{at}.{key}", "must be a string.")
    if message.get("tool_calls") is not None:
        _check_tool_calls(message, role, f"{at}.tool_calls")
    if role == "tool" and (type(message.get("tool_call_id")) is not str or not message["tool_call_id"]):
        refuse(f"{at}.tool_call_id", "is required: the id of the tool call that this answers.")
    content = message.get("content")
    if type(content) is str:
        return 0
    if content is None:
        if role != "assistant":
            refuse(f"{at}.content", "is required.")
        return 0
    return _check_parts(content, f"{at}.content")


def _check_parts(content: Any, at: str) -> int:
    if type(content) is not list or not 1 <= len(content) <= MAX_PARTS:
        refuse(at, f"must be a string, or a list of 1 to {MAX_PARTS} parts.")
    for i, part in enumerate(content):
        kind = part.get("type") if type(part) is dict else None
        if type(kind) is not str:
            refuse(f"{at}[{i}]", "must be an object with a 'type'.")
        if kind not in ("text", "refusal"):
            raise UnsupportedParameterError(
                f"'{at}[{i}]' is not text: images, audio, video and files are not accepted here.",
                param=f"{at}[{i}].type",
            )
        # The engine guesses a part's kind from its keys, so no other key may stand there.
        known_keys(part, frozenset({"type", kind, "cache_control"}), f"{at}[{i}]")
        if type(part.get(kind)) is not str:
            refuse(f"{at}[{i}].{kind}", "must be a string.")
    return len(content)


def _check_tool_calls(message: dict[str, Any], role: str, at: str) -> None:
    if role != "assistant":
        refuse(at, "may stand in an assistant's message only.")
    if message["tool_calls"] == []:  # some clients send the empty list with every message
        return
    for i, call in enumerate(objects(message["tool_calls"], at, MAX_TOOL_CALLS)):
        here = f"{at}[{i}]"
        known_keys(call, _TOOL_CALL_KEYS, here)
        if type(call.get("id")) is not str or not call["id"]:
            refuse(f"{here}.id", "is required.")
        if call.get("type", "function") != "function":
            refuse(f"{here}.type", "must be 'function'.")
        function = call.get("function")
        if type(function) is not dict:
            refuse(f"{here}.function", "must be an object.")
        known_keys(function, _FUNCTION_KEYS, f"{here}.function")
        check_name(function.get("name"), f"{here}.function.name")
        _check_arguments(function.get("arguments"), f"{here}.function.arguments")


def _check_arguments(arguments: Any, at: str) -> None:
    """Chat templates get the arguments as an object, so the text must be one."""
    if type(arguments) is not str:
        refuse(at, "must be a string that holds a JSON object.")
    if arguments.strip():
        try:
            strict_json.parse(arguments.encode())
        except InvalidJsonError:
            refuse(at, "must be a string that holds a JSON object.")
