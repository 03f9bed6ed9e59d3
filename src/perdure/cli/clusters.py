"""`nodes`, `shards` and `scale`: the nodes of a store, what each owns, and what waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import looking
from perdure.cli.layout import Cell, Column
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl, Wide
from perdure.cli.outcome import Exit
from perdure.cli.sheet import Sheet
from perdure.cli.view import Json, time_text
from perdure.cluster import cluster_at
from perdure.cluster.sqlite import SQLiteCluster
from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.commit import CLOSED, UnitRow
from perdure.kernel.data.placement import group_of
from perdure.node.scale import Scale, read_scale
from perdure.ports.backlog import Shards, ShardView
from perdure.ports.cluster import Cluster, Standing
from perdure.ports.store import (
    ClientStore,
    Incarnation,
    OwnedStore,
    Scopes,
    ScopeView,
    SharedStore,
    Store,
)

_PAGE = 1_000
_FILE = "sqlite:///"

_COLOURS = {
    "serving": "green",
    "leaving": "yellow",
    "silent": "yellow",
    "dead": "red",
    "gone": "red",
}

ClusterUrl = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="URL",
        help="A cluster that is not in the store: sqlite:///cluster.db.",
        show_default="that of the store",
    ),
]


class NodeLine(msgspec.Struct, kw_only=True):
    """A node, as `nodes --json` prints it.

    `gone` nodes own scopes and are no members any more: nobody has claimed the scopes since.
    """

    node: str
    id: str
    state: str
    scopes: int
    slots: int | None = None
    busy: int | None = None
    waiting: int | None = None
    silent_ms: int | None = None
    lease_ms: int | None = None
    weight: int | None = None
    groups: list[str] = []
    address: str | None = None
    release: str | None = None
    started_at: str | None = None


def nodes(
    store: StoreUrl = DEFAULT_URL,
    cluster: ClusterUrl = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """Show the nodes of a store: their state, their load and what they own.

    A serving node renews its lease. One that is leaving hands its scopes over. One that is silent
    has missed renewals, and after a lease without any it is dead: the others take its work over,
    and remove it. One that is gone has been removed, and nobody has claimed its scopes yet.
    """
    lines = asyncio.run(_read_nodes(store, cluster))
    if as_json:
        screen.json({"nodes": lines})
        return Exit.OK
    if not lines:
        screen.say("no node has this store open; run one with `perdure serve`")
        return Exit.OK
    columns = [
        Column("node", is_head=True),
        Column("state"),
        Column("scopes", is_right=True),
        Column("busy", is_right=True),
        Column("heard", is_right=True),
        Column("weight", is_right=True),
        Column("groups"),
        Column("address"),
        Column("release"),
        Column("id", style="bright_black"),
    ]
    Sheet(columns, wide=wide).add(map(_node_row, lines))
    return Exit.OK


def _node_row(line: NodeLine) -> list[str | Cell]:
    return [
        line.node,
        Cell(line.state, _COLOURS[line.state]),
        str(line.scopes),
        _busy(line),
        _ago(line.silent_ms),
        _text(line.weight),
        ",".join(line.groups),
        _text(line.address),
        _text(line.release),
        line.id,
    ]


def _busy(line: NodeLine) -> str:
    # A member that has not told its load yet, or a node that has no cluster to tell it.
    if line.slots is None:
        return ""
    return f"{line.busy}/{line.slots}"


def _ago(silent_ms: int | None) -> str:
    if silent_ms is None:
        return ""
    return f"{silent_ms / 1000:.1f} s ago"


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value)


async def _read_nodes(url: str, cluster_url: str | None) -> list[NodeLine]:
    async with looking(url) as store:
        standings = await _standings(store, cluster_url)
        owned: Counter[Incarnation] = Counter()
        for view in await _all_scopes(store):
            if view.owner is not None:
                owned[view.owner] += 1
        if standings is None:
            return [await _only(store, owner, count) for owner, count in owned.items()]
        # Members take their scopes out. What is left belongs to nodes that are members no more.
        lines = [_line(one, owned.pop(one.seen.member.incarnation, 0)) for one in standings]
        for owner, count in owned.items():
            lines.append(NodeLine(node=owner.node, id=owner.id, state="gone", scopes=count))
    return sorted(lines, key=lambda line: (line.node, line.id))


async def _only(store: Store, owner: Incarnation, count: int) -> NodeLine:
    """The node that has a store for itself, or that had it when it died."""
    state = "gone"
    # Scopes name their last owner until the next claim, so they do not say whether it lives.
    if isinstance(store, OwnedStore) and await store.owner() is not None:
        state = "serving"
    return NodeLine(node=owner.node, id=owner.id, state=state, scopes=count)


def _line(standing: Standing, count: int) -> NodeLine:
    member = standing.seen.member
    line = NodeLine(
        node=member.incarnation.node,
        id=member.incarnation.id,
        state=standing.state,
        scopes=count,
        silent_ms=standing.silent_ms,
        lease_ms=member.lease_ms,
        weight=member.weight,
        groups=list(member.groups),
        address=member.address,
        release=member.release or None,
        started_at=time_text(member.started_at),
    )
    if standing.load is not None:
        line.slots = standing.load.slots
        line.busy = standing.load.busy
        line.waiting = standing.load.waiting
    return line


async def _all_scopes(store: Store) -> list[ScopeView]:
    found: list[ScopeView] = []
    query = Scopes(limit=_PAGE)
    while True:
        page = await store.query(query)
        found += page.items
        if page.next is None:
            return found
        query = msgspec.structs.replace(query, after=page.next)


async def _standings(store: Store, cluster_url: str | None) -> list[Standing] | None:
    """The members of the cluster of a store. None: it has none."""
    if cluster_url is not None:
        place = _in_file(cluster_url)
    elif isinstance(store, SharedStore):
        # A look must not make a cluster where there was none.
        place = cluster_at(store.meeting_place, creates=False)
    else:
        return None
    async with place as cluster:
        return await cluster.standings()


async def why_unserved(store: ClientStore, row: UnitRow) -> str:
    """Why no node may take an instance up. Empty: a living node serves its group.

    Empty also where it is not known: nodes answer for the store, or its cluster is not in it.
    """
    if row.status in CLOSED or not row.scope or not isinstance(store, SharedStore):
        return ""
    async with cluster_at(store.meeting_place, creates=False) as cluster:
        standings = await cluster.standings()
    group = group_of(row.scope)
    for one in standings:
        if one.state != "dead" and group in one.seen.member.groups:
            return ""
    return f"no living node serves group {group!r}; it waits until one does"


def _in_file(url: str) -> Cluster:
    """A cluster in a file, which must be there: looking makes none."""
    path = url.removeprefix(_FILE)
    if path == url or not path:
        msg = f"--cluster {url!r} names no file of a cluster; write it as {_FILE}cluster.db"
        raise UsageError(msg)
    if not Path(path).is_file():
        msg = f"there is no cluster file {path} (looked in {Path.cwd()}); check --cluster"
        raise StoreUnavailable(msg)
    return SQLiteCluster(path)


# ---------------------------------------------------------------- shards


def shards(
    store: StoreUrl = DEFAULT_URL,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """Show the scopes of a store: who owns each, and what is in it.

    `open` instances have not ended, `busy` ones have activities under way, and `due` ones have a
    timer whose time has come. An owner takes up what is due within moments.
    """
    found = asyncio.run(_read_shards(store))
    if as_json:
        screen.json({"shards": list(map(_shard_json, found))})
        return Exit.OK
    if not found:
        screen.say("no scope of this store was ever claimed; run a node with `perdure serve`")
        return Exit.OK
    columns = [
        Column("scope", is_head=True),
        Column("owner"),
        Column("epoch", is_right=True),
        Column("open", is_right=True),
        Column("busy", is_right=True),
        Column("due", is_right=True),
        Column("id", style="bright_black"),
    ]
    Sheet(columns, wide=wide).add(map(_shard_row, found))
    return Exit.OK


async def _read_shards(url: str) -> list[ShardView]:
    async with looking(url) as store:
        found: list[ShardView] = []
        # Each page counts all open instances, so there are few.
        query = Shards(at=await store.now(), limit=10 * _PAGE)
        while True:
            page = await store.query(query)
            found += page.items
            if page.next is None:
                return sorted(found, key=_by_number)
            query = msgspec.structs.replace(query, after=page.next)


def _by_number(view: ShardView) -> tuple[str, int, str]:
    """The order for people: `default/2` before `default/10`."""
    group, _, number = view.scope.rpartition("/")
    if number.isdecimal():
        return group, int(number), ""
    return group, -1, number


def _shard_row(view: ShardView) -> list[str | Cell]:
    owner, id_ = Cell("nobody", "yellow"), ""
    if view.owner is not None:
        owner, id_ = Cell(view.owner.node), view.owner.id
    numbers = [str(number) for number in (view.epoch, view.open, view.busy, view.due)]
    return [view.scope, owner, *numbers, id_]


def _shard_json(view: ShardView) -> Json:
    node, id_ = None, None
    if view.owner is not None:
        node, id_ = view.owner.node, view.owner.id
    return {
        "scope": view.scope,
        "node": node,
        "id": id_,
        "epoch": view.epoch,
        "open": view.open,
        "busy": view.busy,
        "due": view.due,
    }


# ---------------------------------------------------------------- scale


def scale(
    store: StoreUrl = DEFAULT_URL, cluster: ClusterUrl = None, as_json: AsJson = False
) -> int:
    """Show how much waits for the nodes of a store, and how busy they are.

    These are the numbers by which an autoscaler adds and removes nodes. A node that may stop runs
    nothing and holds nothing back.
    """
    signal = asyncio.run(_read_scale(store, cluster))
    if as_json:
        screen.json(signal)
        return Exit.OK
    screen.say(
        f"backlog {signal.backlog}: {screen.counted(signal.instances, 'instance')} without a node, "
        f"{screen.counted(signal.tasks, 'task')} without a worker, "
        f"{screen.counted(signal.attempts, 'attempt')} without a slot; "
        f"the oldest waits {signal.oldest_ms / 1000:.1f} s"
    )
    screen.say(
        f"busy {signal.busy} of {screen.counted(signal.slots, 'slot')} on "
        f"{screen.counted(signal.living, 'living node')}"
    )
    if signal.queues:
        screen.say("")
        _print_queues(signal)
    if signal.nodes:
        screen.say("")
        _print_nodes(signal)
    return Exit.OK


async def _read_scale(url: str, cluster_url: str | None) -> Scale:
    async with looking(url) as store:
        standings: Sequence[Standing] | None = await _standings(store, cluster_url)
        # Without a cluster one process owns the store, and nothing in it lives when that is gone.
        if standings is None and isinstance(store, OwnedStore) and await store.owner() is None:
            standings = []
        found = await read_scale(store, standings, await store.now())
    return msgspec.structs.replace(found, nodes=sorted(found.nodes, key=lambda one: one.node))


def _print_queues(signal: Scale) -> None:
    columns = [Column("queue", is_head=True)]
    columns += [Column(name, is_right=True) for name in ("backlog", "busy", "slots", "oldest")]
    Sheet(columns).add(
        [name, str(one.backlog), str(one.busy), str(one.slots), f"{one.oldest_ms / 1000:.1f} s"]
        for name, one in signal.queues.items()
    )


def _print_nodes(signal: Scale) -> None:
    columns = [Column("node", is_head=True), Column("state")]
    columns += [Column(name, is_right=True) for name in ("busy", "slots", "waiting")]
    columns.append(Column("may stop"))
    may_stop = {True: "yes", False: "no"}
    Sheet(columns).add(
        [
            one.node,
            Cell(one.state, _COLOURS[one.state]),
            str(one.busy),
            str(one.slots),
            str(one.waiting),
            may_stop[one.may_stop],
        ]
        for one in signal.nodes
    )
