"""Python's garbage collector, set for a process that is a node and nothing else."""

import gc


def spare_collector() -> None:
    """Leave what start-up made out of every later collection, and collect less often.

    A node holds many small values for long and makes few cycles; at the default settings the collector took a fifth
    of its time. A library has no business changing this: only ``perdure up`` and the benchmarks call it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
