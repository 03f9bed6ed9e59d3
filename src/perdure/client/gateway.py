"""Gateways: the way from a client to the owners of instances."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from perdure.closing import is_held
from perdure.codec import digest
from perdure.errors import AlreadyStarted, NotFound, StoreError
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, UnitRow
from perdure.kernel.data.limits import Limits
from perdure.kernel.data.placement import scope_of
from perdure.kernel.unit.lifecycle import pending_row
from perdure.kernel.unit.turn import Outcome
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.moving import MovableStore
from perdure.ports.store import (
    Inbox,
    OwnedStore,
    Posted,
    SharedStore,
    Starts,
    Store,
    Units,
    UnitView,
)
from perdure.store.seal import refusal

_INBOX_PAGE = 500

# A start leaves the inbox in the commit that makes the row. That commit may come between the two
# queries of one look, so that the first look sees neither.
_LOOKS = 2

# Stores wake a waiter at each change that they notice. A look every few seconds finds the others.
_ROUND_MS = 5_000
# A caller who waits without any node is told so after this time.
_FIRST_ROUND_MS = 1_000

logger = logging.getLogger("perdure.client")


@dataclass(slots=True)
class Begun:
    """The run of a start: the run that it made, or the run that it joined.

    The poster of a start does not see how it is taken. Until its run is seen, `may_be_refused` says
    that the id may belong to another instance by then, and `twin` has the type and input digest of
    a run that it may have joined (without a digest: whatever its input).
    """

    run: bytes
    twin: tuple[str, str | None] | None = None
    may_be_refused: bool = False

    def may_have_joined(self, row: UnitRow) -> bool:
        """Whether the start fits the row, so that taking it now would join this run."""
        if self.twin is None:
            return False
        type_, input_digest = self.twin
        return row.type == type_ and input_digest in {None, row.input_digest}

    def settle(self, run: bytes) -> None:
        """Mean this run. From now on no other run of the id can be meant."""
        self.run = run
        self.twin = None
        self.may_be_refused = False


Began: TypeAlias = tuple[Outcome, Begun | None]
"""The outcome of a start, and the run that it began or joined (None: it was refused)."""


class Gateway(Protocol):
    """The way from a client to the owners of instances."""

    @property
    def store(self) -> Store:
        """The store for reading."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock that stamps messages."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits of payloads."""
        ...

    async def send(self, message: msg.Message) -> Outcome:
        """Deliver a message. Returns the outcome once it is durable."""
        ...

    async def post(self, message: msg.Message) -> Outcome:
        """Put a message into the store's inbox, which knows it when it comes again."""
        ...

    async def post_all(self, messages: Sequence[msg.Message]) -> list[Outcome]:
        """The same for several messages, which are durable together. The order is kept."""
        ...

    async def begin(self, message: msg.Message) -> Began:
        """Deliver a start. Returns what came of it once it is durable."""
        ...

    async def begin_all(self, messages: Sequence[msg.Message]) -> list[Began | StoreError]:
        """Deliver many starts together, and tell each one's outcome, or why it is not known.

        Which run was joined is not always found out.
        """
        ...

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        """Wait until a run has ended, or is held. Returns its row.

        Without `begun` it is the run that is current at the call. `through_suspension`: a run that
        is held is waited for as well.

        Raises:
            NotFound: there is no such run (any more), so its outcome is not kept.
        """
        ...

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait until the run that it began or joined has ended, or is held.

        The row is None if the start was refused.
        """
        ...

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait until the unit's row has another version than `version`, or the time is up."""
        ...


# ---------------------------------------------------------------- reading rows and starts that wait


@dataclass(frozen=True, slots=True)
class Found:
    """A unit's row.

    `version` is that of the row in the store (0: none). A caller can wait for its next change.
    `is_stored` is False when the row was made from a start that waits in the inbox.
    """

    row: UnitRow
    version: int
    is_stored: bool = True


async def find_row(store: Store, unit: str) -> UnitView | None:
    """The unit's row and version. None if there is none."""
    # A query and no load: the journal would be read, too, and any process may query.
    page = await store.query(Units(ids=(unit,), limit=1))
    if page.items:
        return page.items[0]
    return None


async def find_start(store: Store, unit: str, run: bytes | None = None) -> msg.Message | None:
    """A start that waits in the unit's inbox: the first one, or the one that will make `run`."""
    async for message in _waiting(store, unit):
        if isinstance(message.body, msg.Start) and run in (None, message.id):
            return message
    return None


