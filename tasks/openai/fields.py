"""Strict fields, and the schema that checks a body with them.

marshmallow's own fields convert ("1" is a number, "yes" is true). A body goes to the
engine as it came, so here a value has the right type already or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from marshmallow import Schema, ValidationError, fields

from tasks.errors import InvalidRequestError, UnknownParameterError, UnsupportedParameterError

T = TypeVar("T")

INT32_MAX = 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# Above every vocabulary there is; the engine knows the real limit.
MAX_TOKEN_ID = 2**24


def refuse(param: str, why: str) -> NoReturn:
    """Raise for the field at `param`, `messages[3].role` say. `why` goes on from the field's name."""
    raise InvalidRequestError(f"'{param}' {why}", param=param)


class Strict(fields.Field[T]):
    """A field that judges its value alone: no validators beside it, no default, nothing else."""

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> T:
        # marshmallow's own asks after all of these first, which costs more than the judgement.
        return self._deserialize(value, attr, data, **kwargs)


class Flag(Strict[bool]):
    """true or false."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise ValidationError("must be true or false.")
        return value


class Whole(Strict[int]):
    """A whole number between two bounds, both included."""

    def __init__(self, low: int, high: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValidationError(f"must be a whole number from {self.low} to {self.high}.")
        return value


class Real(Strict[float]):
    """A number between two bounds; `above` leaves out the lower one."""

    def __init__(self, low: float, high: float, *, above: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high, self.above = low, high, above

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> float:
        if type(value) not in (int, float) or not self.low <= value <= self.high or (self.above and value == self.low):
            wanted = f"above {self.low}, at most {self.high}" if self.above else f"from {self.low} to {self.high}"
            raise ValidationError(f"must be a number {wanted}.")
        return float(value)


class Text(Strict[str]):
    """A string of bounded length."""

    def __init__(self, longest: int = 1024, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.longest = longest

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if type(value) is not str or len(value) > self.longest:
            raise ValidationError(f"must be a string of at most {self.longest} characters.")
        return value


class OneOf(Strict[str]):
    """One of a few strings."""

    def __init__(self, *choices: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.choices = choices

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if type(value) is not str or value not in self.choices:
            raise ValidationError(f"must be one of {', '.join(self.choices)}.")
        return value


class Checked(Strict[Any]):
    """Whatever `check(value, param)` lets pass; it calls `refuse` with the exact place."""

    def __init__(self, check: Callable[[Any, str], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        self.check(value, attr or "")
        return value


class Ignored(Strict[Any]):
    """OpenAI's own bookkeeping: taken from any client, without effect here."""


class Unsupported(Strict[Any]):
    """A field that the engine knows and this gateway does not let through, but for its harmless values."""

    def __init__(self, why: str, *harmless: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.why, self.harmless = why, harmless

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        # By type as well: False == 0 in Python, not in JSON.
        if any(type(value) is type(fine) and value == fine for fine in self.harmless):
            return value
        raise UnsupportedParameterError(f"'{attr}' is not supported: {self.why}", param=attr)


class RequestSchema(Schema):
    """The fields of one endpoint.

    `check` is used in place of `load`: it costs what the body has, not what the schema
    has, builds no second body, and stops at the first mistake. null stands for absence.
    """

    needed: tuple[str, ...] = ("model",)

    def check(self, body: dict[str, Any]) -> None:
        """Raise InvalidRequestError, with the field's name, unless the body can be given to an engine."""
        known = self.fields
        for name, value in body.items():
            field = known.get(name)
            if field is None:
                raise UnknownParameterError(f"Unknown parameter: '{name[:64]}'.", param=name[:64])
            if value is None:
                continue
            try:
                field.deserialize(value, name, body)
            except ValidationError as error:
                refuse(name, str(error.messages[0]))
        for name in self.needed:
            if body.get(name) is None:
                refuse(name, "is required.")
        self.check_together(body)

    def check_together(self, body: dict[str, Any]) -> None:
        """Check what depends on more than one field. Every field is known to be right by itself."""


def objects(value: Any, param: str, most: int) -> list[dict[str, Any]]:
    """Return `value` if it is a list of 1 to `most` objects."""
    if type(value) is not list or not 1 <= len(value) <= most:
        refuse(param, f"must be a list of 1 to {most} objects.")
    for i, item in enumerate(value):
        if type(item) is not dict:
            refuse(f"{param}[{i}]", "must be an object.")
    return value


def known_keys(value: dict[str, Any], known: frozenset[str], param: str) -> None:
    """Refuse the first key of `value` that is not one of `known`."""
    for key in value:
        if key not in known:
            place = f"{param}.{key[:64]}"
            raise UnknownParameterError(f"Unknown parameter: '{place}'.", param=place)


def strings(value: Any, param: str, *, most: int, longest: int) -> None:
    """Refuse anything but a list of up to `most` non-empty strings."""
    if type(value) is not list or len(value) > most:
        refuse(param, f"must be a list of at most {most} strings.")
    for i, item in enumerate(value):
        if type(item) is not str or not 1 <= len(item) <= longest:
            refuse(f"{param}[{i}]", f"must be a string of 1 to {longest} characters.")


def token_ids(value: Any, param: str, *, most: int) -> None:
    """Refuse anything but a list of up to `most` token ids."""
    if type(value) is not list or len(value) > most:
        refuse(param, f"must be a list of at most {most} token ids.")
    if any(type(item) is not int or not 0 <= item <= MAX_TOKEN_ID for item in value):
        refuse(param, f"may hold only whole numbers from 0 to {MAX_TOKEN_ID}.")
