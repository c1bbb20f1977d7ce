"""The projections that come with Perdure."""

from typing import Final

from perdure_projections.projection import Projection
from perdure_projections.runs import RUNS
from perdure_projections.tasks import TASKS

BUILTIN: Final[tuple[Projection, ...]] = (RUNS, TASKS)
