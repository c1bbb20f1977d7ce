"""``perdure sign``: a signed head of the log as it is now."""

from perdure.cli import exits
from perdure.cli.exits import WrongUse
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark, utc
from perdure.cli.place import find_app
from perdure.cli.verb import Common
from perdure_eventstore.head_keeper import Signed
from perdure_eventstore.heads import verifier_key
from perdure_eventstore.session import Session
from perdure_eventstore.settled import settled_end
from perdure_eventstore.signing import load_private


async def sign_head(common: Common) -> int:
    """The verb."""
    app = find_app(common)
    heads = app.settings.heads
    if heads.key is None:
        raise WrongUse("no key is named: `perdure keygen FILE` makes one, and PERDURE_HEADS_KEY=FILE names it")
    public = load_private(heads.key).public_key()
    async with looking(app, views=False) as client:
        session, keeper = Session(client.engine), heads.keeper(client.engine, client.schema)
        try:
            signed = await keeper.sign((await settled_end(session, client.schema)).position)
        finally:
            await keeper.close()
            await session.close()
    if common.json:
        emit(_as_json(signed, verifier_key(signed.head.origin, public)))
    else:
        people().print(signed.note, end="", markup=False, soft_wrap=True)
        if not signed.new:
            remark("the log has not grown since this head was signed")
    return exits.DONE


def _as_json(signed: Signed, key: str) -> dict[str, object]:
    head = signed.head
    return {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "position": head.position,
        "signed_at": utc(head.signed_at),
        "new": signed.new,
        "verifier_key": key,
        "note": signed.note,
    }
