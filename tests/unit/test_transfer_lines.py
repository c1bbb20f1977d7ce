"""Any event goes through a line of either form and comes back as it was; what is no such line is refused."""

import io
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.hashing import event_hash, payload_digest
from perdure_eventstore.transfer.entry import Entry, TransferRefused, fault_in, microseconds
from perdure_eventstore.transfer.form import Form, form_named, form_of
from perdure_eventstore.transfer.frame import Header, Selection, Tally
from perdure_eventstore.transfer.lines import export_lines

LOG = "perdure/5f0d9a52-6a3e-4a55-9d3c-6c2f1f0c7a11"
FORMS = ("jsonl", "cloudevents")
HEADER = Header(LOG, 7, Selection(), datetime(2026, 1, 1, tzinfo=UTC), "0.1.0")

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
ODD = [
    b"1.10", b"-0", b"1E5", b"0.1e-7", b"null", b'"\\u00e9\\/"', b'"\xe2\x80\xa8"', b'"\\ud83d\\ude00"', b" 1", b"1 ",
    b'{"a":1,"a":2}', b'{\n  "pretty": [1.0]\n}', b'"tab\\t"', b"[ 1 , 2 ]", b'"\\ud800"',
    b"123456789012345678901234567890",
]  # fmt: skip
json_texts = st.one_of(
    values.map(lambda value: json.dumps(value, ensure_ascii=False).encode()),
    values.map(lambda value: json.dumps(value, indent=1).encode()),
    st.sampled_from(ODD),
)
payloads = st.one_of(
    st.none(),
    json_texts,
    st.binary(max_size=60).map(lambda frame: b"\x01" + frame),
    st.binary(max_size=60),
    st.just(b'"' + b"x" * 300_000 + b'"'),
)


@st.composite
def entries(draw: st.DrawFn, position: int = 1) -> Entry:
    payload = draw(payloads)
    digest, salt = None, None
    if payload is not None:
        salt = draw(st.binary(min_size=16, max_size=16))
        digest = payload_digest(salt, payload)
        if draw(st.booleans()):
            payload = salt = None  # erased
    version = draw(st.integers(1, 2**31 - 1))
    event = RecordedEvent(
        position=position,
        recorded_at=draw(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))),
        stream=draw(st.uuids()),
        version=version,
        schema_version=draw(st.integers(0, 2**15 - 1)),
        id=draw(st.uuids()),
        type=draw(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)),
        data=draw(json_texts),
        metadata=draw(json_texts),
        payload=payload,
        payload_salt=salt,
        payload_digest=digest,
        hash=b"",
    )
    previous = None if version == 1 else draw(st.binary(min_size=32, max_size=32))
    return Entry(event._replace(hash=hashed(event, previous)), previous)


def hashed(event: RecordedEvent, previous: bytes | None) -> bytes:
    return event_hash(
        previous, event.stream.bytes, event.version, event.id.bytes, event.type.encode(), event.schema_version,
        microseconds(event.recorded_at), event.data, event.metadata, event.payload_digest,
    )  # fmt: skip


def sample(position: int = 1, **fields: Any) -> Entry:
    payload, salt = b'{"output":1.10}', bytes(16)
    event = RecordedEvent(
        position, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), UUID(int=position), 1, 1, UUID(int=9),
        "TaskCompleted", b'{"task_id":"a"}', b"{}", payload, salt, payload_digest(salt, payload), b"",
    )._replace(**fields)  # fmt: skip
    return Entry(event._replace(hash=hashed(event, None)), None)


def written(form: Form, *all_: Entry) -> list[bytes]:
    """The lines of an export."""
    tally, lines = Tally(), [form.header(HEADER)]
    tally.take(lines[0])
    for entry in all_:
        lines.append(form.entry(entry))
        tally.take(lines[-1])
        tally.count(entry.event.position, entry.event.version)
    return [*lines, form.trailer(tally.trailer())]


def read(lines: list[bytes]) -> list[Entry]:
    return [line.entry for line in export_lines(io.BytesIO(b"".join(lines)))]


