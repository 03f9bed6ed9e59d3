"""The conformance suite of the store port, for every store, also those of others.

Ten lines in a test module run it (with pytest and pytest-asyncio in auto mode):

    import pytest
    from perdure.testing.conformance import StoreFactory, StoreSuite

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store_factory(self) -> StoreFactory:
            return lambda shards, limits: MyStore(shards=shards, limits=limits)

The factory makes a store that is not yet open. Each call makes a new, empty one, except under
`DurableSuite`, where all calls of one test name the same place. One section stands for each
guarantee of `perdure.ports.store`, and one for each part of the port.
"""

from __future__ import annotations

from perdure.testing.conformance.atomicity import Atomicity
from perdure.testing.conformance.attributes import Attributes
from perdure.testing.conformance.claims import Claims
from perdure.testing.conformance.concurrency import Concurrency
from perdure.testing.conformance.counting import Counting
from perdure.testing.conformance.delivery import Delivery
from perdure.testing.conformance.durability import Durability
from perdure.testing.conformance.failures import Failures
from perdure.testing.conformance.flaws import Flaws
from perdure.testing.conformance.inboxes import Inboxes
from perdure.testing.conformance.life import Life
from perdure.testing.conformance.lists import Lists
from perdure.testing.conformance.places import Places
from perdure.testing.conformance.programs import Programs
from perdure.testing.conformance.queues import InLine
from perdure.testing.conformance.resubmission import Resubmission
from perdure.testing.conformance.runs import Runs
from perdure.testing.conformance.scenario import Scenario, StoreFactory
from perdure.testing.conformance.sweeping import Sweeping
from perdure.testing.conformance.tasks import Tasks
from perdure.testing.conformance.values import Values
from perdure.testing.conformance.verdicts import Verdicts
from perdure.testing.conformance.waiting import Waiting
from perdure.testing.conformance.wakes import Wakes

__all__ = ["DurableSuite", "Scenario", "StoreFactory", "StoreSuite"]


class StoreSuite(
    Atomicity,
    Resubmission,
    Claims,
    Verdicts,
    Flaws,
    Delivery,
    Wakes,
    Failures,
    Inboxes,
    Places,
    Tasks,
    InLine,
    Runs,
    Programs,
    Values,
    Life,
    Sweeping,
    Lists,
    Attributes,
    Counting,
    Waiting,
    Concurrency,
):
    """The rules of every store. Subclass it and give it the fixture `store_factory`."""


class DurableSuite(Durability):
    """The additional rules of a store that keeps its content when it is closed."""
