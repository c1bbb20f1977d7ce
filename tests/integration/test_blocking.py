"""The blocking face: from plain threads, beside a node in a process's event loop, and after a fork."""

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from anyio.from_thread import start_blocking_portal

import perdure
from perdure.blocking import BlockingClient

DEFINITION = {
    "workflow_id": "doubling",
    "tasks": [{"task_id": "double", "type": "double", "inputs": {"n": "{{n}}"}, "triggers": ["number_came"]}],
}


def make_app(database_url: str) -> perdure.App:
    app = perdure.App(database_url)

    @app.task("double")
    async def double(n: int) -> int:
        if n < 0:
            raise perdure.NoRetry("no negative ones")
        return 2 * n

    return app


@pytest.fixture
def app(database_url: str) -> Iterator[perdure.App]:
    """An app whose node works in a thread."""
    app = make_app(database_url)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app.node()):
        yield app


def test_a_synchronous_program_publishes_and_waits(app: perdure.App) -> None:
    with app.blocking() as client:
        assert client.register(DEFINITION).created
        assert not client.register(DEFINITION).created
        published = client.publish("number_came", {"n": 21})
        (run,) = published.runs()
        assert run.result(timeout=10) == {"double": 42}
        assert run.status() == "completed"
        started = client.start("doubling", {"n": 4}, run_id=uuid4())
        assert client.run(started.run_id).result(timeout=10) == {"double": 8}
        with pytest.raises(perdure.RunFailed, match="no negative ones"):
            client.start("doubling", {"n": -1}).result(timeout=10)
        client.retire("doubling")
        assert [each.retired_at is None for each in client.definitions("doubling")] == [False]


def test_several_threads_share_it(app: perdure.App) -> None:
    with app.blocking() as client, ThreadPoolExecutor(8) as threads:
        client.register(DEFINITION)
        runs = threads.map(lambda n: client.start("doubling", {"n": n}).result(timeout=10), range(16))
        assert [each["double"] for each in runs] == [2 * n for n in range(16)]


def test_it_connects_when_it_is_first_used() -> None:
    with make_app("postgresql://nobody@127.0.0.1:1/none").blocking():
        pass


def test_a_run_still_open_says_so(database_url: str) -> None:
    with make_app(database_url).blocking() as client:
        client.register(DEFINITION)
        with pytest.raises(perdure.StillOpen):
            client.start("doubling", {"n": 1}).result(timeout=0.1)


def test_it_leaves_no_thread(app: perdure.App) -> None:
    before = threading.active_count()
    with app.blocking() as client:
        client.definitions()
        assert threading.active_count() > before
    assert threading.active_count() == before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_connects_for_itself(database_url: str) -> None:
    with make_app(database_url).blocking() as client:
        client.register(DEFINITION)
        child = os.fork()
        if child == 0:
            os._exit(_in_child(client))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.start("doubling", {"n": 2}).status() == "open"
        assert len(client.definitions()) == 1


def _in_child(client: BlockingClient) -> int:
    try:
        with client:
            client.start("doubling", {"n": 1})
            return 0 if len(client.definitions()) == 1 else 1
    except BaseException:
        return 2


async def test_it_works_in_a_thread_of_an_asynchronous_program(database_url: str) -> None:
    app = make_app(database_url)

    def synchronous() -> object:
        with app.blocking() as client:
            client.register(DEFINITION)
            return client.start("doubling", {"n": 5}).result(timeout=10)

    async with app.node():
        assert await asyncio.to_thread(synchronous) == {"double": 10}
