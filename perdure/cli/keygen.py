"""``perdure keygen``: the key that heads are signed with."""

from pathlib import Path

from perdure.cli import exits
from perdure.cli.output import emit, people
from perdure.cli.verb import Common
from perdure_eventstore.signing import generate


def make_key(common: Common, file: str) -> int:
    """The verb. A key that is there is never overwritten."""
    private = Path(file)
    public = generate(private)
    if common.json:
        emit({"private": str(private), "public": str(public)})
    else:
        people().print(f"{private} signs: keep it to yourself, and set PERDURE_HEADS_KEY to it", soft_wrap=True)
        people().print(f"{public} checks: keep a copy away from the database", soft_wrap=True)
    return exits.DONE
