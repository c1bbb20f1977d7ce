"""docs/operations.md names every setting, and no other."""

import re
from pathlib import Path

from perdure.settings import Settings, _names

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_the_page_names_every_setting_and_no_other() -> None:
    assert set(re.findall(r"`(PERDURE_[A-Z_]+)`", PAGE)) == _names(Settings)
