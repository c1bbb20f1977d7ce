"""What is wrong with a document, and where."""

from collections.abc import Sequence
from typing import NamedTuple


class Fault(NamedTuple):
    """One thing wrong with a document: ``pointer`` is a JSON pointer (RFC 6901), ``message`` a sentence."""

    pointer: str
    message: str

    def __str__(self) -> str:
        return f"{self.pointer or '/'}: {self.message}"


class DefinitionRefused(ValueError):
    """A definition cannot be registered. ``faults`` holds every reason, in document order."""

    def __init__(self, workflow_id: str, faults: Sequence[Fault]) -> None:
        self.workflow_id = workflow_id
        self.faults = tuple(faults)
        super().__init__(
            f"definition {workflow_id or '(unnamed)'} is refused: " + "; ".join(str(fault) for fault in self.faults)
        )
