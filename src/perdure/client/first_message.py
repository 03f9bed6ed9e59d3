"""A message that starts its receiver where there is none."""

from __future__ import annotations

from hashlib import blake2b

from perdure.client.gateway import Began, Begun, Gateway, find_unit
from perdure.errors import NotFound
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, UnitRow
from perdure.kernel.unit.turn import Outcome

# An instance may end or be deleted between the look at its row and the post behind it. One look
# more finds the next state. More than a few in a row are no coincidence.
_LOOKS = 4


async def send_or_start(
    gateway: Gateway, start: msg.Message, message: msg.Message, *, is_keyed: bool
) -> Began:
    """Post a message to the instance that runs, or else a start and the message together.

    The outcome is that of the message (`ok`: it is durable), or why nothing was posted: `exists`
    (another workflow has the id), `closed`, `missing` or `full`.
    """
    body = start.body
    assert isinstance(body, msg.Start)
    if is_keyed:
        start = _of_key(start, message)
    outcome: Outcome = "missing"
    for _ in range(_LOOKS):
        row: UnitRow | None = None
        if body.if_exists != "replace":
            row = await _row_of(gateway, message.to)
        refusal = _refusal(row, body)
        if refusal is not None:
            return refusal, None
        is_open = row is not None and row.status not in CLOSED
        # One with a key may have been received by a run that has ended since. It starts nothing.
        if is_open or (is_keyed and body.if_exists != "replace"):
            outcome = await gateway.post(message)
            if outcome in {"ok", "full"}:
                return outcome, _meant(row)
        if not is_open:
            outcome = (await gateway.post_all([start, message]))[1]
            if outcome in {"ok", "full"}:
                # It may join a start of another caller, whose input does not matter here.
                joined = (body.workflow, None)
                is_unsure = body.if_exists != "replace"
                return outcome, Begun(start.id, joined, may_be_refused=is_unsure)
    return outcome, None


def _of_key(start: msg.Message, message: msg.Message) -> msg.Message:
    """The start of a message with a key. It is the same in every client.

    Two callers with one key that find nothing at the same time post the same start, which the store
    takes once. Otherwise a run would begin that no message is for.
    """
    digest = blake2b(message.id, digest_size=16, person=b"start of key")
    return msg.Message(digest.digest(), start.to, start.body, start.at, start.visible_at)


async def _row_of(gateway: Gateway, unit: str) -> UnitRow | None:
    """The row of the unit, or that of a start which waits for a node."""
    try:
        return (await find_unit(gateway.store, unit)).row
    except NotFound:
        return None


def _refusal(row: UnitRow | None, start: msg.Start) -> Outcome | None:
    """Why nothing may be sent to the instance that has the id."""
    if row is None or start.if_exists == "replace":
        return None
    is_closed = row.status in CLOSED
    if is_closed and start.if_exists == "renew":
        return None
    if row.type != start.workflow:
        return "exists"
    if is_closed:
        return "closed"
    return None


def _meant(row: UnitRow | None) -> Begun | None:
    """The run that a message has reached, as far as it is known."""
    if row is None or row.status in CLOSED:
        return None
    return Begun(row.run)
