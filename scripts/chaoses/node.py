"""The node's hard life: three nodes that are killed and frozen, their Postgres too, and runs of every shape; judged."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from acceptance.forks import fork_server
from bad_days.node_chaos import NodeChaos
from bad_days.servers import VERSIONS, Servers, binaries
from bad_days.verdict import say


def main() -> int:
    options = _arguments()
    # Whoever ends it, nodes and server end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not binaries(options.postgres).is_dir():
        print(f"scripts/chaos: there is no Postgres in {binaries(options.postgres)}", file=sys.stderr)
        return 2
    what = f"{options.seconds:g} s, {options.nodes} nodes, {options.runs} runs, Postgres {options.postgres}"
    print(f"seed {options.seed}, {what}", flush=True)
    began, servers = time.monotonic(), Servers()
    with tempfile.TemporaryDirectory(prefix="perdure-chaos-") as name:
        folder = Path(options.keep or name)
        folder.mkdir(parents=True, exist_ok=not options.keep)
        with fork_server(folder, "bad_days.node_life") as forks:
            try:
                with servers.running(options.postgres) as server:
                    chaos = NodeChaos(server, forks, folder, options.seed, runs=options.runs, nodes=options.nodes)
                    verdict = chaos.run(options.seconds)
            finally:
                servers.close()
    again = f"scripts/chaos node --seed {options.seed} --seconds {options.seconds:g} --runs {options.runs}"
    return say(verdict, time.monotonic() - began, f"{again} --nodes {options.nodes} --postgres {options.postgres}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos node", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32), help="what happens, and when")
    parser.add_argument("--nodes", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=500, help="how many, evenly over the time (default: %(default)s)")
    parser.add_argument("--postgres", choices=VERSIONS, default="newest", help="the embedded one, or Debian's 15")
    parser.add_argument("--keep", metavar="FOLDER", help="where the nodes' output and notes shall stay")
    return parser.parse_args()


sys.exit(main())
