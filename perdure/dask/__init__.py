"""Handlers executed on a Dask cluster: ``@app.task(executor=DaskExecutor("tcp://…"))``. Needs ``perdure[dask]``."""

try:
    import distributed  # noqa: F401 # asked for here, so that its absence is said in a sentence
except ImportError as error:
    raise ImportError(f"perdure.dask needs Dask's distributed: install perdure[dask] ({error})") from error

from perdure.dask.errors import CannotTravel, ClusterRefused, DaskError, LostOnCluster, SchedulerUnreachable
from perdure.dask.executor import DaskExecutor

__all__ = ["CannotTravel", "ClusterRefused", "DaskError", "DaskExecutor", "LostOnCluster", "SchedulerUnreachable"]
