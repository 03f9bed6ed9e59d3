"""Seals as stores keep them, and as the errors that they cause.

A sealed store refuses every write by triggers of its own. So it refuses those of processes that
opened it before, and a store that is not sealed pays nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from perdure.errors import StoreMoved, UsageError
from perdure.ports.moving import MovableStore, Seal
from perdure.ports.store import ClientStore

KEY = "seal"
"""The key of the seal in the table `meta`."""

MARK = "perdure sealed "
"""How a trigger's message begins. The seal follows."""

_decode = msgspec.json.Decoder(Seal).decode


def encode(seal: Seal) -> str:
    """A seal as it is stored."""
    return msgspec.json.encode(seal).decode()


def decode(text: str | None) -> Seal | None:
    """The seal that was stored.

    Raises:
        ValueError: the text is none.
    """
    if text is None:
        return None
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        msg = f"its seal cannot be read: {error}"
        raise ValueError(msg) from error


def refusal(seal: Seal, name: str, outcome: Literal["none", "unknown"] = "none") -> StoreMoved:
    """The error of a caller who wants a sealed store to work. `name` is that of the store."""
    if seal.role == "target":
        text = (
            f"{name} is being filled from {seal.other}, and takes no work before all is there; "
            f"run `perdure move --from {seal.other} --to ...` again if the last one was interrupted"
        )
        return StoreMoved(text, outcome)
    if seal.is_done:
        text = f"{name} has moved to {seal.other}, and takes no more work; use that URL"
        return StoreMoved(text, outcome, moved_to=seal.other)
    text = (
        f"{name} is being moved to {seal.other}, and takes no more work; run `perdure move` again "
        "if it was interrupted, or take the store back with `perdure move --give-up`"
    )
    return StoreMoved(text, outcome, moved_to=seal.other)


def refused_by(
    error: BaseException, name: str, outcome: Literal["none", "unknown"] = "none"
) -> StoreMoved | None:
    """What the error of a trigger means. None: it is not that of a seal."""
    _, mark, text = str(error).partition(MARK)
    if not mark:
        return None
    # Behind the seal a driver may say more.
    end = text.rfind("}") + 1
    return refusal(_decode(text[:end]), name, outcome)


def check_seal(known: Seal | None, wanted: Seal | None, name: str) -> None:
    """Refuse a step of a move when another one has been taken meanwhile.

    Raises:
        StoreMoved: the store has another seal than the one that was expected.
    """
    if known == wanted:
        return
    if known is not None:
        raise refusal(known, name)
    msg = f"{name} is not being moved any more: the move was given up meanwhile; look at both sides"
    raise StoreMoved(msg)


def check_open(store: ClientStore) -> None:
    """Refuse to work with a sealed store.

    Raises:
        StoreMoved: it is sealed. The error names the new place.
    """
    seal = store.info.seal
    if seal is not None and seal.is_closed:
        name = "the store"
        if isinstance(store, MovableStore):
            name = store.place
        raise refusal(seal, name)


def not_empty(name: str, table: str) -> UsageError:
    """The error of a target that has rows."""
    msg = f"{name} is not empty (it has rows in {table}); move into a new store"
    return UsageError(msg)


def loses_rows(before: Seal | None, after: Seal | None) -> bool:
    """Whether this change of the seal gives a target up, with all rows that were copied so far."""
    if before is None or after is not None:
        return False
    # A source that is given up keeps its rows, and so does a target that was opened once.
    return before.role == "target" and before.is_closed
