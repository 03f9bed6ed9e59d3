"""Retries with the three backoffs, an error that is final, and the number of the attempt."""

from __future__ import annotations

import asyncio

from perdure import ActivityError, App, ApplicationError, RetryPolicy, activity

app = App("backoffs")

FIXED = RetryPolicy(maximum_attempts=4, initial_interval=0.02, backoff="fixed")  # 20, 20, 20 ms
LINEAR = RetryPolicy(maximum_attempts=4, initial_interval=0.02, backoff="linear")  # 20, 40, 60 ms
EXPONENTIAL = RetryPolicy(
    maximum_attempts=4, initial_interval=0.02, backoff="exponential"
)  # 20, 40, 80 ms


@app.activity
async def third_time_lucky() -> int:
    attempt = activity.info().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt} found nobody")
    return attempt


@app.activity(retry=EXPONENTIAL)
async def hopeless() -> None:
    raise ApplicationError("this card is stolen", type="StolenCard", retryable=False)


@app.workflow
async def stubborn() -> list[int]:
    return await asyncio.gather(
        *(third_time_lucky.with_options(retry=policy)() for policy in (FIXED, LINEAR, EXPONENTIAL))
    )


@app.workflow
async def not_stubborn() -> str:
    try:
        await hopeless()
    except ActivityError as error:
        return f"{error.failure.type}, not tried again"
    return "?"


async def main() -> None:
    async with app.node("memory://") as node:
        attempts = await node.client.workflow(stubborn, id="stubborn-1").run()
        final = await node.client.workflow(not_stubborn, id="not-stubborn-1").run()
    assert attempts == [3, 3, 3]
    assert final == "StolenCard, not tried again"
    print(attempts, final)


if __name__ == "__main__":
    asyncio.run(main())
