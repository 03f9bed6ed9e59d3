"""`perdure dead-letters`: messages for ids that no instance had."""

from __future__ import annotations

import asyncio

from invocation import Cli

from perdure.store.limits import StoreLimits
from perdure.store.sqlite import SQLiteStore
from perdure.testing.conformance import Scenario
from perdure.testing.conformance.scenario import NOW


async def lose(*units: str) -> None:
    limits = StoreLimits(undelivered_ms=1, dead_letter_ms=1_000)
    async with SQLiteStore("perdure.db", limits=limits) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied(
            "writer", post=[scenario.message(unit, sender="writer") for unit in units]
        )
        await scenario.sweep(NOW + 1)
        await store.release(scenario.fences())


def test_they_are_listed(cli: Cli) -> None:
    asyncio.run(lose("b", "a", "b"))
    shown = cli("dead-letters")
    assert shown.code == 0
    lines = [line.split()[:3] for line in shown.stdout.splitlines()]
    assert lines == [
        ["to", "kind", "from"],
        ["a", "Send", "writer"],
        ["b", "Send", "writer"],
        ["b", "Send", "writer"],
    ]
    document = cli("dead-letters", "--json", "--limit", "2").json
    assert [one["unit"] for one in document["dead_letters"]] == ["a", "b"]
    assert document["dead_letters"][0]["at"] == "1970-01-01T00:16:40.000Z"
    rest = cli("dead-letters", "--json", "--after", document["next"]).json
    assert ([one["unit"] for one in rest["dead_letters"]], rest["next"]) == (["b"], None)
    assert [one["unit"] for one in cli("dead-letters", "a", "--json").json["dead_letters"]] == ["a"]


def test_there_may_be_none(cli: Cli) -> None:
    asyncio.run(lose())
    shown = cli("dead-letters")
    assert (shown.code, shown.stdout) == (0, "")
    assert "no dead letters" in shown.stderr
