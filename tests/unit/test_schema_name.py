"""A schema's name stands between double quotes in every statement."""

import pytest
from pydantic import ValidationError

import perdure

URL = "postgresql://nowhere/x"


@pytest.mark.parametrize("name", ["perdure", "My App", "größe", "a$1"])
def test_a_name_that_can_be_quoted_is_taken(name: str) -> None:
    assert perdure.App(URL, schema=name).schema == name
    assert perdure.Settings(schema_name=name).schema_name == name


@pytest.mark.parametrize("name", ["", 'a"b', "a'b", "a\\b", "a%sb", "a\nb", "x" * 64])
def test_a_name_that_would_end_a_statement_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a schema's name is 1 to 63 characters without quotes"):
        perdure.App(URL, schema=name)
    with pytest.raises(ValidationError):
        perdure.Settings(schema_name=name)
