"""What runs in the cluster's workers, which therefore need Perdure installed too."""

import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import cloudpickle
from distributed import Worker, get_worker
from distributed.utils import sync

from perdure_engine.task import Task

Outcome = tuple[Literal["returned", "raised", "refused", "not understood"], Any]
"""What came of it: a pickled value, a pickled error and where it was raised, or a sentence."""

_under_way: dict[str, "_UnderWay"] = {}
"""What is worked at in this process, by errand."""


class _UnderWay:
    """What a handler was given, and whether it is to end."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.is_cancelled = False

    def tell(self) -> None:
        for task in self.tasks:
            task.is_cancelled = self.is_cancelled


def execute(payload: bytes, errand: str, topic: str) -> Outcome:
    """Call what ``payload`` holds, if nobody ever has: who takes the errand's token may, and there is one token."""
    worker = get_worker()
    # Before it is announced: who hears of it may cancel it at once. One that comes second changes nothing.
    mine = _UnderWay()
    _under_way.setdefault(errand, mine)
    try:
        return _execute(worker, payload, errand, topic, mine)
    finally:
        if _under_way.get(errand) is mine:
            del _under_way[errand]


def _execute(worker: Worker, payload: bytes, errand: str, topic: str, mine: _UnderWay) -> Outcome:
    try:
        taken = sync(worker.loop, _take, worker, errand, topic)
    except Exception as error:
        return "refused", f"the scheduler could not be asked whether it may begin: {error}"
    if not taken:
        return "refused", "its worker died, or its result was lost, and it is not called again for the same attempt"
    try:
        work = cloudpickle.loads(payload)
    except Exception as error:
        return "not understood", _reason(error)
    return _call(work, mine)


def tell(errand: str) -> None:
    """Let the handler's ``task.is_cancelled`` say that it should end."""
    if (under_way := _under_way.get(errand)) is not None:
        under_way.is_cancelled = True
        under_way.tell()


async def _take(worker: Worker, errand: str, topic: str) -> bool:
    # In this order: the node knows who may have taken the token before it is gone.
    await worker.scheduler.log_event(topic=topic, msg={"errand": errand, "worker": worker.address})
    return bool(await worker.scheduler.queue_get(name=errand, batch=True))


def _call(work: Callable[[], Any], under_way: _UnderWay) -> Outcome:
    if isinstance(work, partial):
        under_way.tasks = [given for given in (*work.args, *work.keywords.values()) if isinstance(given, Task)]
        under_way.tell()
    try:
        result = work()
    except BaseException as error:  # sys.exit() in a handler must not end the worker
        return "raised", (_pickled_error(error), traceback.format_exc())
    try:
        return "returned", cloudpickle.dumps(result)
    except Exception as error:
        return "not understood", f"its result, {type(result).__name__}, cannot be pickled: {_reason(error)}"


def _pickled_error(error: BaseException) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(error)
        cloudpickle.loads(pickled)
    except Exception:
        # Many an error cannot be made again from its arguments.
        return bytes(cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")))
    return pickled


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; Python {sys.version.split()[0]} of the worker needs the packages and modules of the node"
    return f"{type(error).__name__}: {error}"
