"""Who may say that another node is dead.

A lease that ran out says that its node did not renew it. That is a death only where it could have: after an outage of
Postgres, or of the way to it, every lease has run out, and whoever came back first would declare dead all the others,
whose attempts are still under way. So nobody judges who has not had the database in reach for as long as a lease. One
that has just come may take the server's word for it, which says since when it runs; but not that of a standby that was
promoted, which ran long before anybody could write to it.
"""


class Witness:
    """One node's knowledge of how long the database has been in reach. Times are seconds of ``boot_time``."""

    def __init__(self, lease: float, grace: float) -> None:
        """``lease`` is how long one lasts, renewed three times in that; ``grace`` how long the others get."""
        self._lease, self._grace = lease, grace
        self._since, self._last = float("inf"), float("-inf")
        self._missed = False
        self.is_newcomer = True
        """Whether the database has been in reach ever since the node joined."""

    def missed(self) -> None:
        """The database could not be reached."""
        self._missed = True

    def reached(self, at: float) -> bool:
        """It was reached by what was sent at ``at``. Returns whether that was the end of an outage.

        A short one is none: nobody's lease runs out in half of its time.
        """
        self._since = min(self._since, at)
        gap = at - max(self._last, self._since)
        is_back = gap > self._lease or (self._missed and gap > self._lease / 2)
        if is_back:
            self._since, self.is_newcomer = at, False
        self._last, self._missed = at, False
        return is_back

    def may_judge(self, at: float) -> bool:
        """Whether a lease that has run out is a death."""
        return at - self._since >= self._grace
