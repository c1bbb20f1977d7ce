"""The log's hard life: writers and readers that are killed and frozen, a server that is, too; judged at the end."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from acceptance.forks import fork_server
from bad_days.chaos import Chaos
from bad_days.race import race
from bad_days.servers import VERSIONS, Servers, binaries
from bad_days.verdict import Verdict, say
from open_transaction import beside_an_open_transaction, faults


def main() -> int:
    options = _arguments()
    # Whoever ends it, the server ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not binaries(options.postgres).is_dir():
        print(f"scripts/chaos log: there is no Postgres in {binaries(options.postgres)}", file=sys.stderr)
        return 2
    print(f"seed {options.seed}, {options.seconds:g} s, Postgres {options.postgres}", flush=True)
    began, servers = time.monotonic(), Servers()
    with tempfile.TemporaryDirectory(prefix="perdure-chaos-") as name:
        folder = Path(name)
        with fork_server(folder, "bad_days.writer", "bad_days.reader", "bad_days.race") as forks:
            try:
                with servers.running(options.postgres) as server:
                    if options.race:
                        verdict = race(server.url, forks, folder, options.seed, options.seconds)
                    elif options.open_transaction:
                        verdict = _beside_an_open_transaction(server.url, options.seed, options.seconds)
                    else:
                        verdict = Chaos(server, forks, folder, options.seed).run(options.seconds)
            finally:
                servers.close()
    return say(verdict, time.monotonic() - began, f"scripts/chaos log --seed {verdict.seed}")


def _beside_an_open_transaction(url: str, seed: int, seconds: float) -> Verdict:
    seen = asyncio.run(beside_an_open_transaction(url, seconds, seed))
    counts = {
        "appends a second before it": round(seen.before),
        "appends a second beside it": round(seen.during),
        "ms at most for a reader": round(1000 * seen.lag),
        "events read": len(seen.read),
    }
    return Verdict(seed, counts, list(faults(url, seen, seconds)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos log", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32), help="what happens, and when")
    parser.add_argument("--postgres", choices=VERSIONS, default="newest", help="the embedded one, or Debian's 15")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--race", action="store_true", help="two processes race on one stream, and nothing else")
    alone.add_argument(
        "--open-transaction",
        action="store_true",
        help="load, and beside it a caller's transaction that stays open as long, and nothing else",
    )
    return parser.parse_args()


sys.exit(main())
