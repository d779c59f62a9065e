"""Check tools and the choice among them."""

from __future__ import annotations

import re
from typing import Any

from tasks.openai.fields import known_keys, objects, refuse
from tasks.openai.json_schema import check_schema

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_TOOL_KEYS = frozenset({"type", "function"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict"})
_HOW_TO_NAME = 'must be {"type": "function", "function": {"name": "..."}}.'


def check_name(value: Any, param: str) -> None:
    """A tool's name becomes part of a grammar, so it is plain."""
    if type(value) is not str or not _NAME.fullmatch(value):
        refuse(param, "must have 1 to 128 letters, digits, dots, dashes or underscores.")


def check_tools(value: Any, param: str) -> None:
    for i, tool in enumerate(objects(value, param, MAX_TOOLS)):
        at = f"{param}[{i}]"
        known_keys(tool, _TOOL_KEYS, at)
        if tool.get("type") != "function":
            refuse(f"{at}.type", "must be 'function'.")
        function = tool.get("function")
        if type(function) is not dict:
            refuse(f"{at}.function", "must be an object.")
        known_keys(function, _FUNCTION_KEYS, f"{at}.function")
        check_name(function.get("name"), f"{at}.function.name")
        if type(function.get("description", "")) not in (str, type(None)):
            refuse(f"{at}.function.description", "must be a string.")
        if type(function.get("strict", False)) not in (bool, type(None)):
            refuse(f"{at}.function.strict", "must be true or false.")
        if function.get("parameters") is not None:
            check_schema(function["parameters"], f"{at}.function.parameters")


def check_tool_choice(value: Any, param: str) -> None:
    if type(value) is str:
        if value not in ("none", "auto", "required"):
            refuse(param, "must be none, auto, required or one function.")
        return
    function = value.get("function") if type(value) is dict else None
    if type(function) is not dict or value.get("type") != "function" or type(function.get("name")) is not str:
        refuse(param, _HOW_TO_NAME)


def check_choice_among(choice: Any, tools: list[dict[str, Any]] | None) -> None:
    """Check a choice, right by itself, against the tools there are."""
    if choice in (None, "none"):
        return
    if not tools:
        refuse("tool_choice", "needs 'tools'.")
    if type(choice) is dict and choice["function"]["name"] not in {tool["function"]["name"] for tool in tools}:
        refuse("tool_choice", "names a function that is not among 'tools'.")
