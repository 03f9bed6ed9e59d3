"""Clients: how anything outside starts instances, talks to them and reads them. A client runs no workflow code.

A client belongs to a node (`node.client`: messages reach the owner in memory), or stands alone on a store
(`async with Client.open(url)`: messages are posted to inboxes, and a node that owns them finds them there).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from msgspec.structs import replace

from perdure.errors import UsageError
from perdure.interceptor import Interceptor, check_interceptors, overriding
from perdure.kernel.attributes import AttributeValue
from perdure.kernel.commit import Status
from perdure.kernel.definition import normal_version
from perdure.kernel.placement import check_id
from perdure.kernel.retry import Seconds
from perdure.ports.clock import Clock
from perdure.ports.store import Counts, DeadLetter, DeadLetters, Page, QueueDepth, Store, Units
from perdure.ports.where import Where
from perdure.store import open_store
from perdure.workflow import Workflow

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from perdure.sync import LoopFactory, SyncClient

from perdure.description import Description, describe_row
from perdure.filter import Filter, Selection, units_query
from perdure.gateway import Gateway, MeasuredGateway, StoreGateway
from perdure.handle import Handle, IfExists, WorkflowHandle
from perdure.metrics import StoreMetrics, read_metrics, read_queues
from perdure.removal import Pruned, Removed, delete_many, keep, prune_many

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """Starts, finds and lists instances."""

    def __init__(self, gateway: Gateway, interceptors: Sequence[Interceptor] = ()) -> None:
        """Made by a node, or by `Client.open`."""
        self._gateway = gateway
        if interceptors:
            self._interceptors: Sequence[Interceptor] = overriding(interceptors, "send")
        else:
            self._interceptors = ()
        self._own_store: Store | None = None

    @classmethod
    def open(
        cls,
        store: str | Store,
        *,
        clock: Clock | None = None,
        interceptors: Sequence[Interceptor] = (),
        meter_provider: MeterProvider | None = None,
    ) -> Client:
        """A client from a store alone: `async with Client.open("sqlite:///shop.db") as client:`. A node elsewhere
        does the work. Metrics go to `meter_provider`, or to that of the process if it has one.
        """
        from perdure.node.metrics import ClientMetrics, find_provider

        opened = open_store(store)
        gateway: Gateway = StoreGateway(opened, clock)
        provider = find_provider(meter_provider)
        if provider is not None:
            metrics = ClientMetrics(provider)
            gateway = MeasuredGateway(gateway, metrics.called, metrics.timer)
        client = cls(gateway, check_interceptors(interceptors))
        if isinstance(store, str):
            client._own_store = opened
        else:
            client._own_store = None
        return client

    def sync(self, *, loop_factory: LoopFactory | None = None) -> SyncClient:
        """The same client for synchronous code: `with Client.open(url).sync() as client:`.

        It runs on an event loop of its own, on a thread of its own. `loop_factory` makes that loop;
        `uvloop.new_event_loop` is one.
        """
        from perdure.sync import SyncClient  # most programs never need it
        from perdure.sync.portal import Portal

        return SyncClient(self, Portal("the client", loop_factory))

    @property
    def store(self) -> Store:
        """The store that it reads."""
        return self._gateway.store

    async def __aenter__(self) -> Self:
        """Open the store, if it is ours."""
        if self._own_store is not None:
            await self._own_store.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store, if it is ours."""
        if self._own_store is not None:
            await self._own_store.__aexit__(kind, error, trace)

    @overload
    def workflow(
        self,
        definition: Workflow[P, R],
        *,
        id: str,
        if_exists: IfExists = "join",
        delay: Seconds | None = None,
        version: str | int | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> WorkflowHandle[P, R]: ...
    @overload
    def workflow(
        self,
        definition: str,
        *,
        id: str,
        if_exists: IfExists = "join",
        delay: Seconds | None = None,
        version: str | int | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> WorkflowHandle[..., Any]: ...
    def workflow(
        self,
        definition: Any,
        *,
        id: str,
        if_exists: IfExists = "join",
        delay: Seconds | None = None,
        version: str | int | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Any:
        """A handle to start, or to join, a workflow under an id. A name instead of the definition works without its
        code.

        `if_exists` is what a start does when the id is taken: `"join"` takes the one that is there if it has the same
        type and input, `"reject"` never does, `"replace"`
        ends it and starts anew. `delay` is the time before it begins. `version` is exact; None is what new runs get.
        `attributes` are the search attributes that it begins with; see `workflow.set_attributes`.
        """
        if not isinstance(definition, str | Workflow):
            msg_ = f"client.workflow() needs a workflow or its name, got {definition!r}"
            raise UsageError(msg_)
        if if_exists not in ("join", "reject", "replace"):
            msg_ = f"if_exists must be 'join', 'reject' or 'replace', got {if_exists!r}"
            raise UsageError(msg_)
        exact = None
        if version is not None:
            exact = normal_version(version)
        known: Workflow[..., Any] | str = definition  # pyright: ignore[reportUnknownVariableType]
        handle: WorkflowHandle[..., Any] = WorkflowHandle(
            self._gateway,
            known,
            id,
            if_exists=if_exists,
            delay=delay,
            version=exact,
            attributes=attributes,
            interceptors=self._interceptors,
        )
        return handle

    def get(self, id: str) -> Handle[Any]:
        """A handle to an instance that exists, by its id alone. Its result is plain data. It means the run that has
        the id at each call, unlike a handle that has started a run; see `Handle`.
        """
        return Handle(self._gateway, id, None, self._interceptors)

    async def list(
        self, *, limit: int | None = 100, **filters: Unpack[Filter]
    ) -> list[Description]:
        """Instances that fit all filters, newest first; `limit=None` for all of them. See `Filter` for the filters.

        Raises:
            UsageError: a filter has no such name, or a value that it cannot have.
        """
        found: list[Description] = []
        after: str | None = None
        while True:
            if limit is None:
                size = 500
            else:
                size = min(limit - len(found), 500)
            page = await self.page(size=size, after=after, **filters)
            found += page.items
            after = page.next
            if after is None or (limit is not None and len(found) >= limit):
                return found

    async def page(
        self, *, size: int = 100, after: str | None = None, **filters: Unpack[Filter]
    ) -> Page[Description]:
        """One page of `list`; its `next` is what to give as `after` for the following page (None: there is none)."""
        page = await self._gateway.store.query(units_query(filters, size, after))
        return Page([describe_row(view.row) for view in page.items], page.next)

    async def counts(self) -> dict[str, int]:
        """Number of instances by status, and of messages, tasks and dead letters that wait.

        Messages that nobody may see yet (delayed starts) are not counted.
        """
        return dict(
            (await self._gateway.store.query(Counts(at=self._gateway.clock.now_ms()))).items
        )

    async def metrics(self) -> StoreMetrics:
        """What the store holds: instances, executions, histories, messages, tasks, in one snapshot.

        It reads every instance's row (a second or so for a million of them); `counts` is cheaper.
        """
        return await read_metrics(self._gateway.store, self._gateway.clock.now_ms())

    async def queues(self) -> dict[str, QueueDepth]:
        """The tasks of each queue that has some, by name."""
        return await read_queues(self._gateway.store, self._gateway.clock.now_ms())

    async def dead_letters(
        self, *, unit: str | None = None, limit: int | None = 100
    ) -> Sequence[DeadLetter]:
        """Messages that were sent to an id that no instance had, by that id; of one id with `unit`.

        At most `limit` (None: all). A store keeps them for `StoreLimits.dead_letter_ms`.
        """
        found: list[DeadLetter] = []
        after: str | None = None
        while True:
            if limit is None:
                size = 1_000
            else:
                size = min(limit - len(found), 1_000)
            page = await self._gateway.store.query(DeadLetters(unit=unit, limit=size, after=after))
            found += page.items
            after = page.next
            if after is None or (limit is not None and len(found) >= limit):
                return found

    async def delete(
        self,
        ids: Sequence[str] = (),
        *,
        force: bool = False,
        forget: bool = False,
        reason: str = "",
        limit: int = 1_000,
        **filters: Unpack[Selection],
    ) -> Removed:
        """Remove the instances that fit all that is given, each with its tree; see `handle.delete` for one.

        Interceptors see a `delete` for each root. Filters choose roots only. What has not ended is skipped with the
        reason, unless `force`; so is a child that is asked for by id. At most `limit` are looked at, newest first.

        Raises:
            UsageError: nothing was given that chooses, or something that is no status, time, id or limit.
        """
        if not ids and not any(filters.values()):
            msg_ = "say what goes: ids, or filters such as type=, status=, id_prefix= or closed_before="
            raise UsageError(msg_)

        def delete_one(id: str) -> Awaitable[int]:
            return self.get(id).delete(force=force, forget=forget, reason=reason)

        return await delete_many(self._gateway, _chosen(ids, filters), delete_one, limit)

    async def prune(
        self,
        ids: Sequence[str] = (),
        *,
        keep_last: int | None = None,
        closed_before: datetime | None = None,
        type: str | None = None,
        status: Status | Sequence[Status] = (),
        id_prefix: str | None = None,
        where: Where | Sequence[Where] = (),
        limit: int = 1_000,
    ) -> Pruned:
        """Prune all instances that fit what is given, running ones too; see `handle.prune` for one. Interceptors see
        a `prune` for each instance.

        Raises:
            UsageError: neither `keep_last` nor `closed_before`, or something that is no status, time, id or limit.
        """
        keep(keep_last, closed_before)  # refuses what cannot be meant, also where no instance fits
        filters: Selection = {
            "type": type,
            "status": status,
            "id_prefix": id_prefix,
            "where": where,
        }

        def prune_one(id: str) -> Awaitable[list[int]]:
            return self.get(id).prune(keep_last=keep_last, closed_before=closed_before)

        return await prune_many(self._gateway, _chosen(ids, filters), prune_one, limit)


def _chosen(ids: Sequence[str], filters: Selection) -> Units:
    """What a bulk call is about."""
    if isinstance(ids, str):
        msg_ = f"ids must be a list of ids, got the text {ids!r}: give [{ids!r}]"
        raise UsageError(msg_)
    return replace(units_query(filters), ids=tuple(map(check_id, ids)))
