"""Clients start instances from outside, send to them and read them. They run no workflow code.

A client belongs to a node (`node.client`), where messages reach the owner in memory. Or it stands
alone on a store (`async with Client.open(url)`). Then messages are posted to inboxes, where the
node that owns the instances finds them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from msgspec.structs import replace

from perdure.errors import StoreMoved, UsageError
from perdure.interceptor import Interceptor, check_interceptors, overriding
from perdure.kernel.data.attributes import AttributeValue
from perdure.kernel.data.commit import Status
from perdure.kernel.data.definition import normal_version
from perdure.kernel.data.placement import check_id
from perdure.kernel.data.retry import Seconds
from perdure.ports.clock import Clock
from perdure.ports.store import Counts, DeadLetter, DeadLetters, Page, QueueDepth, Store, Units
from perdure.ports.where import Where
from perdure.store import open_store
from perdure.store.seal import check_open
from perdure.workflow import Workflow

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from perdure.sync import LoopFactory, SyncClient

from perdure.client.bulk import PreparedStart, StartOutcome, start_each
from perdure.client.deletion import Pruned, Removed, delete_many, keep, prune_many
from perdure.client.description import Description, describe_row
from perdure.client.filter import Filter, Selection, units_query
from perdure.client.gateway import Gateway, MeasuredGateway, StoreGateway
from perdure.client.handle import Handle
from perdure.client.letters import resend
from perdure.client.pins import pin_to, unpin
from perdure.client.posted import posted_starts
from perdure.client.store_metrics import StoreMetrics, read_metrics, read_queues
from perdure.client.workflow_handle import IfExists, WorkflowHandle

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """Starts, finds and lists instances."""

    def __init__(
        self,
        gateway: Gateway,
        interceptors: Sequence[Interceptor] = (),
        own_store: Store | None = None,
    ) -> None:
        """Made by a node, or by `Client.open`. `own_store` is opened and closed by the client."""
        self._gateway = gateway
        self._interceptors = overriding(interceptors, "send")
        self._own_store = own_store

    @classmethod
    def open(
        cls,
        store: str | Store,
        *,
        clock: Clock | None = None,
        interceptors: Sequence[Interceptor] = (),
        meter_provider: MeterProvider | None = None,
    ) -> Client:
        """A client that stands alone: `async with Client.open("sqlite:///shop.db") as client:`.

        A node elsewhere does the work. Metrics go to `meter_provider`, or to that of the process if
        it has one. A store that is given as an object is opened and closed by the caller.
        """
        from perdure.node.telemetry.metrics import ClientMetrics, find_provider

        opened = open_store(store)
        gateway: Gateway = StoreGateway(opened, clock)
        provider = find_provider(meter_provider)
        # Without a provider nothing is measured, and no call is slower.
        if provider is not None:
            metrics = ClientMetrics(provider)
            gateway = MeasuredGateway(gateway, metrics.called, metrics.timer)
        checked = check_interceptors(interceptors)
        if isinstance(store, str):
            return cls(gateway, checked, own_store=opened)
        return cls(gateway, checked)

    def sync(self, *, loop_factory: LoopFactory | None = None) -> SyncClient:
        """The same client for synchronous code: `with Client.open(url).sync() as client:`.

        It runs on an event loop of its own, on a thread of its own. `loop_factory` makes that loop:
        `uvloop.new_event_loop` is a factory.
        """
        # Most programs never need them, and the portal registers a callback at its import.
        from perdure.sync import SyncClient
        from perdure.sync.portal import Portal

        return SyncClient(self, Portal("the client", loop_factory))

    @property
    def store(self) -> Store:
        """The store that it reads."""
        return self._gateway.store

    async def __aenter__(self) -> Self:
        """Open the store, if it is the client's own."""
        store = self._own_store
        if store is not None:
            await store.__aenter__()
            try:
                check_open(store)
            except StoreMoved as error:
                await store.__aexit__(type(error), error, error.__traceback__)
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store, if it is the client's own."""
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
        """A handle to start, or to join, a workflow under an id.

        A name instead of the definition works without its code. `if_exists` decides about an id
        that is taken: `"join"` takes the instance that is there if it has the same type and input,
        `"reject"` never does, `"replace"` ends it and starts anew, `"renew"` starts anew if it has
        ended, and is `"join"` otherwise. `delay` is the time before the instance begins.
        `version` is exact. None is the version of new runs. `attributes` are its first search
        attributes, as in `workflow.set_attributes`.
        """
        if not isinstance(definition, str | Workflow):
            msg_ = f"client.workflow() needs a workflow or its name, got {definition!r}"
            raise UsageError(msg_)
        if if_exists not in ("join", "reject", "replace", "renew"):
            msg_ = f"if_exists must be 'join', 'reject', 'replace' or 'renew', got {if_exists!r}"
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

    async def pin(self, id: str, *, node: str | None = None, label: str | None = None) -> None:
        """Have an instance run on the node of this name, or on nodes with this label (`zone=eu-1`).

        A pin is a wish: while no such node lives, or it lacks the code, another one runs the
        instance. It has moved when this returns. Activities that run meanwhile start again there.

        Raises:
            NotFound, NotRunning: there is no such instance (any more).
            Timeout: no node has moved it within 10 s. The request waits in its inbox.
            UsageError: the store has one node only, or neither or both of the two are given.
        """
        await pin_to(self._gateway, id, node, label)

    async def unpin(self, id: str) -> None:
        """Have an instance run again where its id leads to.

        Raises:
            NotFound, NotRunning, Timeout, UsageError: as `pin`.
        """
        await unpin(self._gateway, id)

    async def start_many(self, starts: Iterable[PreparedStart]) -> list[StartOutcome]:
        """Start many instances in few batches. Returns what came of each, in the same order.

            starts = (client.workflow(bill, id=f"bill-{n}").prepare(n) for n in customers)
            failed = [one for one in await client.start_many(starts) if one.error]

        One that is refused does not stop the others. `starts` is read bit by bit. After an
        interruption the same call may be made again: those that were started are `joined` then.

        Raises:
            UsageError: an item is no prepared start. Those of the batches before were started.
        """
        return [outcome async for outcome in self.iterate_starts(starts)]

    async def iterate_starts(self, starts: Iterable[PreparedStart]) -> AsyncIterator[StartOutcome]:
        """The same for more starts than should be in memory: outcomes come batch by batch.

        Nothing is started before the loop over the outcomes begins, or after it was left.

        Raises:
            UsageError: as `start_many`.
        """
        async for outcome in start_each(self._gateway, starts):
            yield outcome

    def get(self, id: str) -> Handle[Any]:
        """A handle to an instance that exists, by its id alone. Its result is plain data.

        It means the run that has the id at each call, unlike a handle that has started a run.
        """
        return Handle(self._gateway, id, None, self._interceptors)

    async def list(
        self, *, limit: int | None = 100, **filters: Unpack[Filter]
    ) -> list[Description]:
        """Instances that fit all filters, newest first. `limit=None` lists all of them.

        `Filter` has the filters. Starts that were posted and wait for a node come first: they are
        `pending` with the reason `posted`, and no instances yet.

        Raises:
            UsageError: there is no such filter, or it cannot have this value.
        """
        size = _page_size(500, limit, 0)
        posted = await posted_starts(self._gateway.store, units_query(filters, size), limit)
        first = await self.page(size=size, **filters)
        # A start that was taken between the two looks is in both.
        begun = {one.id for one in first.items}
        found = [describe_row(row) for row in posted if row.id not in begun]
        found += first.items
        after = first.next
        while after is not None and (limit is None or len(found) < limit):
            size = _page_size(500, limit, len(found))
            page = await self.page(size=size, after=after, **filters)
            found += page.items
            after = page.next
        return found[:limit]

    async def page(
        self, *, size: int = 100, after: str | None = None, **filters: Unpack[Filter]
    ) -> Page[Description]:
        """One page of `list`, without the posted starts.

        Its `next` is the `after` of the following page. None: the last one.
        """
        page = await self._gateway.store.query(units_query(filters, size, after))
        return Page([describe_row(view.row) for view in page.items], page.next)

    async def counts(self) -> dict[str, int]:
        """Number of instances by status, and of messages, tasks and dead letters that wait.

        `inbox` are the messages. Those that are not visible yet (delayed starts) are not counted.
        `starts` are the ids whose start no node has taken yet, with the delayed ones. They are no
        instances yet.
        """
        page = await self._gateway.store.query(Counts(at=self._gateway.clock.now_ms()))
        return dict(page.items)

    async def metrics(self) -> StoreMetrics:
        """One snapshot of the store: instances, executions, histories, messages, tasks.

        It reads every instance's row, about a second for a million of them. `counts` is cheaper.
        """
        return await read_metrics(self._gateway.store, self._gateway.clock.now_ms())

    async def queues(self) -> dict[str, QueueDepth]:
        """The tasks of each queue that has some, by name."""
        return await read_queues(self._gateway.store, self._gateway.clock.now_ms())

    async def dead_letters(
        self, *, unit: str | None = None, limit: int | None = 100
    ) -> Sequence[DeadLetter]:
        """Messages that no instance took, by the ids to which they were sent. `reason` says why.

        With `unit` those of one id. At most `limit` (None: all). A store keeps them for
        `StoreLimits.dead_letter_ms`.
        """
        found: list[DeadLetter] = []
        after: str | None = None
        while True:
            size = _page_size(1_000, limit, len(found))
            page = await self._gateway.store.query(DeadLetters(unit=unit, limit=size, after=after))
            found += page.items
            after = page.next
            if after is None or (limit is not None and len(found) >= limit):
                return found

    async def resend(self, letter: DeadLetter) -> None:
        """Send a dead letter to its id again, once, and remove it.

        Raises:
            NotFound, NotRunning, InboxFull: nothing was sent, and the letter is kept.
        """
        await resend(self._gateway, letter)

    async def drop(self, *letters: DeadLetter) -> int:
        """Remove dead letters. Returns how many were there."""
        return await self._gateway.store.drop_letters([one.message for one in letters])

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
        """Remove the instances that fit all arguments, each with its tree, as `handle.delete` does.

        Interceptors see a `delete` for each root. Filters choose roots only. A running instance is
        skipped with the reason, unless `force`. So is a child that is named by id. At most `limit`
        are looked at, newest first.

        Raises:
            UsageError: no argument chooses, or one is no status, time, id or limit.
        """
        # A call without a choice would delete everything, which can only be a mistake.
        if not ids and not any(filters.values()):
            msg_ = (
                "say what goes: ids, or filters such as type=, status=, id_prefix= or "
                "closed_before="
            )
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
        """Prune all instances that fit all arguments, running ones too, as `handle.prune` does.

        Interceptors see a `prune` for each instance.

        Raises:
            UsageError: neither `keep_last` nor `closed_before` is given, or an argument is no
                status, time, id or limit.
        """
        # Here, so that a wrong argument is refused where no instance fits, too.
        keep(keep_last, closed_before)
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
    """The query of a bulk call."""
    # A text would be a sequence of ids of one character each.
    if isinstance(ids, str):
        msg_ = f"ids must be a list of ids, got the text {ids!r}: give [{ids!r}]"
        raise UsageError(msg_)
    return replace(units_query(filters), ids=tuple(map(check_id, ids)))


def _page_size(largest: int, limit: int | None, found: int) -> int:
    """The size of the next page, so that a list ends at its limit."""
    if limit is None:
        return largest
    return min(limit - found, largest)
