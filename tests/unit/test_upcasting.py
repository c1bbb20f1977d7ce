"""Events that older versions wrote are read as today's; those of a newer one are refused."""

from typing import Any
from uuid import UUID

import pytest
from event_samples import CODECS, EXAMPLES, Sample, meaning, read_samples, sample_of, shape

from perdure_engine.interest import Event
from perdure_engine.upcasting import UPCASTS, NewerEvent, UnreadableEvent
from perdure_eventstore.door import NULL

SAMPLES = read_samples()


def named(sample: Any) -> str:
    return f"{sample.type} v{sample.version}"


def test_there_is_a_sample_of_every_version_of_every_event_type() -> None:
    written = {
        (kind, version) for kind, type_ in CODECS.types.items() for version in range(1, type_.SCHEMA_VERSION + 1)
    }
    missing = sorted(written - {(sample.type, sample.version) for sample in SAMPLES})
    assert not missing, f"no sample of {missing}; `python tests/event_samples.py` writes those of this version"
    assert {type(event).__name__ for event in EXAMPLES} == set(CODECS.types)


@pytest.mark.parametrize("sample", SAMPLES, ids=named)
def test_what_any_version_wrote_still_means_the_same(sample: Sample) -> None:
    assert meaning(CODECS.decode(sample.recorded)) == sample.means


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_is_written_as_the_sample_of_its_version(event: Any) -> None:
    """Whoever changes what is written raises SCHEMA_VERSION, adds the way there to UPCASTS, and writes a sample."""
    assert sample_of(event) in SAMPLES


@pytest.mark.parametrize("kind", CODECS.types)
def test_an_event_types_shape_changes_with_its_version_alone(kind: str) -> None:
    version = CODECS.types[kind].SCHEMA_VERSION
    [sample] = [each for each in SAMPLES if (each.type, each.version) == (kind, version)]
    assert sample.shape == shape(kind), (
        f"{kind} has changed: it needs version {version + 1}, and a way there in UPCASTS"
    )


def test_there_is_a_way_from_every_old_version_to_the_next() -> None:
    old = {(kind, version) for kind, type_ in CODECS.types.items() for version in range(1, type_.SCHEMA_VERSION)}
    assert set(UPCASTS) == old


@pytest.mark.parametrize("kind", ["RunStarted", "EventLatched", "EventPublished"])
def test_a_key_of_version_1_is_the_key(kind: str) -> None:
    [sample] = [each for each in SAMPLES if (each.type, each.version) == (kind, 1)]
    assert '"key":"ada' in sample.data
    assert CODECS.decode(sample.recorded).key.startswith("ada")


@pytest.mark.parametrize("sample", SAMPLES, ids=named)
def test_a_listener_finds_the_key_whatever_version_wrote_it(sample: Sample) -> None:
    keys = {"RunStarted": 'ada "1"', "EventLatched": "ada", "EventPublished": "ada"}
    assert Event("name", sample.recorded).key == keys.get(sample.type)


def test_an_old_event_without_a_payload_reads_as_erased() -> None:
    [sample] = [each for each in SAMPLES if (each.type, each.version) == ("RunStarted", 1)]
    read = CODECS.decode(sample.recorded._replace(payload=None))
    assert (read.input, read.workflow_id) == (NULL, "orders")


@pytest.mark.parametrize("kind", CODECS.types)
def test_an_event_of_a_newer_version_is_refused_with_a_sentence(kind: str) -> None:
    version = CODECS.types[kind].SCHEMA_VERSION
    [sample] = [each for each in SAMPLES if (each.type, each.version) == (kind, version)]
    newer = sample.recorded._replace(schema_version=version + 1, version=7, stream=UUID(int=9))
    with pytest.raises(NewerEvent, match=f"event 7 of stream .*9 was written by a newer Perdure: it is a {kind} of"):
        CODECS.decode(newer)


def test_an_unknown_type_version_or_payload_is_refused_with_a_sentence() -> None:
    recorded = SAMPLES[0].recorded
    for wrong, said in (
        (recorded._replace(type="RunPainted"), "is a RunPainted, which this Perdure does not know"),
        (recorded._replace(schema_version=0), "nothing is known of version 0"),
        (recorded._replace(payload=b'{"colour":1}'), "has no payload named 'colour'"),
    ):
        with pytest.raises(UnreadableEvent, match=said):
            CODECS.decode(wrong)
