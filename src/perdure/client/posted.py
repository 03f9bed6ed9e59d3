"""Starts that were posted and wait for a node. They have no row yet, so lists add them here."""

from __future__ import annotations

from perdure.client.gateway import find_start, pending_of
from perdure.kernel.data.commit import UnitRow
from perdure.kernel.data.placement import scopes_of
from perdure.ports.store import ClientStore, Units

_LOOKED_AT = 1_000
"""Units with messages that are looked at. Without a node for long, there may be any number."""


async def posted_starts(store: ClientStore, query: Units, now_ms: int) -> list[UnitRow]:
    """Pending rows of the posted starts that fit the filters of `query`, newest first.

    At most its `limit`, and none on later pages: they stand before all instances.
    """
    if query.after is not None or not _may_fit(query):
        return []
    page = await store.wakes(scopes_of(store.info.shards), now_ms, None, _LOOKED_AT)
    units = [wake.unit for wake in page.items if wake.has_messages]
    if not units:
        return []
    # A unit that has a row is listed by its row.
    known = await store.query(Units(ids=tuple(units), limit=len(units)))
    missing = set(units) - {view.row.id for view in known.items}
    found: list[UnitRow] = []
    for unit in units:
        if unit not in missing:
            continue
        start = await find_start(store, unit)
        # The start of a child is on its way, and shown as a call of its parent.
        if start is not None and start.sender is None:
            row = pending_of(store, start)
            if _fits(row, query):
                found.append(row)
    found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    return found[: query.limit]


def _may_fit(query: Units) -> bool:
    if query.statuses and "pending" not in query.statuses:
        return False
    # A start has not ended, and its search attributes count from when it begins.
    return query.closed_after is None and query.closed_before is None and not query.where


def _fits(row: UnitRow, query: Units) -> bool:
    chosen = (
        (query.ids, row.id),
        (query.types, row.type),
        (query.type_versions, row.type_version),
        (query.reasons, row.reason),
    )
    if any(values and value not in values for values, value in chosen):
        return False
    if query.id_prefix is not None and not row.id.startswith(query.id_prefix):
        return False
    if query.parent is not None and row.parent_unit != query.parent:
        return False
    if query.created_after is not None and row.created_at <= query.created_after:
        return False
    return query.created_before is None or row.created_at < query.created_before
