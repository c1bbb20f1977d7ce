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
from perdure_eventstore.arrays import Array


def sent_by_psycopg(items: Sequence[Any]) -> tuple[int, bytes]:
    dumper = Transformer().get_dumper(list(items), PyFormat.BINARY)
    return dumper.oid, bytes(dumper.dump(list(items)) or b"")


def check(packed: Array, items: Sequence[Any]) -> None:
    assert (packed.oid, packed.data) == sent_by_psycopg(items)


@given(st.lists(st.uuids(), min_size=1))
def test_uuids(items: list[UUID]) -> None:
    check(arrays.uuids([item.bytes for item in items]), items)


@pytest.mark.parametrize(
    ("pack", "kind", "bits"), [(arrays.smallints, Int2, 16), (arrays.integers, Int4, 32), (arrays.bigints, Int8, 64)]
)
def test_integers_to_the_ends_of_their_range(pack: Callable[[list[int]], Array], kind: type[int], bits: int) -> None:
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
def test_an_empty_array_is_its_header_without_a_dimension(pack: Callable[[list[Any]], Array]) -> None:
    assert pack([]).data == bytes(8) + pack([]).data[8:]
    assert len(pack([]).data) == 12


@pytest.mark.parametrize(("pack", "item"), [(arrays.smallints, 2**15), (arrays.integers, -(2**31) - 1)])
def test_an_integer_out_of_range_is_an_error_and_not_another_number(
    pack: Callable[[list[int]], Array], item: int
) -> None:
    with pytest.raises(Exception, match=r"format requires|out of range"):
        pack([item])