async def _waiting(store: Store, unit: str) -> AsyncIterator[msg.Message]:
    """The messages that wait for a unit, in order."""
    after: str | None = None
    # All pages are read: one may stand behind any number of messages that came before it.
    while True:
        page = await store.query(Inbox(unit=unit, limit=_INBOX_PAGE, after=after))
        for message in page.items:
            yield message
        if page.next is None:
            return
        after = page.next


async def stays_held(store: Store, row: UnitRow, version: int) -> bool:
    """Whether a unit is held, and no `retry` is on its way to it.

    `row` and `version` were read before. A caller that has posted a `retry` sees them unchanged
    until a node has taken it, and must not be told of the state that it has just ended.
    """
    if not is_held(row):
        return False
    async for message in _waiting(store, row.id):
        if isinstance(message.body, msg.Retry):
            return False
    # It may have been taken between the two looks. Then there is another version.
    view = await find_row(store, row.id)
    return view is not None and view.version == version


async def find_unit(store: Store, unit: str) -> Found:
    """The unit's row. While its start waits in the inbox, a pending row is made from that.

    Raises:
        NotFound: there is neither.
    """
    for _ in range(_LOOKS):
        view = await find_row(store, unit)
        if view is not None:
            return Found(view.row, view.version)
        start = await find_start(store, unit)
        if start is not None:
            return Found(pending_of(start), 0, is_stored=False)
    msg_ = f"no instance has the id {unit!r}; check the id, or start it first"
    raise NotFound(msg_)


async def find_run(store: Store, unit: str, begun: Begun) -> Found:
    """The row of a run. While its start waits in the inbox, a pending row is made from that.

    The start may wait while another run has the id.

    Raises:
        AlreadyStarted: the id belongs to another instance, because the start was refused, or
            because its run was replaced.
        NotFound: the run is gone: deleted, or replaced by a new start of the same id.
    """
    view: UnitView | None = None
    for _ in range(_LOOKS):
        view = await find_row(store, unit)
        if view is not None and view.row.run == begun.run:
            return Found(view.row, view.version)
        start = await find_start(store, unit, begun.run)
        if start is not None:
            version = 0
            if view is not None:
                version = view.version
            return Found(pending_of(start), version, is_stored=False)
    # Neither a row nor a start of the run is there, so the start has been taken.
    if view is None or not begun.may_be_refused:
        raise gone(unit)
    if begun.may_have_joined(view.row):
        return Found(view.row, view.version)
    msg_ = (
        f"the id {unit!r} belongs to another run than the one of this start, which was refused, "
        "or replaced at once; use another id"
    )
    raise AlreadyStarted(msg_)


def gone(unit: str) -> NotFound:
    """The error of a wait for a run that is there no more."""
    return NotFound(
        f"the run of {unit!r} that was asked for is gone: it was deleted, or replaced by a new "
        "start of the same id. Its outcome is not kept; client.get(id) finds the run that has the "
        "id now"
    )


def pending_of(start: msg.Message) -> UnitRow:
    """The row of a start that waits for a node. No store has it."""
    assert isinstance(start.body, msg.Start)
    row = pending_row(start.to, start, start.body, start.scope)
    row.become("pending", "posted", start.visible_at or None, None)
    return row


def joins(row: UnitRow, start: msg.Start) -> bool:
    """Whether a start of the row's id means the same instance."""
    # The digest stands in the row, so that the input need not be read from the journal.
    return row.type == start.workflow and row.input_digest == digest(start.input)


# ---------------------------------------------------------------- a client that stands alone


def _taken(row: UnitRow, message: msg.Message) -> Began | None:
    """What a start finds if the row has its id. None: the start can be posted."""
    start = message.body
    assert isinstance(start, msg.Start)
    # A row of this very start (a run has the id of its start) is no other instance: the post is a
    # duplicate then.
    if row.run == message.id or start.if_exists == "replace":
        return None
    if start.if_exists == "renew" and row.status in CLOSED:
        return None
    if start.if_exists != "reject" and joins(row, start):
        return "joined", Begun(row.run)
    return "exists", None


def posted_start(message: msg.Message, outcome: Outcome) -> Began:
    """What is known of a start that was posted. Its owner decides later."""
    start = message.body
    assert isinstance(start, msg.Start)
    if outcome != "ok":
        return outcome, None
    twin = None
    if start.if_exists in {"join", "renew"}:
        twin = (start.workflow, digest(start.input))
    return "started", Begun(message.id, twin, may_be_refused=start.if_exists != "replace")


