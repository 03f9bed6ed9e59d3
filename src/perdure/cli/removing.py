"""`delete` and `prune`: removal of instances and of histories, by id or by filters.

The command itself changes a store that no node owns. Otherwise it posts requests to the node, and
waits until the store shows that the node has carried them out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Annotated, TypeVar

import typer

from perdure.cli import screen
from perdure.cli.door import owning, posting
from perdure.cli.listings import StatusName
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl, point_in_time, seconds
from perdure.cli.outcome import Exit, with_options
from perdure.client.client import Client
from perdure.client.custody import custody
from perdure.client.deletion import Removed
from perdure.client.gateway import find_start
from perdure.client.remote import is_remote
from perdure.errors import StoreLocked, Timeout, UsageError
from perdure.kernel.data.commit import Status
from perdure.ports.store import Units

T = TypeVar("T")

_AT_ONCE = 500
"""Number of instances in one query."""
_LOOK_MS = 200
"""Longest wait for a notice of the node. The next look sees a change that came in between."""

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Their ids.", show_default=False)
]
Type = Annotated[
    str | None,
    typer.Option("--type", metavar="NAME", help="Only this workflow.", show_default=False),
]
Prefix = Annotated[
    str | None,
    typer.Option("--prefix", metavar="TEXT", help="Only ids that begin so.", show_default=False),
]
StatusFilter = Annotated[
    list[StatusName] | None,
    typer.Option("--status", help="Only these; may be repeated.", show_default=False),
]
EndedBefore = Annotated[
    str | None,
    typer.Option(
        "--ended-before",
        metavar="WHEN",
        help="Only what ended before: an age (30d, 12h, 90m) or a date (2026-01-31).",
        show_default=False,
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, metavar="N", help="Look at so many instances at most.")
]
Patience = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        parser=seconds,
        help="Wait so long without progress for the node that owns the store.",
    ),
]


def delete(
    ids: Ids = None,
    type: Type = None,
    status: StatusFilter = None,
    prefix: Prefix = None,
    ended_before: EndedBefore = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what has not ended: it is terminated first.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Keep no note that it was started.")
    ] = False,
    limit: Limit = 1_000,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before deleting by filters.")
    ] = False,
    timeout: Patience = 10,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Delete instances by id, or those that fit all filters, with their children and histories."""
    before = point_in_time(ended_before, "--ended-before")
    statuses: tuple[Status, ...] = tuple(one.value for one in status or ())
    is_filtered = any((type, statuses, prefix, before))
    if not ids and not is_filtered:
        msg = "say what to delete: ids, or --type, --status, --prefix, --ended-before"
        raise UsageError(msg)
    # Named ids are meant. Filters may fit more than their author expects.
    if not ids and not yes:
        _confirm(
            f"delete up to {limit} instances that fit these filters, "
            f"with their children, from {store}?"
        )

    async def remove(client: Client) -> Removed:
        # A single id is an error where it is not there or not removable. Of many it is skipped.
        if ids is not None and len(ids) == 1 and not is_filtered:
            instances = await client.get(ids[0]).delete(force=force, forget=forget)
            return Removed([ids[0]], instances)
        return await client.delete(
            ids or (),
            type=type,
            status=statuses,
            id_prefix=prefix,
            closed_before=before,
            force=force,
            forget=forget,
            limit=limit,
        )

    removed = asyncio.run(
        _carry_out(store, remove, lambda client, done: _until_gone(client, done.deleted), timeout)
    )
    return _report_deleted(removed, as_json=as_json)


def _report_deleted(removed: Removed, *, as_json: bool) -> int:
    if as_json:
        screen.json(
            {
                "deleted": removed.deleted,
                "instances": removed.instances,
                "skipped": removed.skipped,
                "more": removed.more,
            }
        )
    else:
        for skipped, why in removed.skipped.items():
            screen.note(f"{skipped}: {with_options(why)}")
        screen.say(f"deleted {screen.counted(removed.instances, 'instance')}")
        if removed.more:
            screen.note("there are more: run it again, or raise --limit")
    if removed.skipped:
        return Exit.CONFLICT
    return Exit.OK


