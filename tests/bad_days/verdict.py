"""What a bad day came to, and how it is told."""

from typing import NamedTuple

_MOST_SHOWN = 30


class Verdict(NamedTuple):
    """Of one run of a chaos, by its seed."""

    seed: int
    counts: dict[str, int]
    findings: list[str]
    stories: tuple[str, ...] = ()
    """Of the runs that findings name."""


def say(verdict: Verdict, seconds: float, again: str) -> int:
    """Print it; ``again`` is the command that does the same once more. Returns the exit status."""
    for name, count in verdict.counts.items():
        print(f"{count:>9,}  {name}")
    for finding in verdict.findings[:_MOST_SHOWN]:
        print(f"finding: {finding}")
    for story in verdict.stories:
        print(story)
    print(f"{len(verdict.findings)} findings in {seconds:.0f} s" if verdict.findings else "nothing lost, nothing twice")
    if verdict.findings:
        print(f"again: {again}")
    return 1 if verdict.findings else 0
