"""The run: a pure core. ``decide(state, command)`` gives events, ``evolve(state, event)`` the next state.

No I/O, no clock, no randomness: time and ids come in with the command.
"""

from perdure_engine.run.decide import advance, decide
from perdure_engine.run.evolve import evolve
from perdure_engine.run.state import RunState, TaskState, new_run

__all__ = ["RunState", "TaskState", "advance", "decide", "evolve", "new_run"]
