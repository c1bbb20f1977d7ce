"""What a node costs that has nothing to do: statements a minute, and its share of a core."""

import asyncio
import resource

from support.bench import arguments, fetch, say, scratch

# A transaction's own BEGIN and COMMIT are statements too, but nothing of a node at rest opens one.
COUNT = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    options = arguments("idle", __doc__, seconds=60)
    async with scratch(options.database) as app, app.node():
        await asyncio.sleep(15)
        before, cpu_before = (await fetch(app, COUNT))[0][0], cpu()
        await asyncio.sleep(options.seconds)
        used = cpu() - cpu_before
        # Connections report what they did with a delay, and all of it when they end: the count is of a minute's worth.
        statements = (await fetch(app, COUNT))[0][0] - before
    say(
        options, seconds=options.seconds, statements_a_minute=round(statements * 60 / options.seconds, 1),
        percent_of_a_core=round(100 * used / options.seconds, 2),
    )  # fmt: skip


asyncio.run(main())
