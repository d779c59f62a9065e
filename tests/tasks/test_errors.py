from __future__ import annotations

import pytest

from tasks.errors import ServingError, error_of, every_error


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_is_rebuilt_from_its_code(error: type[ServingError]) -> None:
    rebuilt = error_of(error.code, "text", "field")
    assert (type(rebuilt), rebuilt.code, rebuilt.message, rebuilt.param) == (error, error.code, "text", "field")


def test_codes_are_unique() -> None:
    codes = [error.code for error in every_error()]
    assert len(codes) == len(set(codes))


def test_a_code_of_a_newer_release_is_kept() -> None:
    rebuilt = error_of("quota_of_2031", "text")
    assert (type(rebuilt), rebuilt.code) == (ServingError, "quota_of_2031")
    assert ServingError.code == "internal_error"