def _outcome_of(posted: Posted) -> Outcome:
    """The fate of a posted message, as senders are told it."""
    if posted.outcome in {"accepted", "duplicate"}:
        return "ok"
    if posted.outcome == "full":
        return "full"
    # The store refuses for one of two reasons, which it gives as the answer.
    if posted.answer == "closed":
        return "closed"
    return "missing"


class StoreGateway:
    """The way of a client without a node: post to the store, look at the store."""

    def __init__(
        self,
        store: Store,
        clock: Clock | None = None,
        limits: Limits | None = None,
        *,
        has_cluster: bool = False,
    ) -> None:
        """Use an open store. `has_cluster`: several nodes have it open."""
        self.store = store
        self._has_cluster = has_cluster
        if clock is not None:
            self.clock: Clock = clock
        else:
            self.clock = SystemClock()
        if limits is not None:
            self.limits = limits
        else:
            self.limits = Limits()
        # People are told once, however many instances are waited for.
        self._is_unowned = False

    async def send(self, message: msg.Message) -> Outcome:
        """Post it."""
        if isinstance(message.body, msg.Start):
            return (await self.begin(message))[0]
        return await self.post(message)

    async def begin(self, message: msg.Message) -> Began:
        """Post a start. It is only accepted here. The row shows later whether it joined a run."""
        before = await find_row(self.store, message.to)
        if before is not None:
            taken = _taken(before.row, message)
            if taken is not None:
                return taken
        return posted_start(message, await self.post(message))

    async def begin_all(self, messages: Sequence[msg.Message]) -> list[Began | StoreError]:
        """Post starts together, behind one look at the rows of their ids."""
        try:
            return list(await self._begin_all(messages))
        except StoreError as error:
            return [error] * len(messages)

    async def _begin_all(self, messages: Sequence[msg.Message]) -> list[Began]:
        ids = tuple({message.to for message in messages})
        # First the starts that wait: one that is taken in between has its row then.
        waiting = await self.store.query(Starts(ids=ids, limit=len(ids)))
        rows = {start.to: pending_of(start) for start in waiting.items}
        there = await self.store.query(Units(ids=ids, limit=len(ids)))
        rows |= {view.row.id: view.row for view in there.items}
        began: dict[int, Began] = {}
        posts: list[tuple[int, msg.Message]] = []
        for place, message in enumerate(messages):
            taken = None
            if message.to in rows:
                taken = _taken(rows[message.to], message)
            if taken is not None:
                began[place] = taken
            else:
                posts.append((place, message))
                rows[message.to] = pending_of(message)  # an id may come twice
        outcomes = await self.post_all([message for _, message in posts])
        for (place, message), outcome in zip(posts, outcomes, strict=True):
            began[place] = posted_start(message, outcome)
        return [began[place] for place in range(len(messages))]

    async def post(self, message: msg.Message) -> Outcome:
        """Put it into the inbox of its unit."""
        return (await self.post_all([message]))[0]

    async def post_all(self, messages: Sequence[msg.Message]) -> list[Outcome]:
        """Put them into inboxes, in one transaction."""
        for message in messages:
            # A start of a known workflow names the scope of its group.
            if not message.scope or not self._has_groups:
                message.wait_in(scope_of(message.to, self.store.info.shards))
        return [_outcome_of(posted) for posted in await self.store.post(messages)]

    @property
    def _has_groups(self) -> bool:
        """Whether the nodes of the store have groups. A node alone has none."""
        return self._has_cluster or isinstance(self.store, SharedStore)

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        """Watch the row until its run has ended, or is held."""
        round_ms = _FIRST_ROUND_MS
        while True:
            if begun is None:
                found = await find_unit(self.store, unit)
            else:
                found = await find_run(self.store, unit, begun)
            if found.row.status in CLOSED:
                return found.row
            if not through_suspension and await stays_held(self.store, found.row, found.version):
                return found.row
            # A run that was seen once is the one to wait for, whatever has the id afterwards.
            if found.is_stored:
                if begun is None:
                    begun = Begun(found.row.run)
                begun.settle(found.row.run)
            version = await self.store.wait_change(unit, found.version, round_ms)
            if version == found.version:
                await self._check_place()
                if round_ms == _FIRST_ROUND_MS:
                    await self._say_if_unowned(unit)
            round_ms = _ROUND_MS

    async def _check_place(self) -> None:
        """Nothing has changed for a while. Nothing ever will if the store has moved.

        Raises:
            StoreMoved: naming the new place.
        """
        if isinstance(self.store, MovableStore):
            seal = await self.store.seal()
            if seal is not None and seal.is_closed:
                raise refusal(seal, self.store.place)

    async def _say_if_unowned(self, unit: str) -> None:
        """Nothing has changed for a second. Perhaps no node is there to change anything."""
        if not isinstance(self.store, OwnedStore):
            return
        is_unowned = await self.store.owner() is None
        if is_unowned and not self._is_unowned:
            text = (
                "%r waits for a node: none runs on this store, and this wait goes on until one "
                "does; start it with `perdure serve`"
            )
            logger.warning(text, unit, extra={"instance": unit})
        self._is_unowned = is_unowned

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Post a start and watch for the end of its run."""
        outcome, begun = await self.begin(message)
        if begun is None:
            return outcome, None
        return outcome, await self.closed(message.to, begun)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Watch the row."""
        await self.store.wait_change(unit, version, within_ms)


