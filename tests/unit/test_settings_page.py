"""docs/operations.md names every setting and no other, with the range of each; what is out of range is refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from annotated_types import Ge, Le
from pydantic import BaseModel

from perdure.settings import Settings, SettingsRefused, _names

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_the_page_names_every_setting_and_no_other() -> None:
    assert set(re.findall(r"`(PERDURE_[A-Z_]+)`", PAGE)) == _names(Settings)


def numbers(model: type[BaseModel], prefix: str = "PERDURE_") -> Iterator[tuple[str, float, float]]:
    """Each setting that is a number, with the least and the most it may be."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numbers(kind, f"{prefix}{name.upper()}_")
        elif kind in (int, float, int | None):
            (least,) = [each.ge for each in field.metadata if isinstance(each, Ge)]
            (most,) = [each.le for each in field.metadata if isinstance(each, Le)]
            yield f"{prefix}{name.upper()}", least, most  # type: ignore[misc] # they are numbers


NUMBERS = list(numbers(Settings))


def test_the_page_says_the_range_of_every_number() -> None:
    for name, least, most in NUMBERS:
        (row,) = [line for line in PAGE.splitlines() if line.startswith("| `PERDURE_") and f"`{name}`" in line]
        assert f"{least:,} to {most:,}" in row.split("|")[3]


@pytest.mark.parametrize("name", [name for name, _, _ in NUMBERS])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "-1", "1e300", str(2**31), "x"])
def test_a_number_out_of_its_range_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsRefused, match=name) as refused:
        Settings.load()
    assert len(str(refused.value)) < 300
