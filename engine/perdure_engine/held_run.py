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

import msgspec
import structlog

from perdure_engine.history import Loaded
from perdure_engine.owner import Owner
from perdure_engine.run import RunState, advance
from perdure_engine.run.codec import encode
from perdure_engine.run.commands import BeginAttempt, CompleteAttempt, FailAttempt, InterruptAttempt, RunCommand
from perdure_engine.run.events import RunEvent, TaskScheduled, TaskStarted
from perdure_engine.run.undecided import fail_instead
from perdure_engine.work import Rows, work_of
from perdure_eventstore.append import Append, Appended
from perdure_eventstore.door import Json
from perdure_eventstore.errors import AppendRefused, Conflict, FenceLost, LogError
from perdure_eventstore.events import Head
from perdure_eventstore.patience import patiently

log = structlog.get_logger(__name__)


class Message(msgspec.Struct, frozen=True):
    """A command in the mailbox; ``inbox`` is the row it came from. A BeginAttempt holds a slot."""

    command: RunCommand
    inbox: int | None = None


Advance = Callable[[RunState, RunCommand], tuple[list[RunEvent], RunState]]


class Decision(msgspec.Struct, frozen=True):
    """What a turn decided, to be appended."""

    messages: Sequence[Message]
    events: list[RunEvent]
    state: RunState
    begun: list[BeginAttempt]
    """Each with a slot taken for it."""
    unused: list[BeginAttempt]
    """Those of them from which no attempt follows."""


class HandedOver(Exception):
    """The run belongs to another node from now on."""


