"""Which event triggers an event makes true."""

from collections.abc import Iterable

from perdure_engine.definitions.definition import Definition
from perdure_engine.run.scope import event_scope
from perdure_engine.run.state import Occurrence
from perdure_engine.templates import TemplateError
from perdure_eventstore.door import Json


def matching_triggers(
    definition: Definition, candidates: Iterable[int], event: Occurrence, input_: Json
) -> tuple[int, ...]:
    """Those of ``candidates`` that listen for the event's name and whose ``where``, if any, is true of it.

    A ``where`` that has no value, or one that is not true, does not match: an event may lack what others have.
    """
    found = []
    for index in candidates:
        trigger = definition.events[index]
        if trigger.name != event.name:
            continue
        if trigger.where is not None:
            try:
                if trigger.where.evaluate(event_scope(lambda: input_.value, event)) is not True:
                    continue
            except TemplateError:
                continue
        found.append(index)
    return tuple(found)


def starts_run(definition: Definition, event: Occurrence) -> bool:
    """Whether ``event`` is an entry of ``definition`` whose own ``where``, if any, is true of it."""
    if event.name not in definition.entries:
        return False
    entries = [t.index for t in definition.events if t.entry and t.name == event.name]
    return not entries or bool(matching_triggers(definition, entries, event, event.payload))