@pytest.mark.parametrize("form", FORMS)
@given(entry=entries())
def test_any_event_comes_back_as_it_went(form: str, entry: Entry) -> None:
    line = form_named(form, LOG).entry(entry)
    assert line.count(b"\n") == 1
    found = form_named(form, "").read(line)
    assert found == entry
    assert isinstance(found, Entry) and fault_in(found) is None


@given(entry=entries())
def test_a_line_is_what_the_cloudevents_package_reads(entry: Entry) -> None:
    event, found = entry.event, JSONFormat().read(None, form_named("cloudevents", LOG).entry(entry))
    assert (found.get_id(), found.get_source(), found.get_subject()) == (str(event.id), LOG, str(event.stream))
    assert (found.get_type(), found.get_time()) == ("perdure." + event.type, event.recorded_at)
    assert (found.get_extension("position"), found.get_extension("version")) == ("1", event.version)
    assert found.get_extension("hash") == event.hash.hex()


@pytest.mark.parametrize("form", FORMS)
def test_header_and_trailer_are_what_the_rest_is(form: str) -> None:
    lines = written(form_named(form, LOG), sample())
    for line in lines:
        orjson.loads(line)
        if form == "cloudevents":
            JSONFormat().read(None, line)
    assert form_of(lines[0]).name == form
    assert export_lines(io.BytesIO(b"".join(lines))).header == HEADER
    assert read(lines) == [sample()]


@pytest.mark.parametrize("form", FORMS)
def test_what_people_wrote_stands_as_they_wrote_it(form: str) -> None:
    assert b'{"output":1.10}' in form_named(form, LOG).entry(sample())


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_is_not_whole_is_refused_with_the_line(form: str) -> None:
    lines = written(form_named(form, LOG), *(sample(n) for n in range(1, 6)))
    for what, broken, number, sentence in [
        ("no trailer", lines[:-1], 7, "it was cut"),
        ("cut in a line", [*lines[:4], lines[4][:-5]], 5, "cut short"),
        ("a line lost", [*lines[:3], *lines[4:]], 6, "5 events, and 4 stand before it: lines are missing"),
        ("two swapped", [*lines[:2], lines[3], lines[2], *lines[4:]], 4, "lines were moved"),
        ("one twice", [*lines[:3], lines[2], *lines[3:]], 4, "lines were moved"),
        ("a byte changed", [lines[0].replace(b"0.1.0", b"0.1.1"), *lines[1:]], 7, "not those that the trailer"),
        ("no JSON", [*lines[:3], b"?\n", *lines[4:]], 4, "JSON"),
        ("an empty line", [*lines[:3], b"\n", *lines[4:]], 4, "empty"),
        ("more behind", [*lines, lines[1]], 8, "something follows the trailer"),
        ("another's header", [b'{"some":"thing"}\n', *lines[1:]], 1, "no export of Perdure's"),
        ("text", [b"hello\n"], 1, "no export of Perdure's"),
        ("nothing", [], 1, "empty"),
        ("a later format", [lines[0].replace(b'"version"', b'"format":2,"version"'), *lines[1:]], 1, "format 2"),
        ("no header", lines[1:], 1, "no export of Perdure's"),
    ]:  # fmt: skip
        with pytest.raises(TransferRefused) as refused:
            read(broken)
        assert refused.value.line == number, what
        assert sentence in str(refused.value), what


def test_a_line_with_a_member_of_no_meaning_or_none_where_one_must_be_is_refused() -> None:
    header, line, trailer = written(form_named("jsonl", LOG), sample())
    for broken in (
        line.replace(b'"version":1', b'"version":0'),
        line.replace(b'"version":1', b'"version":1,"more":2'),
        line.replace(b'"schema_version":1', b'"schema_version":40000'),
        line.replace(b'"type":"TaskCompleted",', b""),
        line.replace(b'"metadata":{},', b""),
        line.replace(b'"metadata":{}', b'"metadata":{},"metadata_text":"{}"'),
        line.replace(b'"hash":"', b'"hash":"00'),
        line.replace(b'"salt":"', b'"salt":"x'),
        line.replace(b"678Z", b"678"),
    ):
        assert broken != line
        with pytest.raises(TransferRefused) as refused:
            read([header, broken, trailer])
        assert refused.value.line == 2
