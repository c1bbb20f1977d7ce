"""Runs that were asked for in SQL: the router starts each at its place in the log, or records why not."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from perdure_engine.facts import Match, StartRequested, decode_fact
from perdure_engine.registry import Registration, Registry, UnknownWorkflow
from perdure_engine.run.codec import decode
from perdure_engine.run.events import RunStarted
from perdure_engine.run.state import Occurrence
from perdure_engine.starting import StartOrder, WrongStart, key_is_open, start_command
from perdure_engine.work import OPEN_KEY
from perdure_eventstore.errors import AppendRefused
from perdure_eventstore.events import RecordedEvent
from perdure_eventstore.keeper import ARCHIVED
from perdure_eventstore.read import Reader
from perdure_eventstore.session import Session

if TYPE_CHECKING:
    from perdure_eventstore.vault.vault import Vault

log = structlog.get_logger(__name__)

_ANOTHER = "choose another run id"


class Request:
    """Made of the event as recorded. Raises what msgspec does for one that cannot be read."""

    reason = ""

    def __init__(self, recorded: RecordedEvent) -> None:
        self.recorded = recorded
        self.asked: StartRequested = decode_fact(recorded)
        self.matches: list[Match] = []

    def start(self) -> None:
        """The run is there."""
        self.matches = [Match(self.asked.workflow_id, "started", self.asked.run)]

    def ignore(self, workflow_id: str, reason: str) -> None:
        """No run was started."""
        log.warning("a run that was asked for is not started", run=str(self.asked.run), why=reason)
        self.matches = [Match(workflow_id, "ignored", reason=reason)]


class Requests:
    """Meets requests one after another where their workflow is keyed, and in any order else."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        schema: str,
        start: Callable[[StartOrder], Awaitable[bool]],
        vault: "Vault | None" = None,
    ) -> None:
        """``start`` starts a run and returns once that is recorded; False: it was there already."""
        self._session, self._registry, self._start = session, registry, start
        self._reader = Reader(session, schema, vault)
        self._open_key = f'select run from "{schema}".open_runs where workflow_id = %s and key = %s'

    async def meet(self, request: Request, active: Registration | None, known: Sequence[str]) -> None:
        """Start the run on version ``active``, unless it is there; ``known`` are the workflows there are."""
        asked = request.asked
        try:
            if not await self._is_there(request):
                if active is None:
                    raise WrongStart(str(UnknownWorkflow(asked.workflow_id, sorted(known))))
                await self._begin(request, active)
            request.start()
        except WrongStart as error:
            request.ignore(asked.workflow_id, str(error))

    async def _begin(self, request: Request, active: Registration) -> None:
        asked, recorded = request.asked, request.recorded
        definition = await self._registry.definition(active.digest)
        command = start_command(definition, datetime.now(UTC), asked.payload, asked.event, asked.key)
        if definition.key is not None and await self._session.fetch(self._open_key, (asked.workflow_id, asked.key)):
            raise WrongStart(key_is_open(asked.workflow_id, asked.key))
        event = Occurrence(command.event, asked.payload, None, asked.key)
        try:
            await self._start(StartOrder(asked.run, definition, event, recorded.position, asked.key))
        except AppendRefused as error:
            if error.constraint != OPEN_KEY:
                raise
            # A run with this key was started by other means just now.
            raise WrongStart(key_is_open(asked.workflow_id, asked.key)) from error
        if not await self._is_there(request):
            raise WrongStart(f"{asked.run} is no run, but the id of something else; {_ANOTHER}")

    async def _is_there(self, request: Request) -> bool:
        """Whether the run was started, by this request or another way. Raises WrongStart if with other content."""
        asked = request.asked
        async for first in self._reader.stream(asked.run, batch=1):
            if first.type == ARCHIVED:
                raise WrongStart(f"{asked.run} was used before, and archived; {_ANOTHER}")
            if first.type != RunStarted.__name__:
                raise WrongStart(f"{asked.run} is no run, but the id of something else; {_ANOTHER}")
            if first.payload is None and first.payload_digest is not None:
                raise WrongStart(f"run {asked.run} was started before, and its payloads were erased; {_ANOTHER}")
            started = decode(first)
            assert isinstance(started, RunStarted)
            mine = (asked.workflow_id, asked.event or started.event, asked.key, asked.payload)
            if mine != (started.workflow_id, started.event, started.key, started.input):
                raise WrongStart(f"run {asked.run} was started before with another input, event or key; {_ANOTHER}")
            return True
        return False
