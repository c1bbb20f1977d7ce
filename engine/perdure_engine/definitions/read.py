"""The document as written, read into a draft: every part typed, every fault reported."""

from typing import Any

from perdure_engine.definitions.draft import Draft
from perdure_engine.definitions.expressions import read_template
from perdure_engine.definitions.fields import Fields
from perdure_engine.definitions.names import WORKFLOW_ID, wrong_id
from perdure_engine.definitions.report import Report
from perdure_engine.definitions.tasks import Defaults, read_defaults, read_tasks
from perdure_engine.templates import Template


def read_draft(document: dict[str, Any], report: Report) -> Draft:
    """The draft; what is at fault is left out of it and reported."""
    fields = Fields(document, "definition", "", report)
    for key in ("$schema", "name", "description"):
        fields.any_text(key)
    return Draft(
        workflow_id=_workflow_id(fields),
        tasks=read_tasks(_task_items(fields), _defaults(fields), report),
        start=_start(fields),
        key=_key(fields),
        fail_fast=fields.boolean("fail_fast") or False,
        output=_output(fields),
        written_output=fields.value.get("output"),
        deadline=fields.duration("deadline"),
    )


def _workflow_id(fields: Fields) -> str:
    fields.require("workflow_id", "the workflow's name")
    workflow_id = fields.text("workflow_id") or ""
    wrong = wrong_id(workflow_id, WORKFLOW_ID, "workflow id") if workflow_id else None
    if wrong is not None:
        fields.report.fault(fields.at("workflow_id"), wrong)
    return workflow_id


def _task_items(fields: Fields) -> list[tuple[str, Any]]:
    fields.require("tasks", "the list of tasks")
    items = fields.items("tasks")
    if items is not None and not items:
        fields.report.fault(fields.at("tasks"), "a definition has at least one task")
    return items or []


def _defaults(fields: Fields) -> Defaults:
    value = fields.object("defaults")
    if value is None:
        return Defaults()
    return read_defaults(Fields(value, "defaults", fields.at("defaults"), fields.report))


def _start(fields: Fields) -> tuple[tuple[str, str], ...] | None:
    names = fields.texts("start", "an event's name")
    # A list read in part would blame what the unread part may have named.
    return None if names is None or len(names) < len(fields.value["start"]) else tuple(names)


def _key(fields: Fields) -> Template | None:
    text = fields.text("key")
    if text is None:
        return None
    key = read_template(text, fields.at("key"), "key", fields.report)
    if key is not None and not key.references:
        fields.report.warn(
            fields.at("key"), "the key is the same for every event: a template is written {{event.payload.id}}"
        )
    return key


def _output(fields: Fields) -> Template | None:
    if "output" not in fields:
        return None
    return read_template(fields.value["output"], fields.at("output"), "output", fields.report)
