"""Making pins, so that the nodes of a store find them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from perdure.kernel.data.commit import Fence
from perdure.kernel.data.placement import GROUP, PIN
from perdure.ports.store import Incarnation, Scopes

if TYPE_CHECKING:
    from perdure.ports.store import Store

_PAGE = 1_000


async def find_scopes(store: Store, prefix: str = "") -> list[str]:
    """The scopes with this prefix that were claimed at least once, sorted."""
    names: list[str] = []
    after: str | None = None
    while True:
        page = await store.query(Scopes(prefix=prefix, after=after, limit=_PAGE))
        names += [view.scope for view in page.items]
        after = page.next
        if after is None:
            return names


async def find_groups(store: Store) -> list[str]:
    """The groups of which a scope was claimed at least once, and the default one."""
    groups = {name.partition("/")[0] for name in await find_scopes(store)}
    groups.discard(PIN.removesuffix("/"))
    return sorted(groups | {GROUP})


async def prepare(store: Store, scope: str) -> None:
    """Have a scope listed in the store. Call it before the first unit moves there.

    Nodes look at that list for the pins that they should own. A unit in a pin that is not listed
    would have no owner.
    """
    if (await store.query(Scopes(scopes=(scope,), limit=1))).items:
        return
    # Claiming is what lists it. A node that has claimed it since the look loses it for a moment,
    # and claims it again.
    claimant = Incarnation("pinning", os.urandom(8).hex())
    claim = (await store.claim([scope], claimant))[scope]
    await store.release([Fence(scope, claim.epoch, claimant.id)])
