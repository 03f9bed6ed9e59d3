"""Filters of lists, in one description for all calls that take them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, TypedDict, get_args

from perdure.errors import UsageError
from perdure.kernel.data.commit import Status
from perdure.kernel.data.definition import check_text, normal_version
from perdure.ports.store import Units
from perdure.ports.where import Where


class Selection(TypedDict, total=False):
    """The instances that fit all of these.

    `status` is one status, or several. `type` and `version` are those of the workflow. `id_prefix`
    is the beginning of the id. `parent` is the id of the parent. `where` are conditions on search
    attributes. Times have a timezone, or are local. The bounds themselves are not included.
    """

    status: Status | Sequence[Status]
    type: str | None
    version: str | int | None
    id_prefix: str | None
    parent: str | None
    created_after: datetime | None
    created_before: datetime | None
    closed_after: datetime | None
    closed_before: datetime | None
    where: Where | Sequence[Where]


class Filter(Selection, total=False):
    """Filters of lists: a selection and a reason, as `Description.reason` has it."""

    reason: str | None


def units_query(filters: Selection, limit: int = 100, after: str | None = None) -> Units:
    """Filters as the query of a store.

    Raises:
        UsageError: there is no such filter, or it cannot have this value.
    """
    # Filters come as keyword arguments, which Python does not check against the TypedDict.
    for name in filters:
        if name not in Filter.__annotations__:
            close = get_close_matches(name, Filter.__annotations__, 1)
            if close:
                hint = f"did you mean {close[0]!r}?"
            else:
                hint = f"use {', '.join(Filter.__annotations__)}"
            msg = f"there is no filter {name!r}; {hint}"
            raise UsageError(msg)
    versions: tuple[str, ...] = ()
    version = filters.get("version")
    if version is not None:
        versions = (normal_version(version),)
    return Units(
        statuses=_statuses(filters.get("status", ())),
        types=_one(filters, "type"),
        type_versions=versions,
        reasons=_one(filters, "reason"),
        id_prefix=_text(filters, "id_prefix"),
        parent=_text(filters, "parent"),
        created_after=time_ms("created_after", filters.get("created_after")),
        created_before=time_ms("created_before", filters.get("created_before")),
        closed_after=time_ms("closed_after", filters.get("closed_after")),
        closed_before=time_ms("closed_before", filters.get("closed_before")),
        where=_conditions(filters.get("where", ())),
        limit=limit,
        after=after,
    )


def _statuses(status: Any) -> tuple[str, ...]:
    # One status is a text, which would be a sequence of characters.
    if isinstance(status, str):
        status = (status,)
    statuses: tuple[str, ...] = tuple(status)
    for one in statuses:
        if one not in get_args(Status):
            msg = f"{one!r} is not a status; use {', '.join(get_args(Status))}"
            raise UsageError(msg)
    return statuses


def _text(filters: Selection, name: str) -> str | None:
    value = filters.get(name)
    if value is not None and not isinstance(value, str):
        msg = f"the filter {name!r} is a text, got {value!r}"
        raise UsageError(msg)
    if value is None:
        return None
    return check_text(value, f"the filter {name!r}")


def _one(filters: Selection, name: str) -> tuple[str, ...]:
    value = _text(filters, name)
    if value is not None:
        return (value,)
    return ()


def time_ms(name: str, at: object) -> int | None:
    """A point in time as milliseconds. A datetime without a zone is local time.

    Raises:
        UsageError: it is no datetime.
    """
    if at is None:
        return None
    if not isinstance(at, datetime):
        msg = f"{name} must be a datetime, got {at!r}"
        raise UsageError(msg)
    return int(at.timestamp() * 1000)


def _conditions(where: Any) -> tuple[Where, ...]:
    if isinstance(where, Where):
        where = (where,)
    conditions: tuple[Any, ...] = tuple(where)
    for condition in conditions:
        if not isinstance(condition, Where):
            msg = (
                "the filter 'where' is a list of conditions "
                f'such as Where("total", ">=", 100), got {condition!r}'
            )
            raise UsageError(msg)
    return conditions
