"""Bundles: ``perdure export RUN --bundle FILE``, and ``perdure verify --bundle FILE``, which needs no database."""

from collections.abc import Sequence
from pathlib import Path

from perdure.cli import exits
from perdure.cli.exits import WrongUse
from perdure.cli.files import read, written
from perdure.cli.looking import looking
from perdure.cli.output import emit, people, remark, warn
from perdure.cli.place import find_app
from perdure.cli.run_names import find_run, full_id
from perdure.cli.verb import Common
from perdure_engine.belongings import definition_streams
from perdure_eventstore.session import Session
from perdure_eventstore.signing import load_private, load_public
from perdure_eventstore.transfer.bundle_check import CheckedBundle, check_bundle
from perdure_eventstore.transfer.bundling import Bundled, Bundler


async def bundle_run(common: Common, runs: Sequence[str], output: str) -> int:
    """One run into a bundle."""
    if len(runs) != 1:
        raise WrongUse("a bundle holds one run: export RUN --bundle FILE")
    app = find_app(common)
    heads = app.settings.heads
    key = None if heads.key is None else load_private(heads.key).public_key()
    async with looking(app, views=full_id(runs[0]) is None) as client:
        run = await find_run(client, runs[0])
        session, keeper = Session(client.engine), heads.keeper(client.engine, client.schema)
        try:
            await definition_streams(session, [run], client.schema)
            with written(output) as file:
                done = await Bundler(client.engine, keeper, key, client.schema).bundle(run, file.write)
        finally:
            await keeper.close()
            await session.close()
    if not done.signed:
        warn("its head is not signed: PERDURE_HEADS_KEY names no key, and nothing signed so far holds this run")
    if output != "-":
        _say(common, done, output)
    return exits.DONE


def check_file(common: Common, name: str, public_keys: Sequence[str], others: Sequence[str | None]) -> int:
    """Check a bundle; ``others`` make no sense with one. Raises TransferRefused, KeyRefused, WrongUse."""
    if any(others) or len(public_keys) > 1:
        raise WrongUse("a bundle is checked by itself: verify --bundle FILE, and one --public-key FILE if you have it")
    key = load_public(Path(public_keys[0])) if public_keys else None
    with read(name) as file:
        checked = check_bundle(file, key)
    if common.json:
        emit({**checked._asdict(), "root": checked.root.hex()})
        return exits.DONE
    people().print(
        f"[green]the bundle is whole:[/] {checked.events} events of run {checked.run}, each of them in the log "
        f"{checked.origin} of {checked.size} events"
        + (f"; of {checked.erased} the payload is not in it: it was erased, or left out" if checked.erased else ""),
        soft_wrap=True,
    )  # fmt: skip
    _say_signer(checked)
    return exits.DONE


def _say_signer(checked: CheckedBundle) -> None:
    if checked.trusted:
        people().print(f"its head is signed with the key you gave: {checked.signer}", soft_wrap=True)
    elif not checked.signed:
        warn("its head is not signed: whoever made the bundle may have made up the log with it")
    elif checked.signer is None:
        warn("its signature was not checked: give the log's public key with --public-key FILE")
    else:
        warn(
            f"its head is signed with {checked.signer}, which was not checked against a key you trust: "
            "give the log's public key with --public-key FILE"
        )


def _say(common: Common, done: Bundled, output: str) -> None:
    if common.json:
        emit({"output": output, **done._asdict(), "root": done.root.hex()})
    else:
        remark(f"{done.events} events are in {output}, each with the proof that it is in {done.origin}")