def prune(
    ids: Ids = None,
    keep_last: Annotated[
        int | None,
        typer.Option(
            "--keep-last",
            min=0,
            metavar="N",
            help="Keep so many, with the current one.",
            show_default=False,
        ),
    ] = None,
    ended_before: EndedBefore = None,
    type: Type = None,
    status: StatusFilter = None,
    prefix: Prefix = None,
    limit: Limit = 1_000,
    timeout: Patience = 10,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Remove the histories of executions that ended by continue-as-new, never the current one."""
    before = point_in_time(ended_before, "--ended-before")
    if keep_last is None and before is None:
        msg = (
            "say which executions go: --keep-last N, --ended-before WHEN, "
            "or both (then an execution must fit both)"
        )
        raise UsageError(msg)
    statuses: tuple[Status, ...] = tuple(one.value for one in status or ())

    async def remove(client: Client) -> tuple[dict[str, list[int]], bool]:
        # As in `delete`: a single id is an error where it is not there.
        if ids is not None and len(ids) == 1 and not any((type, statuses, prefix)):
            numbers = await client.get(ids[0]).prune(keep_last=keep_last, closed_before=before)
            if not numbers:
                return {}, False
            return {ids[0]: numbers}, False
        pruned = await client.prune(
            ids or (),
            keep_last=keep_last,
            closed_before=before,
            type=type,
            status=statuses,
            id_prefix=prefix,
            limit=limit,
        )
        return pruned.executions, pruned.more

    executions, more = asyncio.run(
        _carry_out(store, remove, lambda client, done: _until_pruned(client, done[0]), timeout)
    )
    if as_json:
        screen.json({"pruned": executions, "more": more})
        return Exit.OK
    pruned = screen.counted(sum(map(len, executions.values())), "execution")
    screen.say(f"pruned {pruned} of {screen.counted(len(executions), 'instance')}")
    if more:
        screen.note("there are more instances: raise --limit, or choose with filters")
    return Exit.OK


# ---------------------------------------------------------------- carrying it out


def _confirm(question: str) -> None:
    # In a script the question would have no answer.
    if not sys.stdin.isatty():
        msg = "deleting by filters asks first, and nobody can answer here; give --yes"
        raise UsageError(msg)
    # On stderr, because stdout is for the answer of the command.
    typer.confirm(question, abort=True, err=True)


@asynccontextmanager
async def _administering(url: str) -> AsyncGenerator[tuple[Client, bool]]:
    """A client, and whether it removes by itself because no node owns the store."""
    if is_remote(url):
        async with posting(url) as client:
            yield client, False
        return
    async with owning(url) as store, AsyncExitStack() as stack:
        client = Client.open(store)
        try:
            custodian = await stack.enter_async_context(custody(store))
        except StoreLocked:
            # A node owns the store, and removes by itself what this client posts.
            yield client, False
            return
        yield Client(custodian), True


async def _carry_out(
    url: str,
    remove: Callable[[Client], Awaitable[T]],
    progress: Callable[[Client, T], AsyncGenerator[None]],
    patience_s: float,
) -> T:
    """Remove, or have the node of the store remove.

    `patience_s` is the longest time without progress of that node, and not of the whole wait.
    """
    async with _administering(url) as (client, is_owner):
        removed = await remove(client)
        if is_owner:
            return removed
        now = asyncio.get_running_loop().time
        try:
            async with (
                asyncio.timeout(patience_s) as patience,
                aclosing(progress(client, removed)) as steps,
            ):
                async for _ in steps:
                    patience.reschedule(now() + patience_s)
        except TimeoutError:
            msg = (
                f"the node that owns {url} was asked and has got no further for {patience_s:g} s; "
                "it will do it when it gets to it, even if it is restarted"
            )
            raise Timeout(msg) from None
        return removed


async def _until_gone(client: Client, ids: list[str]) -> AsyncGenerator[None]:
    """Wait until the node has removed all of them. Yields whenever some more are gone."""
    for first in range(0, len(ids), _AT_ONCE):
        left = ids[first : first + _AT_ONCE]
        version = 0
        while True:
            there = await _still_there(client, left)
            if not there:
                break
            if len(there) < len(left):
                yield
            left = there
            # The node removes them in this order, so the first one is the next to go.
            version = await client.store.wait_change(left[0], version, _LOOK_MS)
        yield


async def _still_there(client: Client, ids: list[str]) -> list[str]:
    """Those of the ids that have a row, or a start that waits for the node."""
    page = await client.store.query(Units(ids=tuple(ids), limit=len(ids)))
    there = {view.row.id for view in page.items}
    for unit in ids:
        if unit not in there and await find_start(client.store, unit) is not None:
            there.add(unit)
    return [unit for unit in ids if unit in there]


async def _until_pruned(client: Client, executions: dict[str, list[int]]) -> AsyncGenerator[None]:
    """Wait until the node has removed all these executions. Yields for each instance."""
    for pruned, numbers in executions.items():
        version = 0
        while set(numbers) & set(await client.get(pruned).executions()):
            version = await client.store.wait_change(pruned, version, _LOOK_MS)
        yield
