"""A real Postgres in a folder, shared by the processes that hold it and gone with the last of them.

    application A --- flock on holders/<pid>-<random> ---+
    application B --- flock on holders/<pid>-<random> ---+--- waited on by --- keeper --- parent of --- postgres

The first to `acquire` starts a keeper, a small Python process in a session of its own, and the keeper starts Postgres.
A hold is a locked file, and the kernel unlocks it whatever way its process ends, so a holder killed with -9 counts for
no longer than it lives. The keeper sleeps in `flock` on a holder's file: that costs nothing, and it wakes the moment
that holder is gone. Whoever finds nobody left, be it the last `release` or the keeper, stops the server. Starting,
stopping and counting happen under one more lock, the file `lock`.

The modules of this package import nothing but the standard library and each other, so that the keeper runs without the
rest of Perdure in its memory.
"""

from .errors import EmbeddedPostgresError
from .server import EmbeddedPostgres, Status

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "Status"]