class HeldRun:
    """Decides one thing at a time. All methods are called in the event loop."""

    __slots__ = (
        "_alone",
        "_frozen",
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
        self._alone = 0
        """How many messages are decided one by one, since the log refused what they made together."""
        self._frozen: asyncio.Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether anything is waiting to be decided or recorded."""
        return bool(self._mailbox or self._in_flight)

    def tell(self, command: RunCommand, inbox: int | None = None) -> None:
        """Put ``command`` into the mailbox; it is decided at once if nothing is in flight."""
        self._mailbox.append(Message(command, inbox))
        if not self._in_flight and self._frozen is None:
            self._turn()

    def fenced(self, error: FenceLost) -> None:
        """An append elsewhere showed that this node no longer owns the run."""
        self._owner.failed(self, error)

    async def reload(self) -> None:
        """Fold what others appended."""
        loaded = await self._owner.reload(self)
        was_unknown = self.state.status == "new"
        self.state, self.head, self.size = loaded.state, loaded.head, loaded.size
        self._owner.caught_up(self, was_unknown=was_unknown)

    async def take_turn(self, turn: Callable[[], Awaitable[Decision | None]]) -> None:
        """Let ``turn`` decide and append by itself, with the mailbox held up meanwhile.

        It returns what it committed, or None. Raises what it raises; HandedOver if the run is let go before.
        """
        while self._in_flight or self._frozen is not None:
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

    async def freeze(self) -> None:
        """Decide nothing more until ``thaw`` or ``release``; returns once nothing is in flight."""
        self._frozen = asyncio.get_running_loop().create_future()
        if self._in_flight:
            await self._frozen

    def thaw(self) -> None:
        """Go on after ``freeze``."""
        self._frozen = None
        self._next()

    def release(self) -> list[Message]:
        """The run is another node's: what nobody here has decided on."""
        for waiter in self._turns:
            if not waiter.done():
                waiter.set_exception(HandedOver())
        self._turns.clear()
        messages, self._mailbox = self._mailbox, []
        return messages

    def decide(self, messages: Sequence[Message], *, begin: bool = True, advance: Advance = advance) -> Decision:
        """What ``messages`` make of the run as it is, with free slots taken for what they schedule."""
        state = self.state
        events: list[RunEvent] = []
        begun: list[BeginAttempt] = []
        unused: list[BeginAttempt] = []
        for message in messages:
            made, state = advance(state, message.command)
            events += made
            if isinstance(message.command, BeginAttempt):
                begun.append(message.command)
                if not made or not isinstance(made[0], TaskStarted):
                    unused.append(message.command)
        if begin and not state.is_ended and not state.paused:
            take = self._owner.placement.take
            for event in events[:]:
                if isinstance(event, TaskScheduled) and (taken := take(self, state, event.task_id)):
                    begun.append(taken)
                    made, state = advance(state, taken)
                    events += made
                    if not made:
                        unused.append(taken)
        return Decision(messages, events, state, begun, unused)

    def append_of(self, decision: Decision) -> Append:
        """The append that records ``decision``, with its working-set rows."""
        events = decision.events
        before, parked = self.state, decision.state.is_parked
        work: Rows = work_of(
            self.run_id,
            events,
            self.armed_at,
            paused=before.paused,
            parked=parked if parked != (before.is_parked and before.status != "new") else None,
            definition=before.definition,
        )
        if any([begin.node != self._owner.node_id for begin in decision.begun]):
            work["assigned"] = self._owner.placement.assigned(self, events)
        consumed = [{"id": message.inbox} for message in decision.messages if message.inbox is not None]
        if consumed:
            work["consumed"] = consumed
        metadata = self._owner.metadata
        written = [encode(event, metadata) for event in events]
        self._written = sum(len(event.data) + len(event.payload or b"") for event in written)
        return Append(self.run_id, self.head, written, work or None, announce=bool(work.get("assigned")))

    def evolve(self, decision: Decision, head: Head) -> None:
        """``decision``, whose append was made last, is on the disk."""
        self.state, self.head = decision.state, head
        self.size += self._written

    @property
    def known(self) -> Loaded:
        """The run as it stands."""
        return Loaded(self.state, self.head, self.size)

    def _turn(self) -> None:
        if self._alone:
            self._alone -= 1
            messages = [self._mailbox.pop(0)]
        else:
            messages, self._mailbox = self._mailbox, []
        decision = self.decide(messages, advance=self._advance)
        if not decision.events:
            self._owner.placement.give_back(self, decision.begun)
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
            events, state, raised = fail_instead(state, command, error, self._owner.now())
            for another in raised:
                log.error("nor could its failure", run=str(self.run_id), exc_info=another)
            return events, state

    def _answered(self, result: Appended | LogError) -> None:
        decision = self._in_flight
        assert isinstance(decision, Decision)
        if isinstance(result, Appended):
            self._in_flight = False
            self.evolve(decision, result.head)
            self._owner.placement.give_back(self, decision.unused)
            self._consumed(decision, recorded=True)
            self._owner.committed(self, decision.events)
            self._next()
            return
        if isinstance(result, Conflict):
            # The messages keep the slots they came with.
            self._keep(decision)
            self._in_flight = True
            self._owner.spawn(self._catch_up())
            return
        self._in_flight = False
        if isinstance(result, AppendRefused) and self._refused(decision, result):
            self._next()
            return
        self._owner.placement.give_back(self, decision.begun)
        self._fail(decision.messages, result)

    def _keep(self, decision: Decision) -> None:
        """Put the messages back into the mailbox, with the slots they came with."""
        kept = {id(message.command) for message in decision.messages}
        self._owner.placement.give_back(self, [begin for begin in decision.begun if id(begin) not in kept])
        self._mailbox[:0] = decision.messages

    def _refused(self, decision: Decision, error: AppendRefused) -> bool:
        """Find the one that the log does not take: an output fails its attempt, an error interrupts it.

        False if it is anything else.
        """
        if len(decision.messages) > 1:
            self._keep(decision)
            self._alone = len(decision.messages)
            return True
        command, letter = decision.messages[0].command, decision.messages[0].inbox
        instead: FailAttempt | InterruptAttempt
        match command:
            case CompleteAttempt(at=at, task_id=task_id, attempt=attempt):
                fault = Json.of({"type": "AppendRefused", "message": str(error)})
                instead = FailAttempt(at=at, task_id=task_id, attempt=attempt, error=fault)
            case FailAttempt(at=at, task_id=task_id, attempt=attempt):
                # Not even its error can be kept; an interruption has nothing that could be refused.
                instead = InterruptAttempt(at=at, task_id=task_id, attempt=attempt)
            case _:
                return False
        self._owner.placement.give_back(self, decision.begun)
        self._mailbox.insert(0, Message(instead, letter))
        return True

    def _fail(self, messages: Sequence[Message], error: LogError) -> None:
        """Give up; what came from the inbox is still there."""
        letters = [message.inbox for message in (*messages, *self._mailbox) if message.inbox is not None]
        self._owner.placement.give_back(
            self, [message.command for message in self._mailbox if isinstance(message.command, BeginAttempt)]
        )  # fmt: skip
        self._mailbox = []
        if letters:
            self._owner.undecided(letters)
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
        if self._frozen is not None:
            if not self._frozen.done():
                self._frozen.set_result(None)
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
        take = self._owner.placement.take
        for event in decision.events:
            if self.state.paused:
                return
            if isinstance(event, TaskScheduled) and (begin := take(self, self.state, event.task_id)):
                self.tell(begin)
