"""Check that a JSON schema is one, and small once its references are followed.

The engine turns a schema into a grammar. A wrong `type` or `pattern` has crashed engines
(CVE-2025-48944), and references can make a short schema endless, so what a compiler
could choke on is refused here: recursion, depth, width, great repetition counts.
"""

from __future__ import annotations

from typing import Any

import orjson

from tasks.openai.fields import refuse
from tasks.openai.patterns import check_pattern

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_WEIGHT = 10_000
MAX_ENUM = 1000
MAX_COUNT = 10_000

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_ONE = ("additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedProperties")
_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas")
_DEFINITIONS = ("$defs", "definitions")


def check_schema(schema: Any, param: str) -> None:
    """Refuse `schema` unless it can be compiled with little work."""
    if type(schema) is not dict:
        refuse(param, "must be a JSON schema, that is an object.")
    if len(orjson.dumps(schema)) > MAX_BYTES:
        refuse(param, f"is longer than {MAX_BYTES} bytes.")
    _Weigher(schema, param).check()


class _Weigher:
    """Walks a schema once, and adds up what it becomes with every reference written out."""

    def __init__(self, root: dict[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._weights: dict[str, int] = {}
        self._open: set[str] = set()

    def check(self) -> None:
        self._weigh(self._root, 0)
        for key in _DEFINITIONS:
            for definition in self._object(self._root.get(key, {}), key).values():
                self._weigh(definition, 1)

    def _weigh(self, schema: Any, depth: int) -> int:
        if type(schema) is bool:
            return 1
        if type(schema) is not dict:
            refuse(self._param, "holds something that is no schema where one is expected.")
        if depth > MAX_DEPTH:
            refuse(self._param, f"is nested deeper than {MAX_DEPTH} schemas.")
        weight = 1 + self._check_own(schema)
        weight += sum(self._weigh(inner, depth + 1) for inner in self._inner(schema))
        if "$ref" in schema:
            weight += self._follow(schema["$ref"], depth)
        if weight > MAX_WEIGHT:
            refuse(self._param, "is too large once its references are followed.")
        return weight

    def _check_own(self, schema: dict[str, Any]) -> int:
        """Check the keywords that hold no schema; return the weight of the values listed."""
        kinds = schema.get("type", [])
        for kind in kinds if type(kinds) is list else [kinds]:
            if type(kind) is not str or kind not in _TYPES:
                refuse(self._param, f"has a 'type' that is not one of {', '.join(sorted(_TYPES))}.")
        if "pattern" in schema:
            check_pattern(schema["pattern"], f"{self._param}.pattern")
        for key in _COUNTS:
            if key in schema and (type(schema[key]) is not int or not 0 <= schema[key] <= MAX_COUNT):
                refuse(self._param, f"has a '{key}' that is not a whole number from 0 to {MAX_COUNT}.")
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if key in schema and type(schema[key]) not in (int, float):
                refuse(self._param, f"has a '{key}' that is not a number.")
        required = schema.get("required", [])
        if type(required) is not list or any(type(name) is not str for name in required):
            refuse(self._param, "has a 'required' that is not a list of names.")
        values = schema.get("enum", [])
        if type(values) is not list or len(values) > MAX_ENUM:
            refuse(self._param, f"has an 'enum' that is not a list of at most {MAX_ENUM} values.")
        return len(values)

    def _inner(self, schema: dict[str, Any]) -> list[Any]:
        found = [schema[key] for key in _ONE if key in schema]
        for key in _LIST:
            if key in schema:
                found += self._list(schema[key], key)
        for key in _NAMED:
            found += self._object(schema.get(key, {}), key).values()
        for pattern in schema.get("patternProperties", {}):
            check_pattern(pattern, f"{self._param}.patternProperties")
        items = schema.get("items", True)
        return [*found, *items] if type(items) is list else [*found, items]

    def _follow(self, ref: Any, depth: int) -> int:
        if type(ref) is not str or not ref.startswith("#"):
            refuse(self._param, "may refer only to parts of itself: a '$ref' begins with '#'.")
        if ref in self._open:
            refuse(self._param, "refers to itself: recursive schemas are not supported.")
        if ref not in self._weights:
            self._open.add(ref)
            self._weights[ref] = self._weigh(self._target(ref), depth + 1)
            self._open.discard(ref)
        return self._weights[ref]

    def _target(self, ref: str) -> Any:
        found: Any = self._root
        for part in ref[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if type(found) is not dict or name not in found:
                refuse(self._param, "has a '$ref' to something that is not there.")
            found = found[name]
        return found

    def _object(self, value: Any, key: str) -> dict[str, Any]:
        if type(value) is not dict:
            refuse(self._param, f"has a '{key}' that is not an object.")
        return value

    def _list(self, value: Any, key: str) -> list[Any]:
        if type(value) is not list:
            refuse(self._param, f"has a '{key}' that is not a list.")
        return value