class MeasuredGateway:
    """A gateway that measures each call of another one: verb, outcome and seconds.

    It is used only where metrics are recorded.
    """

    def __init__(
        self,
        gateway: Gateway,
        record: Callable[[str, str, float], None],
        timer: Callable[[], float],
    ) -> None:
        """`timer` returns seconds."""
        self._gateway = gateway
        self._record = record
        self._timer = timer

    @property
    def store(self) -> Store:
        """The store for reading."""
        return self._gateway.store

    @property
    def clock(self) -> Clock:
        """The clock that stamps messages."""
        return self._gateway.clock

    @property
    def limits(self) -> Limits:
        """The limits of payloads."""
        return self._gateway.limits

    async def send(self, message: msg.Message) -> Outcome:
        """Deliver a message."""
        with self._measured(_verb(message)) as outcome:
            answer = await self._gateway.send(message)
            outcome.append(answer)
        return answer

    async def post(self, message: msg.Message) -> Outcome:
        """Put a message into the store's inbox."""
        with self._measured(_verb(message)) as outcome:
            answer = await self._gateway.post(message)
            outcome.append(answer)
        return answer

    async def post_all(self, messages: Sequence[msg.Message]) -> list[Outcome]:
        """Put messages into the store's inbox. One call, whose verb is that of the first."""
        with self._measured(_verb(messages[0])) as outcome:
            answers = await self._gateway.post_all(messages)
            outcome.append(answers[-1])
        return answers

    async def begin(self, message: msg.Message) -> Began:
        """Deliver a start."""
        with self._measured("start") as outcome:
            answer, begun = await self._gateway.begin(message)
            outcome.append(answer)
        return answer, begun

    async def begin_all(self, messages: Sequence[msg.Message]) -> list[Began | StoreError]:
        """Deliver many starts. Each is counted, with the time that all of them took."""
        timer_began = self._timer()
        began = await self._gateway.begin_all(messages)
        took_s = self._timer() - timer_began
        for one in began:
            if isinstance(one, StoreError):
                self._record("start", type(one).__name__, took_s)
            else:
                self._record("start", one[0], took_s)
        return began

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        """Wait until the run has ended, or is held."""
        with self._measured("wait") as outcome:
            row = await self._gateway.closed(unit, begun, through_suspension=through_suspension)
            outcome.append(row.status)
        return row

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait for the end."""
        with self._measured("run") as outcome:
            answer, row = await self._gateway.run(message)
            ended: str = answer
            if row is not None:
                ended = row.status
            outcome.append(ended)
        return answer, row

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait for a change."""
        # Not measured: the time says something about the instance, not about the gateway.
        await self._gateway.changed(unit, version, within_ms)

    @contextmanager
    def _measured(self, verb: str) -> Generator[list[str], None, None]:
        """Measure a call. Its outcome is put into the list, or it is the name of its exception."""
        outcome: list[str] = []
        began = self._timer()
        try:
            yield outcome
        except BaseException as error:  # a cancelled call is counted, too
            outcome.append(type(error).__name__)
            raise
        finally:
            self._record(verb, outcome[0], self._timer() - began)


def _verb(message: msg.Message) -> str:
    body = message.body
    if isinstance(body, msg.Raise):
        return "raise_event"
    return type(body).__name__.lower()
