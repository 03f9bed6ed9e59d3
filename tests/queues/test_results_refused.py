"""A store that takes a result in no form: the worker goes on with the results of others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from perdure.kernel.data.message import ActivityDone, Message
from perdure.node.queues.results import Results


class Picky:
    """Refuses all results of one unit."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def post(self, batch: list[Message]) -> list[Any]:
        for message in batch:
            if message.to == "bad":
                raise ValueError("not storable")
        self.taken += [message.to for message in batch]
        return [SimpleNamespace(outcome="accepted") for _ in batch]


def held(unit: str) -> Any:
    message = Message(b"m", unit, ActivityDone(b"r", 1, 1, 1), 1)
    return SimpleNamespace(result=message, describe=lambda: f"a task of {unit!r}", ids=dict)


async def test_a_result_that_is_refused_in_every_form_keeps_no_other() -> None:
    store = Picky()
    settled: list[Any] = []
    results = Results(store, settled.extend)  # type: ignore[arg-type]
    for unit in ("one", "bad", "two"):
        results.add(held(unit))
    assert await results.post()
    assert store.taken == ["one", "two"]
    assert len(settled) == 3
    assert results.are_posted
