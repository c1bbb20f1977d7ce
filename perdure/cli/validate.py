"""``perdure validate``: definitions checked without a database."""

from typing import Any

from rich.markup import escape

from perdure.cli import exits
from perdure.cli.data import read_definition
from perdure.cli.output import emit, people
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Definition
from perdure_engine.faults import DefinitionRefused, Fault


def check_files(common: Common, files: list[str]) -> int:
    """The verb. A task type that is not known here is a warning: a node may know it."""
    known = find_app(common, quiet=True).types.schemas()
    status = exits.DONE
    for file in files:
        definition: Definition | None = None
        faults: tuple[Fault, ...] = ()
        try:
            definition = compile_definition(read_definition(file), known_types=known, allow_unknown_types=True)
        except DefinitionRefused as error:
            faults, status = error.faults, exits.FAILED
        if common.json:
            emit(_as_json(file, definition, faults))
        else:
            _print(file, definition, faults)
    return status


def _as_json(file: str, definition: Definition | None, faults: tuple[Fault, ...]) -> dict[str, Any]:
    return {
        "file": file,
        "valid": definition is not None,
        "workflow_id": definition.workflow_id if definition else None,
        "digest": definition.digest if definition else None,
        "faults": [fault._asdict() for fault in faults],
        "warnings": [warning._asdict() for warning in definition.warnings] if definition else [],
    }


def _print(file: str, definition: Definition | None, faults: tuple[Fault, ...]) -> None:
    console = people()
    for fault in faults:
        console.print(f"[red]{escape(file)}:[/] {escape(str(fault))}", soft_wrap=True)
    if definition is not None:
        for warning in definition.warnings:
            console.print(f"[yellow]{escape(file)}: warning:[/] {escape(str(warning))}", soft_wrap=True)
        tasks = len(definition.tasks)
        console.print(
            f"[green]{escape(file)}:[/] {definition.workflow_id} is valid, {tasks} task{'s' if tasks != 1 else ''}",
            soft_wrap=True,
        )
