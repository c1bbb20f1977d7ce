"""The schedules of an application: runs that start by themselves. A part of ``App``, and of the blocking client."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from perdure.client import as_json
from perdure_engine.facts import CatchUp, Overlap
from perdure_engine.schedules.schedule import Schedule
from perdure_engine.schedules.wanted import Wanted

if TYPE_CHECKING:
    from perdure.client import Client


def wanted(
    name: str,
    workflow_id: str,
    cron: str,
    timezone: str,
    input: Any,
    event: str | None,
    key: str | None,
    overlap: Overlap,
    catch_up: CatchUp,
) -> Wanted:
    """A schedule as it was asked for. Raises PayloadRefused."""
    given = as_json({} if input is None else input)
    return Wanted(name, workflow_id, cron, timezone, given, event, key, overlap, catch_up)


class Scheduling:
    """What an App does with schedules."""

    if TYPE_CHECKING:

        @property
        def client(self) -> Client: ...

    async def schedule(
        self,
        name: str,
        workflow_id: str,
        *,
        cron: str,
        timezone: str = "UTC",
        input: Any = None,
        event: str | None = None,
        key: str | None = None,
        overlap: Overlap = "skip",
        catch_up: CatchUp = "last",
    ) -> Schedule:
        """Start a run of a workflow whenever ``cron`` says so; the same again changes nothing, another changes it.

        ``cron`` is five fields, or ``@daily`` and the like, on the clocks of ``timezone``. ``input``, ``event`` and
        ``key`` are as in ``start``; an input that is an object gets a field ``schedule`` with ``name`` and ``due``.
        ``overlap`` says what happens while the run before is open: ``skip``, ``queue``, ``allow`` or
        ``cancel_other``; ``catch_up`` which times that passed while no node ran are made up for: ``all``, the
        ``last`` or ``none``. See docs/schedules.md. Raises ScheduleRefused, UnknownWorkflow, PayloadRefused, LogError.
        """
        await self.client.check_key()
        asked = wanted(name, workflow_id, cron, timezone, input, event, key, overlap, catch_up)
        return await self.client.schedules.set(asked)

    async def schedules(self) -> list[Schedule]:
        """Every schedule, by name."""
        return await self.client.schedules.all()

    async def pause_schedule(self, name: str, reason: str = "") -> Schedule:
        """Start nothing more of a schedule, nor of its backfills, until it is resumed.

        ``reason``, of at most 1,000 characters, is recorded.

        Raises UnknownSchedule, ScheduleRefused.
        """
        return await self.client.schedules.pause(name, reason)

    async def resume_schedule(self, name: str) -> Schedule:
        """Go on with the next time; those that passed meanwhile are left to ``backfill``. Raises UnknownSchedule."""
        return await self.client.schedules.resume(name)

    async def delete_schedule(self, name: str) -> None:
        """Forget a schedule; its runs under way go on. Raises UnknownSchedule."""
        await self.client.schedules.delete(name)

    async def backfill(self, name: str, start: datetime, end: datetime, *, overlap: str | None = None) -> Schedule:
        """Start a run for every time of a schedule from ``start`` to ``end`` that has none, also before it was set.

        ``overlap`` is ``queue`` (one after the other) or ``allow``; without it ``allow`` if the schedule has that, and
        else ``queue``. A range holds 10,000 times at most. Of a schedule that is paused, they start once it is resumed.
        Raises UnknownSchedule, ScheduleRefused.
        """
        return await self.client.schedules.backfill(name, start, end, overlap)
