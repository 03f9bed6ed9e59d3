"""A tested workflow: time that skips, fakes for activities, the calls they got, and a history held against the code."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from perdure import App, RetryPolicy, testing, workflow

app = App("gym")
cancelled = workflow.Channel[str]("cancelled")
BEGIN = datetime(2026, 1, 31, tzinfo=UTC)


@app.activity(
    retry=RetryPolicy(maximum_attempts=4, initial_interval=3_600, maximum_interval=86_400)
)
async def charge(member: str, cents: int) -> str:
    return f"{member} paid {cents}"


@app.workflow
async def membership(member: str, cents: int, months: int) -> str:
    """A free trial of two weeks, then a charge each 30 days."""
    with suppress(TimeoutError):  # nobody cancels: the trial is over
        async with asyncio.timeout(14 * 86_400):
            return f"never a member: {await cancelled.receive()}"
    for _ in range(months):
        await charge(member, cents)
        await workflow.sleep(timedelta(days=30))
    return f"a member for {months} months"


async def test_a_trial_that_is_cancelled_costs_nothing() -> None:
    async with testing.node(app) as node:
        handle = node.client.workflow(membership, id="ada")
        await handle.start("Ada", 2_900, 12)
        await node.clock.sleep(timedelta(days=13))
        await handle.send(cancelled, "too loud")
        assert await handle.result() == "never a member: too loud"
        assert await node.calls(charge) == []


async def test_a_member_pays_each_month_and_a_bank_that_is_away_is_asked_again() -> None:
    answers = iter([ConnectionError("closed"), ConnectionError("closed"), "paid", "paid", "paid"])

    def fake(member: str, cents: int) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return f"{member} {answer} {cents}"

    async with testing.node(
        app, clock=testing.SkippingClock(BEGIN), activities={charge: fake}
    ) as node:
        assert (
            await node.client.workflow(membership, id="ada").run("Ada", 2_900, 3)
            == "a member for 3 months"
        )
        calls = await node.calls(charge)
        assert [call.attempts for call in calls] == [3, 1, 1]
        assert calls[0].arguments == {"member": "Ada", "cents": 2_900}
        assert calls[0].result == "Ada paid 2900"
        first, second, _ = [call.at - BEGIN for call in calls]
        assert first == timedelta(days=14)
        assert second == timedelta(
            days=44, hours=3
        )  # the bank was away for an hour, and then for two
        print(f"{len(calls)} months in no time:", *(f"{call.at:%Y-%m-%d %H:%M}" for call in calls))


async def test_what_a_member_has_done_so_far_fits_the_code() -> None:
    async with testing.node(app) as node:
        await node.client.workflow(membership, id="ada").start("Ada", 2_900, 12)
        await node.clock.sleep(timedelta(days=100))
        await node.restart()  # everything leaves memory
        history = await testing.export_history(
            node.store, "ada"
        )  # `perdure history ada --export FILE`
    replayed = testing.replay(app, history)
    print(f"{replayed.events} events of {replayed.id} fit the code")


async def test_a_wait_for_what_never_happens_says_so() -> None:
    async with testing.node(app, clock=testing.SkippingClock(patience=0)) as node:
        try:
            async with node.clock.waiting("a letter from Ada"):
                await asyncio.Event().wait()
        except testing.WaitsForever as error:
            print(str(error).splitlines()[0])
        else:
            raise AssertionError


async def main() -> None:  # pytest finds the tests by itself; this runs them without it
    await test_a_trial_that_is_cancelled_costs_nothing()
    await test_a_member_pays_each_month_and_a_bank_that_is_away_is_asked_again()
    await test_what_a_member_has_done_so_far_fits_the_code()
    await test_a_wait_for_what_never_happens_says_so()


if __name__ == "__main__":
    asyncio.run(main())
