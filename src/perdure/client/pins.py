"""Pins: putting instances onto nodes by hand, and making pins so that nodes find them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast

from perdure.client.gateway import find_row
from perdure.client.sending import check_sent
from perdure.errors import NotFound, NotRunning, Timeout, UsageError
from perdure.kernel.data.commit import CLOSED, Fence, UnitRow
from perdure.kernel.data.definition import check_text
from perdure.kernel.data.message import Message, Place
from perdure.kernel.data.placement import GROUP, Pin, check_id, group_of, scope_of
from perdure.ports.store import Incarnation, OwnedStore, Scopes, SharedStore

if TYPE_CHECKING:
    from perdure.client.gateway import Gateway
    from perdure.ports.store import ClientStore, Store
    from perdure.workflow import Workflow

_PAGE = 1_000

_PATIENCE_S = 10.0
"""How long the owner of an instance has for its move."""

_ROUND_MS = 1_000
"""How long one wait for the move lasts. It is repeated then."""


def in_group(start: Message, workflow: Workflow[..., Any] | str, store: ClientStore) -> Message:
    """Have a start wait where nodes look that serve the group of its workflow. Return it.

    The group of a workflow that is given by its name is not known here. A node moves it there.
    """
    if not isinstance(workflow, str) and workflow.definition.group != GROUP:
        start.wait_in(scope_of(start.to, store.info.shards, workflow.definition.group))
    return start


async def pin_to(gateway: Gateway, id: str, node: str | None, label: str | None) -> None:
    """Put an instance onto a node of this name, or onto nodes with this label. See `Client.pin`."""
    if (node is None) == (label is None):
        msg = "a pin is to a node or to a label: give one of them"
        raise UsageError(msg)
    own = _own(gateway.store)
    row = await _open_row(gateway, id)
    if node is not None:
        pin = Pin(group_of(row.scope), "node", check_text(node, "the name of a node"))
    else:
        # A label is checked where a node gets it. Here any text means the nodes that have it.
        pin = Pin(group_of(row.scope), "label", check_text(label, "a label"))
        if "=" not in pin.wanted:
            msg = f"{label!r} is no label; write a name, '=' and a value: zone=eu-1"
            raise UsageError(msg)
    if row.scope != pin.scope:
        await prepare(own, pin.scope)
        await _place(gateway, id, pin.scope)


def _own(store: ClientStore) -> Store:
    """The store of a client that has one.

    Raises:
        UsageError: it has none, and no node makes pins for it.
    """
    if not _has_store(store):
        msg = "a client without a store cannot pin; use a client of the store itself"
        raise UsageError(msg)
    return cast("Store", store)


def _has_store(store: ClientStore) -> bool:
    """Whether a client has the store itself. Without one it asks nodes."""
    return hasattr(store, "claim")


async def unpin(gateway: Gateway, id: str) -> None:
    """Have an instance run where its id leads to. See `Client.unpin`."""
    row = await _open_row(gateway, id)
    home = scope_of(id, gateway.store.info.shards, group_of(row.scope))
    if row.scope != home:
        await _place(gateway, id, home)


async def _open_row(gateway: Gateway, id: str) -> UnitRow:
    # A store that nodes share can name its owners, too. So can a client without a store, and its
    # nodes may have a store of any kind.
    store = gateway.store
    is_whole = isinstance(store, OwnedStore) and not isinstance(store, SharedStore)
    if is_whole and _has_store(store):
        msg = "the node of this store owns all of it, so an instance cannot be pinned to another"
        raise UsageError(msg)
    view = await find_row(gateway.store, check_id(id))
    if view is None:
        msg = f"no instance has the id {id!r}, or it has not begun; check the id"
        raise NotFound(msg)
    if view.row.status in CLOSED:
        msg = f"{id!r} has ended, so it runs nowhere"
        raise NotRunning(msg)
    return view.row


async def _place(gateway: Gateway, id: str, scope: str) -> None:
    """Ask its owner, and wait until it has moved."""
    message = Message(os.urandom(16), id, Place(scope), gateway.clock.now_ms())
    check_sent(id, await gateway.send(message))
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                view = await find_row(gateway.store, id)
                if view is None or view.row.status in CLOSED or view.row.scope == scope:
                    return
                await gateway.changed(id, view.version, _ROUND_MS)
    except TimeoutError:
        msg = (
            f"{id!r} has not moved within {_PATIENCE_S:g} s: no node has taken it yet, or the one "
            "that has it is not in a cluster. The request waits in its inbox"
        )
        raise Timeout(msg) from None


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
