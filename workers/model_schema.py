"""What may stand in models.yaml, as marshmallow schemas.

The schemas only check; names, nesting and types are those of the file. Turning an
entry into a spec, and whatever needs two entries at once, is `workers.registry`'s.
Nothing is coerced: the text "no" is not a boolean, and true is not a number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from workers.document import Place
from workers.layout import DevicePattern
from workers.vllm_names import REASONING_PARSERS, TOOL_PARSERS, VLLM

ENGINES = ("vllm", "sim")
_PARSERS = {"tool_call_parser": TOOL_PARSERS, "reasoning_parser": REASONING_PARSERS}
# Arguments that bring parsers of their own.
_PLUGINS = frozenset({"tool_parser_plugin", "reasoning_parser_plugin", "tool-parser-plugin", "reasoning-parser-plugin"})
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_ID_RULE = "a name is 1 to 128 letters, digits and . _ : / -, and begins with a letter or digit"

# Arguments of vLLM that have a key of their own, or that would take the engine out of our hands.
_NOT_ENGINE_ARGS = {
    "model": "write `path:` one level up",
    "served_model_name": "the model is served under its own id and aliases",
    "max_model_len": "write it one level up",
    "tool_call_parser": "write it one level up",
    "reasoning_parser": "write it one level up",
    "host": "an engine has no address of its own",
    "port": "an engine has no address of its own",
    "api_key": "keys are the gateway's; see `celerity keys`",
}


class _Text(fields.String):
    default_error_messages = {"invalid": "text is expected"}  # noqa: RUF012 - marshmallow's own interface


class _Bool(fields.Boolean):
    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("true or false is expected, without quotes")
        return value


class _Int(fields.Integer):
    def _validated(self, value: Any) -> int:
        if type(value) is not int:
            raise ValidationError("a whole number is expected, without quotes")
        return value


class _Number(fields.Float):
    def _validated(self, value: Any) -> float:
        if type(value) not in (int, float):
            raise ValidationError("a number is expected, without quotes")
        return float(value)


class _Mapping(fields.Field[dict[str, Any]]):
    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("`name: value` pairs are expected")
        return value


def _at_least(low: float) -> validate.Range:
    return validate.Range(min=low, error=f"must be at least {low:g}")


def check_id(text: str) -> None:
    if not ID.fullmatch(text):
        raise ValidationError(_ID_RULE)


def check_device(text: str) -> None:
    try:
        DevicePattern.parse(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class _Strict(Schema):
    """A mapping that knows all of its keys."""

    error_messages = {"type": "`name: value` pairs are expected"}  # noqa: RUF012 - marshmallow's own interface


class ReplicasSchema(_Strict):
    min = _Int(validate=_at_least(0))
    max = _Int(validate=_at_least(1))

    @validates_schema
    def _ordered(self, data: dict[str, Any], **_: Any) -> None:
        low, high = data.get("min", 0), data.get("max")
        if high is not None and low > high:
            raise ValidationError(f"min ({low}) is larger than max ({high})", "min")


class QueueSchema(_Strict):
    max_depth = _Int(validate=_at_least(1))
    max_wait_s = _Number(validate=_at_least(0.1))


class SimSchema(_Strict):
    load_s = _Number(validate=_at_least(0))
    ttft_ms = _Number(validate=_at_least(0))
    itl_ms = _Number(validate=_at_least(0))
    seats = _Int(validate=_at_least(1))
    memory_mib = _Int(validate=_at_least(0))
    sleep_mib = _Int(validate=_at_least(0), allow_none=True)
    sleep_s = _Number(validate=_at_least(0))
    wake_s = _Number(validate=_at_least(0))
    faults = _Bool()


class ModelSchema(_Strict):
    """One entry under `models:`."""

    engine = _Text(validate=validate.OneOf(ENGINES, error="must be one of " + ", ".join(ENGINES)))
    path = _Text(validate=validate.Length(min=1, error="must not be empty"))
    aliases = fields.List(
        _Text(validate=check_id), error_messages={"invalid": "a list is expected, such as [light, chat]"}
    )
    pinned = _Bool()
    devices = fields.List(
        _Text(validate=check_device),
        validate=validate.Length(min=1, error="name one at least, or leave the key out for any device"),
        error_messages={"invalid": "a list is expected, such as [cuda:0, gpu-box/cuda:1]"},
    )
    memory_mib = _Int(validate=_at_least(1), allow_none=True)
    max_model_len = _Int(validate=_at_least(1), allow_none=True)
    replicas = fields.Nested(ReplicasSchema)
    idle_ttl_s = _Number(validate=_at_least(0), allow_none=True)
    exclusive = _Bool()
    engine_args = _Mapping()
    tool_call_parser = _Text(allow_none=True)
    reasoning_parser = _Text(allow_none=True)
    chat_template_kwargs = _Mapping()
    queue = fields.Nested(QueueSchema)
    sim = fields.Nested(SimSchema)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _fits_its_engine(self, data: dict[str, Any], given: Any, **_: Any) -> None:
        if not isinstance(given, dict):
            return
        engine = given.get("engine", "vllm")
        if engine == "vllm" and "path" not in given:
            raise ValidationError("missing; the folder or Hugging Face repository of the weights", "path")
        if engine == "vllm" and "sim" in given:
            raise ValidationError("only for `engine: sim`", "sim")
        for key, names in _PARSERS.items():
            if (problem := _unknown_parser(given, key, names)) is not None:
                raise ValidationError(problem, key)
        for name in data.get("engine_args", ()):
            if why := _NOT_ENGINE_ARGS.get(name.replace("-", "_")):
                raise ValidationError({"engine_args": {name: [f"not allowed here: {why}"]}})


def _unknown_parser(given: Mapping[str, Any], key: str, names: Collection[str]) -> str | None:
    name, args = given.get(key), given.get("engine_args")
    if not isinstance(name, str) or name in names or (isinstance(args, dict) and args.keys() & _PLUGINS):
        return None
    close = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean "{close[0]}"?' if close else "it has " + ", ".join(sorted(names))
    return f"vLLM {VLLM} has no such parser; {hint}"


class RolloutSchema(_Strict):
    """One entry under the top-level `aliases:`."""

    desired = _Text(required=True, error_messages={"required": "missing; the model the alias should lead to"})
    previous = _Text(allow_none=True)


class DeviceSchema(_Strict):
    """One entry under the top-level `devices:`."""

    exclusive = _Bool()
    bound_to = _Text(validate=check_id, allow_none=True)
    slots = _Int(validate=_at_least(1), allow_none=True)


class FileSchema(_Strict):
    """The top level. What stands under each name is checked entry by entry."""

    models = _Mapping(required=True, error_messages={"required": "missing"})
    aliases = _Mapping()
    devices = _Mapping()


def problems(schema: Schema, data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Check `data` and yield what is wrong with it, as (where, text)."""
    try:
        schema.load(data)
    except ValidationError as error:
        yield from _flatten(error.messages, schema, place)


def _flatten(messages: Any, schema: Schema | None, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(messages, list):
        yield from ((place, text) for text in messages)
        return
    for key, inner in messages.items():
        if key == "_schema":
            yield from _flatten(inner, None, place)
        elif inner == ["Unknown field."] and schema is not None:
            yield (*place, key), "unknown key" + _did_you_mean(key, schema)
        else:
            yield from _flatten(_plain(inner), _nested(schema, key), (*place, key))


def _plain(messages: Any) -> Any:
    """Say "null" where marshmallow talks of None."""
    if messages == ["Field may not be null."]:
        return ["may not be empty; leave the key out for the default"]
    return messages


def _nested(schema: Schema | None, key: Any) -> Schema | None:
    inner = schema.fields.get(key) if schema is not None else None
    return inner.schema if isinstance(inner, fields.Nested) else None


def _did_you_mean(key: str, schema: Schema) -> str:
    close = difflib.get_close_matches(key, schema.fields, n=1)
    return f'; did you mean "{close[0]}"?' if close else "; known keys: " + ", ".join(sorted(schema.fields))
