"""Gateways: the way from a client to the owners of instances."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from perdure.codec import digest
from perdure.errors import NotFound
from perdure.kernel import message as msg
from perdure.kernel.commit import CLOSED, UnitRow
from perdure.kernel.lifecycle import pending_row
from perdure.kernel.limits import Limits
from perdure.kernel.turn import Outcome
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.store import Inbox, Store, Units, UnitView


class Gateway(Protocol):
    """The way from a client to the owners of instances."""

    @property
    def store(self) -> Store:
        """What is read."""
        ...

    @property
    def clock(self) -> Clock:
        """What messages are stamped with."""
        ...

    @property
    def limits(self) -> Limits:
        """What payloads are checked against."""
        ...

    async def send(self, message: msg.Message) -> Outcome:
        """Deliver a message; the outcome once it is durable."""
        ...

    async def closed(self, unit: str) -> UnitRow:
        """Wait until the unit has ended; its row. Raises NotFound if there is none."""
        ...

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait for the end."""
        ...

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait until the unit's row has another version than `version`, or the time is up."""
        ...


async def find_unit(store: Store, unit: str) -> UnitView:
    """The unit's row; a pending one made from its start where that waits in the inbox still.

    Raises:
        NotFound: there is neither.
    """
    for _ in range(2):  # a start leaves the inbox in the commit that makes the row, which may come between two queries
        page = await store.query(Units(ids=(unit,), limit=1))
        if page.items:
            return page.items[0]
        for message in (await store.query(Inbox(unit=unit))).items:
            if isinstance(message.body, msg.Start):
                return UnitView(pending_row(unit, message, message.body, store.info.shards), 0)
    msg_ = f"no instance has the id {unit!r}; check the id, or start it first"
    raise NotFound(msg_)


class StoreGateway:
    """The way of a client without a node: post to the store, look at the store."""

    def __init__(self, store: Store, clock: Clock | None = None, limits: Limits | None = None) -> None:
        """Use an open store."""
        self.store = store
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.limits = limits if limits is not None else Limits()

    async def send(self, message: msg.Message) -> Outcome:
        """Post it. A start is only accepted here; whether it joined is seen from the row."""
        if isinstance(message.body, msg.Start):
            before = await self._row(message.to)
            if before is not None and message.body.if_exists != "replace":
                same = before.type == message.body.workflow and before.input_digest == digest(message.body.input)
                return "joined" if same and message.body.if_exists == "join" else "exists"
        posted = (await self.store.post([message]))[0]
        match posted.outcome:
            case "accepted" | "duplicate":
                return "started" if isinstance(message.body, msg.Start) else "ok"
            case "full":
                return "full"
            case _:
                return "closed" if posted.answer == "closed" else "missing"

    async def _row(self, unit: str) -> UnitRow | None:
        page = await self.store.query(Units(ids=(unit,), limit=1))
        return page.items[0].row if page.items else None

    async def closed(self, unit: str) -> UnitRow:
        """Watch the row until it has ended."""
        while True:
            view = await find_unit(self.store, unit)
            if view.row.status in CLOSED:
                return view.row
            await self.store.wait_change(unit, view.version, 5_000)

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Post a start and watch for the end."""
        outcome = await self.send(message)
        return outcome, (await self.closed(message.to) if outcome != "exists" else None)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Watch the row."""
        await self.store.wait_change(unit, version, within_ms)


class MeasuredGateway:
    """The same way, that says how each call went: verb, outcome and seconds. Used where somebody records metrics."""

    def __init__(self, gateway: Gateway, record: Callable[[str, str, float], None], timer: Callable[[], float]) -> None:
        """`timer` gives seconds."""
        self._gateway = gateway
        self._record = record
        self._timer = timer

    @property
    def store(self) -> Store:
        """What is read."""
        return self._gateway.store

    @property
    def clock(self) -> Clock:
        """What messages are stamped with."""
        return self._gateway.clock

    @property
    def limits(self) -> Limits:
        """What payloads are checked against."""
        return self._gateway.limits

    async def send(self, message: msg.Message) -> Outcome:
        """Deliver a message."""
        with self._measured(_verb(message)) as outcome:
            outcome.append(answer := await self._gateway.send(message))
        return answer

    async def closed(self, unit: str) -> UnitRow:
        """Wait until the unit has ended."""
        with self._measured("wait") as outcome:
            row = await self._gateway.closed(unit)
            outcome.append(row.status)
        return row

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait for the end."""
        with self._measured("run") as outcome:
            answer, row = await self._gateway.run(message)
            outcome.append(row.status if row is not None else answer)
        return answer, row

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait for a change; how long that takes is up to others."""
        await self._gateway.changed(unit, version, within_ms)

    @contextmanager
    def _measured(self, verb: str) -> Generator[list[str], None, None]:
        outcome: list[str] = []
        began = self._timer()
        try:
            yield outcome
        except BaseException as error:
            outcome.append(type(error).__name__)
            raise
        finally:
            self._record(verb, outcome[0], self._timer() - began)


def _verb(message: msg.Message) -> str:
    body = message.body
    return "raise_event" if isinstance(body, msg.Raise) else type(body).__name__.lower()
