"""The workflow registry: definitions come, change and go at runtime, as events."""

from typing import NamedTuple

from perdure_engine.definitions.check import KnownTypes
from perdure_engine.definitions.compile import compile_definition
from perdure_engine.definitions.definition import Definition
from perdure_engine.definitions.document import read_document
from perdure_engine.facts import DefinitionRegistered, DefinitionRetired, encode_fact
from perdure_engine.faults import Fault
from perdure_engine.identity import workflow_stream
from perdure_eventstore.append import Append
from perdure_eventstore.appender import Appender
from perdure_eventstore.door import Json
from perdure_eventstore.errors import Conflict
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session


class Registration(NamedTuple):
    """One version of a workflow as the registry lists it; positions are places in the log."""

    workflow_id: str
    number: int
    digest: str
    registered_at: int
    retired_at: int | None
    events: list[str]
    """The events that may start a run of it, or that one may wait for."""
    keyed: bool
    """Whether it keeps one open run a key."""


class Registered(NamedTuple):
    """What ``register`` did. ``created`` is False where the newest version already was this very document."""

    workflow_id: str
    number: int
    digest: str
    created: bool
    warnings: tuple[Fault, ...]


class UnknownWorkflow(LookupError):
    """No such workflow, or none that is active."""

    def __init__(self, workflow_id: str, known: list[str]) -> None:
        self.workflow_id = workflow_id
        there = f"there are {', '.join(known)}" if known else "none is registered"
        super().__init__(f"there is no active workflow {workflow_id!r:.60}; {there}")


class Registry:
    """Reads and writes definitions. Compiled ones are kept by digest: they never change."""

    def __init__(self, session: Session, appender: Appender, schema: str = "perdure") -> None:
        self.appender = appender
        self._session = session
        self._reader = Reader(session, schema)
        self._table = f'"{schema}".definitions'
        self._compiled: dict[str, Definition] = {}
        self._active: dict[str, Registration] | None = None

    async def register(
        self, document: object, *, known_types: KnownTypes | None = None, allow_unknown_types: bool = False
    ) -> Registered:
        """Make ``document`` the workflow's newest version. Raises DefinitionRefused with every fault."""
        definition = compile_definition(document, known_types=known_types, allow_unknown_types=allow_unknown_types)
        stream = workflow_stream(definition.workflow_id)
        while True:
            # The head first: whoever registers after this makes the append below lose.
            head = await self._reader.head(stream)
            versions = await self.versions(definition.workflow_id)
            newest = versions[-1] if versions else None
            if newest and newest.digest == definition.digest and newest.retired_at is None:
                return Registered(
                    definition.workflow_id, newest.number, definition.digest, False, definition.warnings
                )  # fmt: skip
            number = newest.number + 1 if newest else 1
            fact = DefinitionRegistered(
                workflow_id=definition.workflow_id,
                number=number,
                digest=definition.digest,
                payload=Json(definition.document),
            )
            row = {
                "workflow_id": definition.workflow_id,
                "number": number,
                "digest": definition.digest,
                "document": definition.document.decode(),
                "events": sorted(definition.entries.union(definition.listeners)),
                "keyed": definition.key is not None,
            }
            try:
                await self.appender.append(
                    Append(stream, head, [encode_fact(fact)], {"definitions": [row]}, announce=True, in_the_clear=True)
                )
            except Conflict:
                continue
            self._compiled[definition.digest] = definition
            self.forget_active()
            return Registered(definition.workflow_id, number, definition.digest, True, definition.warnings)

    async def retire(self, workflow_id: str) -> None:
        """Start no more runs of the workflow; those under way go on. Raises UnknownWorkflow."""
        stream = workflow_stream(workflow_id)
        while True:
            head = await self._reader.head(stream)
            active = await self.active(workflow_id)
            fact = DefinitionRetired(workflow_id=workflow_id, number=active.number)
            try:
                await self.appender.append(
                    Append(
                        stream, head, [encode_fact(fact)], {"retired": [{"workflow_id": workflow_id}]}, announce=True
                    )
                )
            except Conflict:
                continue
            self.forget_active()
            return

    async def versions(self, workflow_id: str | None = None) -> list[Registration]:
        """Every version of one workflow, or of all, oldest first."""
        rows = await self._session.fetch(
            f"select workflow_id, number, digest, registered_at, retired_at, events, keyed from {self._table}"
            " where %s::text is null or workflow_id = %s order by workflow_id, number",
            (workflow_id, workflow_id),
        )
        return [Registration(*row) for row in rows]

    async def active(self, workflow_id: str) -> Registration:
        """The newest version, if it is not retired. Raises UnknownWorkflow."""
        active = self._active or {}
        if (found := active.get(workflow_id)) is None:
            active = await self._read_active()
            if (found := active.get(workflow_id)) is None:
                raise UnknownWorkflow(workflow_id, sorted(active))
        return found

    def remember_active(self, remember: bool = True) -> None:
        """Whether somebody follows the log from now on, and calls ``forget_active`` when definitions change."""
        self._active = {} if remember else None

    def forget_active(self) -> None:
        """Definitions have changed: the next question is asked of the database."""
        if self._active is not None:
            self._active = {}

    async def _read_active(self) -> dict[str, Registration]:
        asked = self._active
        active = {each.workflow_id: each for each in await self.versions() if each.retired_at is None}
        # Told to forget while the question was under way: this answer may be the old one.
        if asked is not None and asked is self._active:
            self._active = active
        return active

    async def definition(self, digest: str) -> Definition:
        """The compiled definition of this digest. Raises KeyError if it was never registered."""
        if (known := self._compiled.get(digest)) is not None:
            return known
        document = await self.document(digest)
        # Its types were checked when it was registered; by now a node may know others.
        compiled = compile_definition(read_document(document), allow_unknown_types=True)
        self._compiled[digest] = compiled
        return compiled

    async def document(self, digest: str) -> str:
        """The canonical document of this digest. Raises KeyError if it was never registered."""
        rows = await self._session.fetch(f"select document from {self._table} where digest = %s limit 1", (digest,))
        if not rows:
            raise KeyError(digest)
        return str(rows[0][0])
