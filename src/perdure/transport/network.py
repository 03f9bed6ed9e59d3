"""A network between the nodes of one process, with the faults that a test asks for.

Time is that of the clock. Chance comes from the seed, for each link and direction apart, so that
the same run has the same faults whatever else happens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Protocol, TypeAlias

import msgspec

from perdure.ports.clock import Alarm, Clock, SystemClock
from perdure.ports.transport import Envelope
from perdure.transport.frame import size_of

OVERTAKES = 16
"""How many earlier envelopes an envelope may overtake."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to envelopes: shares from 0 to 1, and a delay from and to.

    Without `reorder` a delay keeps the order. The handshake is delayed, and has no other faults.
    """

    drop: float = 0
    duplicate: float = 0
    reorder: float = 0
    delay_ms: tuple[int, int] = (0, 0)


class HangUp:
    """The end of what an end has sent."""


HANG_UP = HangUp()
Item: TypeAlias = Envelope | bytes | HangUp
"""What travels: an envelope, a message of the handshake, or the end."""


class End(Protocol):
    """One end of a connection."""

    def taken(self) -> None:
        """The other end has taken something."""
        ...

    def take(self, items: Sequence[Item]) -> None:
        """Take what the other end has sent."""
        ...

    def broken(self) -> None:
        """The connection is no more."""
        ...


class Network:
    """What lies between the nodes of one process."""

    def __init__(
        self, seed: int = 0, clock: Clock | None = None, faults: Faults | None = None
    ) -> None:
        """Begin whole. Faults come from `seed`, and time from `clock`."""
        self.clock: Clock = clock or SystemClock()
        self._seed = seed
        self._faults = faults or Faults()
        self._pairs: dict[tuple[str, str], int] = {}
        self._groups: list[frozenset[str]] = []
        self._stalled: set[str] = set()
        # As the keys of a dict: a set has another order in each process.
        self._lanes: dict[Lane, None] = {}

    @property
    def faults(self) -> Faults:
        """What happens to envelopes that are sent now."""
        return self._faults

    def use(self, faults: Faults) -> None:
        """Have these faults from now on."""
        self._faults = faults

    def partition(self, *groups: Collection[str]) -> None:
        """Let nodes reach only those of their own group, by name. Nodes of no group are one."""
        self._groups = [frozenset(group) for group in groups]

    def heal(self) -> None:
        """Let all nodes reach each other."""
        self._groups = []

    def stall(self, node: str) -> None:
        """Let a node read nothing, as one that is stopped, until `resume`."""
        self._stalled.add(node)

    def resume(self, node: str) -> None:
        """Let a node read again."""
        self._stalled.discard(node)
        for lane in list(self._lanes):
            lane.look()

    def cut(self, node: str) -> None:
        """End all links of a node without a farewell, as the death of its process does."""
        for lane in list(self._lanes):
            if node in (lane.sender, lane.receiver):
                lane.cut()

    # ------------------------------------------------------------ for the transports

    def reaches(self, sender: str, receiver: str) -> bool:
        """Whether what one node sends comes to the other."""
        return self._group_of(sender) == self._group_of(receiver)

    def _group_of(self, node: str) -> int:
        for number, group in enumerate(self._groups):
            if node in group:
                return number
        return -1

    def is_stalled(self, node: str) -> bool:
        """Whether the node reads nothing."""
        return node in self._stalled

    def chance(self, sender: str, receiver: str) -> Random:
        """The source of chance of a new lane."""
        number = self._pairs.get((sender, receiver), 0)
        self._pairs[sender, receiver] = number + 1
        return Random(f"{self._seed}/{sender}/{receiver}/{number}")

    def add(self, lane: Lane) -> None:
        """Note a lane in use."""
        self._lanes[lane] = None

    def remove(self, lane: Lane) -> None:
        """Forget a lane."""
        self._lanes.pop(lane, None)


class Lane:
    """What is on its way from one end to the other."""

    def __init__(self, network: Network, sender: str, receiver: str, ends: tuple[End, End]):
        """Lead from the first end to the second."""
        self.sender = sender
        self.receiver = receiver
        self._network = network
        self._from, self._to = ends
        self._chance = network.chance(sender, receiver)
        self._items: list[tuple[int, int, int, Item]] = []
        self._numbers = count()
        self._last_ms = 0
        self._alarm: Alarm | None = None
        self._armed_ms = 0
        self.sent_bytes = 0
        self.taken_bytes = 0
        network.add(self)

    def send(self, item: Item) -> None:
        """Send something, with the faults of the network."""
        if not self._network.reaches(self.sender, self.receiver):
            return
        faults = self._network.faults
        copies = 1
        overtakes = 0
        if isinstance(item, Envelope):
            # Drawn always, so that one fault more or less does not change when the others come.
            dice = [self._chance.random() for _ in range(3)]
            if dice[0] < faults.drop:
                return
            if dice[1] < faults.duplicate:
                copies = 2
            if dice[2] < faults.reorder:
                overtakes = self._chance.randint(1, OVERTAKES)
        for _ in range(copies):
            self._put(item, self._due(overtakes), next(self._numbers) - overtakes)

    def _due(self, overtakes: int) -> int:
        due_ms = self._network.clock.now_ms() + self._chance.randint(*self._network.faults.delay_ms)
        if overtakes:
            return due_ms
        self._last_ms = max(self._last_ms, due_ms)
        return self._last_ms

    def _put(self, item: Item, due_ms: int, place: int) -> None:
        # A second number, because two items can have the same place, and cannot be compared.
        heappush(self._items, (due_ms, place, next(self._numbers), item))
        self.sent_bytes += _bytes_of(item)
        self.look()

    def look(self) -> None:
        """Arm for the next item, if it can be delivered."""
        if not self._items or self._network.is_stalled(self.receiver):
            return
        due_ms = self._items[0][0]
        if self._alarm is not None:
            if self._armed_ms <= due_ms:
                return
            self._alarm.cancel()
        self._armed_ms = due_ms
        self._alarm = self._network.clock.call_at(due_ms, self._deliver)

    def _deliver(self) -> None:
        self._alarm = None
        if self._network.is_stalled(self.receiver):
            return
        now_ms = self._network.clock.now_ms()
        batch: list[Item] = []
        while self._items and self._items[0][0] <= now_ms:
            item = heappop(self._items)[3]
            self.taken_bytes += _bytes_of(item)
            # What is on its way when a network falls apart is lost as well.
            if self._network.reaches(self.sender, self.receiver):
                batch.append(item)
        self._to.take(batch)
        self._from.taken()
        self.look()

    def cut(self) -> None:
        """End both ends now. What is on its way is lost."""
        self._from.broken()
        self._to.broken()

    def close(self) -> None:
        """Deliver nothing more."""
        self._items.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._network.remove(self)


def _bytes_of(item: Item) -> int:
    if isinstance(item, Envelope):
        return size_of(item)
    return 0
