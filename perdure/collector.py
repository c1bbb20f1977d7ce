"""Python's garbage collector, set for a process that is Perdure's alone.

A library has no business changing this: only the command line and the benchmarks do.
"""

import gc


def collect_seldom() -> None:
    """Collect less often: at the default settings the collector takes a fifth of a command's time, and of a node's."""
    gc.set_threshold(50_000, 20, 100)


def spare_collector() -> None:
    """Leave what start-up made out of every later collection: a node holds much for long, and makes few cycles."""
    gc.collect()
    gc.freeze()
    collect_seldom()
