"""Arrays packed by hand are, byte for byte, what psycopg itself sends."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int2, Int4, Int8

from perdure_eventstore import arrays


def check(packed: bytes, items: Sequence[Any]) -> None:
    dumper = Transformer().get_dumper(list(items), PyFormat.BINARY)
    assert packed == bytes(dumper.dump(list(items)) or b"")


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1))
def test_hashes(items: list[bytes]) -> None:
    check(arrays.hashes(items), items)


@pytest.mark.parametrize("count", [1, 2, 1_000])
def test_nothing_but_nulls(count: int) -> None:
    nulls, with_one = arrays.byteas([None] * count), arrays.byteas([*[None] * count, b""])
    assert nulls[20:] == with_one[20:-4]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_are_unpacked_as_they_were_packed(items: list[int]) -> None:
    assert arrays.unpack(arrays.bigints(items)) == items
    assert arrays.unpack(arrays.integers([item % 2**31 for item in items])) == [item % 2**31 for item in items]


def test_null_holds_no_integers() -> None:
    assert arrays.unpack(None) == []


@given(st.lists(st.uuids(), min_size=1))
def test_uuids(items: list[UUID]) -> None:
    check(arrays.uuids([item.bytes for item in items]), items)


@pytest.mark.parametrize(
    ("pack", "kind", "bits"), [(arrays.smallints, Int2, 16), (arrays.integers, Int4, 32), (arrays.bigints, Int8, 64)]
)
def test_integers_to_the_ends_of_their_range(pack: Callable[[list[int]], bytes], kind: type[int], bits: int) -> None:
    items = [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
    check(pack(items), [kind(item) for item in items])


# psycopg spells the null flag 0 where there is no null, and ours always says that there may be: Postgres takes both.
@given(st.lists(st.binary(), min_size=1).map(lambda items: [None, *items]))
def test_byteas_with_nulls(items: list[bytes | None]) -> None:
    check(arrays.byteas(items), items)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1).map(lambda items: [*items, None]))
def test_texts_with_nulls(items: list[str | None]) -> None:
    check(arrays.texts([None if item is None else item.encode() for item in items]), items)


@pytest.mark.parametrize("pack", [arrays.uuids, arrays.integers, arrays.smallints, arrays.texts, arrays.byteas])
def test_an_empty_array_is_its_header_without_a_dimension(pack: Callable[[list[Any]], bytes]) -> None:
    assert pack([]) == bytes(8) + pack([])[8:]
    assert len(pack([])) == 12


@pytest.mark.parametrize(("pack", "item"), [(arrays.smallints, 2**15), (arrays.integers, -(2**31) - 1)])
def test_an_integer_out_of_range_is_an_error_and_not_another_number(
    pack: Callable[[list[int]], bytes], item: int
) -> None:
    with pytest.raises(Exception, match=r"format requires|out of range"):
        pack([item])
