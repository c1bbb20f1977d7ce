"""A run that this node holds: its state, its mailbox, and one append in flight.

    idle ──tell──▶ deciding ──submit──▶ appending ──Appended──▶ evolved: effects, and the mailbox again
                      ▲                     │
                      └── folded the tail ◀─┴──Conflict (somebody else appended first)

Commands that arrive while an append is in flight wait and are decided together. The state moves only when the append
is known to be on the disk, and no handler is called before that.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from perdure_engine.history import Loaded
from perdure_engine.owner import Owner
from perdure_engine.run import RunState, advance
from perdure_engine.run.codec import encode
from perdure_engine.run.commands import CompleteAttempt, FailAttempt, RunCommand
from perdure_engine.run.events import RunEvent, TaskScheduled, TaskStarted
from perdure_engine.run.undecided import fail_instead
from perdure_engine.work import Rows, work_of
from perdure_eventstore.append import Append, Appended
from perdure_eventstore.door import Json
from perdure_eventstore.errors import AppendRefused, Conflict, FenceLost, LogError
from perdure_eventstore.events import Head
from perdure_eventstore.patience import patiently

log = structlog.get_logger(__name__)


class Message(NamedTuple):
    """A command in the mailbox; ``inbox`` is the row it came from, ``reserved`` whether it holds a slot."""

    command: RunCommand
    inbox: int | None = None
    reserved: bool = False


Advance = Callable[[RunState, RunCommand], tuple[list[RunEvent], RunState]]


class Decision(NamedTuple):
    """What a turn decided, to be appended."""

    messages: Sequence[Message]
    events: list[RunEvent]
    state: RunState
    reserved: int


class HeldRun:
    """Decides one thing at a time. All methods are called in the event loop."""

    __slots__ = (
        "_in_flight",
        "_mailbox",
        "_owner",
        "_turns",
        "_written",
        "armed_at",
        "head",
        "run_id",
        "size",
        "state",
    )

    def __init__(self, owner: Owner, known: Loaded, armed_at: int | None = None) -> None:
        self.run_id = known.state.run_id
        self.state, self.head, self.size = known.state, known.head, known.size
        self._written = 0
        self.armed_at = armed_at
        self._owner = owner
        self._mailbox: list[Message] = []
        self._in_flight: Decision | bool = False
        self._turns: deque[asyncio.Future[None]] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether anything is waiting to be decided or recorded."""
        return bool(self._mailbox or self._in_flight)

    def tell(self, command: RunCommand, inbox: int | None = None, *, reserved: bool = False) -> None:
        """Put ``command`` into the mailbox; it is decided at once if nothing is in flight."""
        self._mailbox.append(Message(command, inbox, reserved))
        if not self._in_flight:
            self._turn()

    def attempt_ended(self, command: RunCommand | None) -> None:
        """An attempt's slot is free again, and ``command`` says what came of it."""
        try:
            # The slot first: what follows may begin in it, in the same append.
            self._owner.give_back(1)
        finally:
            if command is not None:
                self.tell(command)

    def fenced(self, error: FenceLost) -> None:
        """An append elsewhere showed that this node no longer owns the run."""
        self._owner.failed(self, error)

    async def reload(self) -> None:
        """Fold what others appended."""
        loaded = await self._owner.reload(self)
        self.state, self.head, self.size = loaded.state, loaded.head, loaded.size
        self._owner.caught_up(self)

    async def take_turn(self, turn: Callable[[], Awaitable[Decision | None]]) -> None:
        """Let ``turn`` decide and append by itself, with the mailbox held up meanwhile.

        It returns what it committed, or None. Raises what it raises.
        """
        while self._in_flight:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.append(free)
            try:
                await free
            except asyncio.CancelledError:
                if not free.cancelled():
                    # The turn was ours already, and goes to the next.
                    self._next()
                raise
        self._in_flight = True
        try:
            decision = await turn()
        except BaseException:
            self._in_flight = False
            self._next()
            raise
        self._in_flight = False
        if decision is not None:
            self._owner.committed(self, decision.events)
            self._begin_later(decision)
        self._next()

    def decide(self, messages: Sequence[Message], *, begin: bool = True, advance: Advance = advance) -> Decision:
        """What ``messages`` make of the run as it is, with free slots taken for what they schedule."""
        state, events, reserved = self.state, [], 0
        for message in messages:
            made, state = advance(state, message.command)
            events += made
            reserved += message.reserved
        if begin and not state.is_ended and not state.paused:
            for event in events[:]:
                if isinstance(event, TaskScheduled) and self._owner.take_slot(self, event.task_id):
                    reserved += 1
                    made, state = advance(state, self._owner.begin(self, event.task_id))
                    events += made
        return Decision(messages, events, state, reserved)

    def append_of(self, decision: Decision) -> Append:
        """The append that records ``decision``, with its working-set rows."""
        events = decision.events
        state = self.state
        work: Rows = work_of(
            self.run_id, events, self.armed_at, paused=state.paused, tasks=state.definition.tasks
        )  # fmt: skip
        consumed = [{"id": message.inbox} for message in decision.messages if message.inbox is not None]
        if consumed:
            work["consumed"] = consumed
        metadata = self._owner.metadata
        written = [encode(event, metadata) for event in events]
        self._written = sum(len(event.data) + len(event.payload or b"") for event in written)
        return Append(self.run_id, self.head, written, work or None)

    def evolve(self, decision: Decision, head: Head) -> None:
        """``decision``, whose append was made last, is on the disk."""
        self.state, self.head = decision.state, head
        self.size += self._written

    @property
    def known(self) -> Loaded:
        """The run as it stands."""
        return Loaded(self.state, self.head, self.size)

    def _turn(self) -> None:
        messages, self._mailbox = self._mailbox, []
        decision = self.decide(messages, advance=self._advance)
        if not decision.events:
            self._owner.give_back(decision.reserved)
            self._consumed(decision, recorded=False)
            self._next()
            return
        self._in_flight = decision
        try:
            append = self.append_of(decision)
        except Exception as error:
            log.exception("a decision cannot be written", run=str(self.run_id))
            self._answered(AppendRefused(f"what was decided cannot be written: {type(error).__name__}: {error}"))
        else:
            self._owner.submit(append, self._answered)

    def _advance(self, state: RunState, command: RunCommand) -> tuple[list[RunEvent], RunState]:
        """``advance``; should that raise, the task or the run fails, where everybody sees it."""
        try:
            return advance(state, command)
        except Exception as error:
            if state.status == "new":
                # Nobody knows this run yet but who starts it, and is told.
                raise
            log.exception("a command could not be decided", run=str(self.run_id), command=type(command).__name__)
            events, state, raised = fail_instead(state, command, error)
            for another in raised:
                log.error("nor could its failure", run=str(self.run_id), exc_info=another)
            return events, state

    def _answered(self, result: Appended | LogError) -> None:
        decision = self._in_flight
        assert isinstance(decision, Decision)
        if isinstance(result, Appended):
            self._in_flight = False
            self.evolve(decision, result.head)
            started = sum(isinstance(event, TaskStarted) for event in decision.events)
            self._owner.give_back(decision.reserved - started)
            self._consumed(decision, recorded=True)
            self._owner.committed(self, decision.events)
            self._next()
            return
        if isinstance(result, Conflict):
            # The messages keep the slots they came with.
            self._owner.give_back(decision.reserved - sum(message.reserved for message in decision.messages))
            self._mailbox[:0] = decision.messages
            self._in_flight = True
            self._owner.spawn(self._catch_up())
            return
        self._owner.give_back(decision.reserved)
        self._in_flight = False
        unkept = [self._unkept(message, result) for message in decision.messages]
        if any(unkept):
            self._mailbox[:0] = [message for message in unkept if message is not None]
            self._next()
        else:
            self._fail(decision.messages, result)

    def _unkept(self, message: Message, error: LogError) -> Message | None:
        """An output that the log did not take fails its attempt."""
        command = message.command
        if not isinstance(command, CompleteAttempt) or not isinstance(error, AppendRefused):
            return None
        fault = Json.of({"type": "AppendRefused", "message": str(error)})
        return Message(FailAttempt(at=command.at, task_id=command.task_id, attempt=command.attempt, error=fault))

    def _fail(self, messages: Sequence[Message], error: LogError) -> None:
        """Give up; what came from the inbox is still there."""
        letters = [message.inbox for message in (*messages, *self._mailbox) if message.inbox is not None]
        self._owner.give_back(sum(message.reserved for message in self._mailbox))
        self._mailbox = []
        if letters:
            self._owner.consumed(letters, recorded=True)
        self._owner.failed(self, error)
        self._next()

    async def _catch_up(self) -> None:
        log.info("somebody else appended to the run first", run=str(self.run_id), version=self.head.version)
        try:
            await patiently(self.reload)
        except Exception as error:
            self._in_flight = False
            # What is there under this id may be no run at all.
            log.warning("a run cannot be read again", run=str(self.run_id), error=f"{type(error).__name__}: {error}")
            self._fail((), error if isinstance(error, LogError) else Conflict(self.run_id, self.head.version))
            return
        self._in_flight = False
        self._next()

    def _next(self) -> None:
        if self._in_flight:
            return
        while self._turns:
            if not (waiter := self._turns.popleft()).done():
                waiter.set_result(None)
                return
        if self._mailbox:
            self._turn()
        else:
            self._owner.idle(self)

    def _consumed(self, decision: Decision, *, recorded: bool) -> None:
        if inbox := [message.inbox for message in decision.messages if message.inbox is not None]:
            self._owner.consumed(inbox, recorded=recorded)

    def _begin_later(self, decision: Decision) -> None:
        """Begin what ``decision`` scheduled and could not begin in the same append."""
        for event in decision.events:
            if self.state.paused:
                return
            if isinstance(event, TaskScheduled) and self._owner.take_slot(self, event.task_id):
                self.tell(self._owner.begin(self, event.task_id), reserved=True)
