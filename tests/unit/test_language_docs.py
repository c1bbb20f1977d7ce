"""docs/language.md: its definitions compile, its refusals are refused so, and it names every key."""

import re
from pathlib import Path

import pytest

import perdure
from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.document import read_document
from perdure_engine.definitions.keys import NOT_YET
from perdure_engine.definitions.schema import KEYS
from perdure_engine.templates.scope import ROOTS

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
BLOCKS = re.findall(r"^```(?:json|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
REFUSED = [block for block in BLOCKS if block.startswith("# refused: ")]
TYPES = perdure.App("embedded:unused").types.schemas()


def first_name(block: str) -> str:
    found = re.search(r'workflow_id"?: "?(\w+)', block)
    return found[1] if found else block


@pytest.mark.parametrize("block", [each for each in BLOCKS if each not in REFUSED], ids=first_name)
def test_a_definition_of_the_page_compiles_without_a_warning(block: str) -> None:
    assert compile_definition(read_document(block), known_types=TYPES).warnings == ()


@pytest.mark.parametrize("block", REFUSED, ids=first_name)
def test_a_refused_definition_is_refused_with_the_sentence_above_it(block: str) -> None:
    with pytest.raises(perdure.DefinitionRefused) as refused:
        compile_definition(read_document(block), known_types=TYPES)
    for sentence in re.findall(r"^# refused: (.*)$", block, re.MULTILINE):
        assert sentence in str(refused.value)


def test_the_page_names_every_key_and_root() -> None:
    words = {*(key for keys in KEYS.values() for key in keys), *NOT_YET, *ROOTS}
    named = set(re.findall(r"[$\w]+", " ".join(re.findall(r"`([^`\n]+)`", PAGE))))
    assert words - named == set()
