"""`perdure letters`: messages that no instance took."""

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
    shown = cli("letters", "ls")
    assert shown.code == 0
    lines = [line.split()[1:4] for line in shown.stdout.splitlines()]
    assert lines == [
        ["to", "kind", "from"],
        ["a", "Send", "writer"],
        ["b", "Send", "writer"],
        ["b", "Send", "writer"],
    ]
    document = cli("letters", "ls", "--json", "--limit", "2").json
    assert [one["unit"] for one in document["dead_letters"]] == ["a", "b"]
    assert document["dead_letters"][0]["at"] == "1970-01-01T00:16:40.000Z"
    rest = cli("letters", "ls", "--json", "--after", document["next"]).json
    assert ([one["unit"] for one in rest["dead_letters"]], rest["next"]) == (["b"], None)
    assert [one["unit"] for one in cli("letters", "ls", "a", "--json").json["dead_letters"]] == [
        "a"
    ]


def test_there_may_be_none(cli: Cli) -> None:
    asyncio.run(lose())
    shown = cli("letters", "ls")
    assert (shown.code, shown.stdout) == (0, "")
    assert "no dead letters" in shown.stderr


def test_one_that_did_not_fit_is_shown_sent_again_and_dropped(cli: Cli) -> None:
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0")
    for value in ('"yes"', '"no"'):
        cli("send", "a", "approved", value)
    late = cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0.5")
    assert late.code == 4
    first, second = cli("letters", "ls", "a", "--json").json["dead_letters"]
    assert "channel 'approved'" in first["reason"]
    shown = cli("letters", "show", first["message"], "--json").json
    assert shown["body"]["channel"] == "approved"
    assert shown["body"]["value"] in ("yes", "no")
    assert "channel 'approved'" in cli("letters", "show", first["message"]).stdout
    sent = cli("letters", "resend", first["message"][:12])
    assert (sent.code, sent.stdout) == (0, "resend: posted to a\n")
    dropped = cli("letters", "drop", second["message"], "--json")
    assert dropped.json == {"id": "a", "dropped": second["message"]}
    assert cli("letters", "ls", "--json").json["dead_letters"] == []
    # Nothing has changed in the code, so the letter that was sent again comes back.
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0.5")
    [back] = cli("letters", "ls", "--json").json["dead_letters"]
    assert back["message"] not in (first["message"], second["message"])


def test_what_is_no_letter_is_named(cli: Cli) -> None:
    asyncio.run(lose("a", "b"))
    for verb in ("show", "resend", "drop"):
        missing = cli("letters", verb, "zz")
        assert missing.code == 3
        assert "there is no dead letter 'zz'; perdure letters ls lists them" in missing.stderr
        several = cli("letters", verb, "")
        assert several.code == 2
        assert "2 dead letters begin with ''" in several.stderr
    letter = cli("letters", "ls", "a", "--json").json["dead_letters"][0]["message"]
    refused = cli("letters", "resend", letter)
    assert refused.code == 3
    assert "no instance has the id 'a'" in refused.stderr
    assert len(cli("letters", "ls", "--json").json["dead_letters"]) == 2
