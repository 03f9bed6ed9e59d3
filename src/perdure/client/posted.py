"""Starts that were posted and wait for a node. They have no row yet, so lists add them here."""

from __future__ import annotations

from perdure.client.gateway import pending_of
from perdure.kernel.data.commit import UnitRow
from perdure.ports.store import ClientStore, Starts, Units

_PAGE = 500


async def posted_starts(store: ClientStore, query: Units, limit: int | None) -> list[UnitRow]:
    """Pending rows of the posted starts that fit the filters of `query`, newest first.

    At most `limit` (None: all), and none on later pages: they stand before all instances.
    """
    found: list[UnitRow] = []
    if query.after is not None or not _may_fit(query):
        return found
    after: str | None = None
    while limit is None or len(found) < limit:
        page = await store.query(Starts(ids=query.ids, limit=_PAGE, after=after))
        rows = [pending_of(start) for start in page.items]
        found += [row for row in rows if _fits(row, query)]
        after = page.next
        if after is None:
            break
    return found[:limit]


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
