"""``perdure keys``: the master keys of encrypted payloads."""

from pathlib import Path

from perdure.cli import exits
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark
from perdure.cli.place import find_app
from perdure.cli.verb import Common


def new_key(common: Common, file: str, add: bool) -> int:
    """The verb ``new``."""
    from perdure_eventstore.vault.master import new_master_key

    id_ = new_master_key(Path(file), add=add).hex()
    if common.json:
        emit({"file": file, "master_key": id_})
    else:
        people().print(f"{file} holds master key {id_}", soft_wrap=True)
        remark("keep a copy apart from the database: without it, what it encrypts is lost")
    return exits.DONE


async def rotate_keys(common: Common) -> int:
    """The verb ``rotate``."""
    async with looking(find_app(common), views=False) as client:
        if client.vault is None:
            raise exits.WrongUse("nothing is encrypted here: PERDURE_ENCRYPTION_MASTER_KEY is not set")
        rewrapped = await client.vault.rotate()
    if common.json:
        emit({"rewrapped": rewrapped})
    else:
        people().print(f"{rewrapped} keys are wrapped with the newest master key now")
    return exits.DONE
