from __future__ import annotations

import marshmallow
import pytest

from tasks.openai import schemas
from tasks.openai.fields import RequestSchema, Strict


@pytest.mark.parametrize("schema", [schemas.CHAT, schemas.COMPLETION, schemas.EMBEDDING])
def test_a_field_has_nothing_beside_its_own_check(schema: RequestSchema) -> None:
    """`Strict.deserialize` asks for none of this, so a field that had it would not be checked as it says."""
    for name, field in schema.fields.items():
        assert isinstance(field, Strict), name
        assert not field.validators, name
        assert not field.required, name
        assert field.load_default is marshmallow.missing, name
        assert not any(marshmallow_hooks(schema)), name


def marshmallow_hooks(schema: RequestSchema) -> list[object]:
    return [hooks for hooks in schema._hooks.values() if hooks]
