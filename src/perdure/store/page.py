"""Pages: the place in a list from which the next page goes on."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from perdure.errors import UsageError
from perdure.ports.store import Page

T = TypeVar("T")
K = TypeVar("K", bound=tuple[object, ...])


def place_of(key: Sequence[object]) -> str:
    """The key of a page's last item, as text that only the store can interpret."""
    # Encoded, so that no caller builds on its parts and no value needs quoting in a URL.
    return urlsafe_b64encode(msgspec.msgpack.encode(tuple(key))).decode()


def key_of(place: str | None, kind: type[K]) -> K | None:
    """The key that a place stands for (None: the beginning).

    Raises:
        UsageError: the text was not made by `place_of` for this kind of list.
    """
    if place is None:
        return None
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(place), type=kind)
    except (ValueError, msgspec.MsgspecError):
        msg = (
            f"{place!r} is no place in this list; "
            "pass the `next` of the page before, or None to begin"
        )
        raise UsageError(msg) from None


def check_limit(limit: int) -> int:
    """Return a page's size if it is one.

    Raises:
        UsageError: it is less than 1.
    """
    if limit < 1:
        msg = f"a page has at least one item, got limit={limit}"
        raise UsageError(msg)
    return limit


def page_of(rows: Sequence[tuple[Sequence[object], T]], limit: int) -> Page[T]:
    """A page of the first `limit` pairs of a key and an item. More pairs mean another page."""
    items = [item for _, item in rows[:limit]]
    if len(rows) <= limit:
        return Page(items)
    last, _ = rows[limit - 1]
    return Page(items, place_of(last))
