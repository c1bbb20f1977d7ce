"""What may come between a node and a Dask cluster."""

from perdure.errors import PerdureError
from perdure_engine.errors import NoRetry
from perdure_engine.executors import WorkLost


class DaskError(PerdureError):
    """Something between this node and the cluster is not as it should be."""


class SchedulerUnreachable(DaskError):
    """No scheduler answered in time. The handler was not called: the attempt failed."""


class ClusterRefused(DaskError):
    """Dask could not call what it was handed: its workers lack the packages, for one. The handler was not called."""


class CannotTravel(DaskError, NoRetry):
    """The handler, its arguments or its result cannot be pickled, or not be unpickled where they arrive."""


class LostOnCluster(DaskError, WorkLost):
    """The worker that had the work died, or the scheduler did: the attempt is interrupted, and tried again."""
