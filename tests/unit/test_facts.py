"""What is recorded of events, definitions and schedules can be read again, or is refused before."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_engine.facts import EventPublished, FactRefused, SchedulePaused, decode_fact, encode_fact
from perdure_eventstore.events import NewEvent, RecordedEvent


def recorded(event: NewEvent) -> RecordedEvent:
    given = {"type": event.type, "schema_version": event.schema_version, "data": event.data, "payload": event.payload}
    return RecordedEvent(**{**dict.fromkeys(RecordedEvent._fields), "stream": uuid4(), "version": 1, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (SchedulePaused(reason=5), "Expected `str`, got `int`"),  # type: ignore[arg-type]
        (SchedulePaused(reason=None), "Expected `str`, got `null`"),  # type: ignore[arg-type]
        (SchedulePaused(reason="a\0b"), "U+0000 cannot be kept by Postgres"),
        (SchedulePaused(reason="\\\0"), "U+0000 cannot be kept by Postgres"),
        (SchedulePaused(reason="\ud800"), "surrogates not allowed"),
        (EventPublished(name="a", run="no id"), "Invalid UUID"),  # type: ignore[arg-type]
        (EventPublished(name="a", key="\ud800"), "surrogates not allowed"),
    ],
)
def test_what_could_not_be_read_again_is_not_recorded(fact: Any, why: str) -> None:
    with pytest.raises(FactRefused, match=f"a {type(fact).__name__} cannot be recorded: ") as refused:
        encode_fact(fact)
    assert why in str(refused.value)


@given(st.text())
def test_any_text_is_read_as_it_was_or_refused(text: str) -> None:
    fact = SchedulePaused(reason=text)
    try:
        event = encode_fact(fact)
    except FactRefused:
        assert "\0" in text
    else:
        assert "\0" not in text and decode_fact(recorded(event)) == fact
