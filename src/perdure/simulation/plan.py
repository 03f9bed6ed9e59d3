"""What a seed chooses. Each part has a stream of chance of its own, so that one can be left out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, get_args

from perdure.simulation.customers import CUSTOMERS
from perdure.simulation.troubles import FOR
from perdure.simulation.world import RATES, Kind

if TYPE_CHECKING:
    from perdure.testing.mishaps import Mishap

NODES_MAX = 5


@dataclass(frozen=True)
class Part:
    """A customer or a trouble. `name` has its kind and its number, `door` is where it comes in."""

    name: str
    door: str = ""

    @property
    def kind(self) -> str:
        """Which one it is."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class Plan:
    """A run: its world, those who act in it, and what goes wrong."""

    seed: int
    kind: Kind
    nodes: int
    boxes: int
    customers: tuple[Part, ...]
    troubles: tuple[Part, ...]
    mishaps: tuple[Mishap, ...]

    def stream(self, name: str) -> Random:
        """The chance of one part, which no other part changes."""
        # From a text: its number does not depend on the process.
        return Random(f"{self.seed}/{name}")

    def rates(self) -> dict[Mishap, float]:
        """The probability of each of its mishaps."""
        return {mishap: RATES[mishap] for mishap in self.mishaps}

    @property
    def names(self) -> list[str]:
        """All that may be left out."""
        parts = [part.name for part in (*self.customers, *self.troubles)]
        return [*parts, *self.mishaps]

    def without(self, names: Collection[str]) -> Plan:
        """The same run, without some of its customers, troubles and mishaps."""
        return replace(
            self,
            customers=tuple(part for part in self.customers if part.name not in names),
            troubles=tuple(part for part in self.troubles if part.name not in names),
            mishaps=tuple(mishap for mishap in self.mishaps if mishap not in names),
        )

    def describe(self) -> str:
        """What was chosen, for people."""
        customers = [f"{part.name} by {part.door}" for part in self.customers]
        parts = [*customers, *(part.name for part in self.troubles), *self.mishaps]
        return f"{self.nodes} nodes, {self.kind}, {self.boxes} boxes, {', '.join(parts)}"


def plan(seed: int) -> Plan:
    """Choose from a seed."""
    random = Random(f"{seed}/plan")
    kind: Kind = random.choices(get_args(Kind), (6, 3, 2))[0]
    nodes = 1
    if kind == "leases":
        nodes = random.choice([1, 2, 3, 3, 3, 4, NODES_MAX])
    elif kind == "dealt":
        nodes = random.choice([2, 2, 3])
    names = [f"node-{number}" for number in range(nodes)]
    # Most come by a node: only there does anything go past the store.
    doors = [*names, *names, "outside"]
    if nodes == 1:
        doors = [*names, "outside"]
    customers = [
        Part(f"{random.choice(list(CUSTOMERS))}-{number}", random.choice(doors))
        for number in range(random.randrange(3, 9))
    ]
    troubles = [
        Part(f"{random.choice(FOR[kind])}-{number}") for number in range(random.randrange(5))
    ]
    mishaps: list[Mishap] = [m for m in RATES if random.random() < 0.3]
    if kind != "alone" and "commit overtaken" in mishaps:
        # No other process writes with an owner's own fence, so that this would only hide others.
        mishaps.remove("commit overtaken")
    return Plan(
        seed,
        kind,
        nodes,
        random.randrange(1, 4),
        tuple(customers),
        tuple(troubles),
        tuple(mishaps),
    )
