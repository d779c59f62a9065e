from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InvalidJsonError
from tasks.openai import strict_json

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  \n",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"{",
        b'{"a":1}}',
        b'{"a":1,}',
        b"{'a':1}",
        b"not json",
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\xff"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\x00"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b"{" + b",".join(b'"k%d":1' % i for i in range(strict_json.MAX_KEYS + 1)) + b"}",
        b"{" + b",".join(b'"k%d" :1' % i for i in range(strict_json.MAX_KEYS + 1)) + b"}",
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_not_one_plain_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        strict_json.parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a" :2}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":[{"role":"user","role":"system"}]}',
        b'{"a:":":\\":","b":{"c":1,"c":1}}',
    ],
)
def test_a_key_given_twice_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJsonError, match="same key twice"):
        strict_json.parse(raw)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": -0, "b": 1.5, "c": True, "d": None},
        {"content": 'a: b, "c": {\'d\': 1}, \\"e\\": \\'},
        {"a:b": ":", 'q"': '":"'},
        {"content": "NUL \x00, four bytes \U0001f600, right to left \u202e, <|im_start|>"},
        {"a": [[[]]]},
    ],
)
def test_plain_json_is_read_as_it_stands(value: dict[str, object]) -> None:
    assert strict_json.parse(json.dumps(value).encode()) == value
    assert strict_json.parse(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@given(st.dictionaries(st.text(max_size=6), JSON_VALUES, max_size=5))
def test_whatever_python_writes_is_read_back(value: dict[str, object]) -> None:
    assert strict_json.parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_nothing_but_our_own_error_ever_comes_out(raw: bytes) -> None:
    with contextlib.suppress(InvalidJsonError):
        assert type(strict_json.parse(raw)) is dict
