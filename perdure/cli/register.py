"""``perdure register``."""

from perdure.cli import exits
from perdure.cli.data import read_definition
from perdure.cli.looking import looking
from perdure.cli.output import complain, emit, people, warn
from perdure.cli.place import find_app
from perdure.cli.sentences import refusal
from perdure.cli.verb import Common
from perdure_engine.faults import DefinitionRefused


async def register_files(common: Common, files: list[str], allow_unknown_types: bool) -> int:
    """The verb. Each file by itself: one that is refused does not keep the others out."""
    documents: list[tuple[str, object]] = []
    refused: list[tuple[str, DefinitionRefused]] = []
    for file in files:
        try:
            documents.append((file, read_definition(file)))
        except DefinitionRefused as error:
            refused.append((file, error))
    app = find_app(common)
    async with looking(app, views=False) as client:
        for file, document in documents:
            try:
                registered = await client.register(document, allow_unknown_types=allow_unknown_types)
            except DefinitionRefused as error:
                refused.append((file, error))
                continue
            for warning in registered.warnings:
                warn(f"{file}: {warning}")
            if common.json:
                emit({**registered._asdict(), "warnings": [each._asdict() for each in registered.warnings]})
            else:
                done = "registered as" if registered.created else "unchanged:"
                people().print(f"{registered.workflow_id} {done} version {registered.number}", soft_wrap=True)
    for file, why in refused:
        if common.json:
            faults = [fault._asdict() for fault in why.faults]
            emit({"file": file, "workflow_id": why.workflow_id or None, "faults": faults})
        complain(f"{file}: {refusal(why)}")
    return exits.FAILED if refused else exits.DONE
