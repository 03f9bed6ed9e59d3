"""`pin` and `unpin`: the nodes on which an instance is to run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli import screen
from perdure.cli.door import posting
from perdure.cli.options import DEFAULT_URL, AsJson, Id, StoreUrl
from perdure.cli.outcome import Exit
from perdure.cluster import cluster_at
from perdure.kernel.data.placement import Pin
from perdure.kernel.placement.pins import able, fits
from perdure.ports.store import SharedStore

if TYPE_CHECKING:
    from perdure.ports.store import ClientStore


def pin(
    id: Id,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="NAME", help="The node of this name.", show_default=False),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="Nodes with this label.", show_default=False
        ),
    ] = None,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Have an instance of a cluster run on a node, or on nodes with a label.

    While no such node lives, another one runs it.
    """
    # A note and no error: such a node may start later, and the pin counts from then on.
    doubt = asyncio.run(_pin(store, id, node, label))
    if doubt is not None:
        screen.note(doubt)
    wanted = node
    if node is None:
        wanted = label
    if as_json:
        screen.json({"id": id, "pinned": wanted})
    else:
        screen.say(f"pin: {id} belongs to {wanted} now")
    return Exit.OK


def unpin(id: Id, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Have an instance run again where its id leads to."""
    asyncio.run(_unpin(store, id))
    if as_json:
        screen.json({"id": id, "pinned": None})
    else:
        screen.say(f"unpin: {id} belongs to no node in particular now")
    return Exit.OK


async def _pin(url: str, id: str, node: str | None, label: str | None) -> str | None:
    """Pin it. Return what speaks against the pin."""
    async with posting(url) as client:
        await client.pin(id, node=node, label=label)
        if node is not None:
            return await _doubt(client.store, Pin("", "node", node), f"node is named {node!r}")
        assert label is not None
        return await _doubt(client.store, Pin("", "label", label), f"node has the label {label!r}")


async def _unpin(url: str, id: str) -> None:
    async with posting(url) as client:
        await client.unpin(id)


async def _doubt(store: ClientStore, pin: Pin, what: str) -> str | None:
    if not isinstance(store, SharedStore):
        return None
    async with cluster_at(store.meeting_place) as cluster:
        members = able(seen.member for seen in (await cluster.view()).members)
    if any(fits(member, pin) for member in members):
        return None
    if not members:
        return f"no living {what}, and no other node lives"
    names = ", ".join(sorted(member.incarnation.node for member in members))
    return f"no living {what}, so another one runs the instance until then; living are: {names}"
