"""Metrics: plain numbers that every node has, and the same facts for a meter provider of OpenTelemetry."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from opentelemetry import metrics as otel

from perdure import App, RetryPolicy, activity

app = App("metrics")


@app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=0.01))
async def charge(cents: int) -> str:
    if activity.info().attempt == 1:
        raise ConnectionError("the bank is away")
    return f"charged {cents}"


@app.workflow
async def checkout(cents: int) -> str:
    return await charge(cents)


class Printed(otel.MeterProvider):
    """The smallest provider that shows something. Yours is `opentelemetry.sdk.metrics.MeterProvider`."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()

    def get_meter(self, *args: Any, **kwargs: Any) -> otel.Meter:
        return PrintedMeter(self.totals)


class PrintedMeter(otel.NoOpMeter):
    def __init__(self, totals: Counter[str]) -> None:
        super().__init__("perdure")
        self.totals = totals

    def create_counter(self, name: str, unit: str = "", description: str = "") -> otel.Counter:
        return PrintedCounter(self.totals, name)


class PrintedCounter(otel.Counter):
    def __init__(self, totals: Counter[str], name: str) -> None:
        super().__init__(name)
        self.totals, self.name = totals, name

    def add(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        labels = ", ".join(
            f"{key.removeprefix('perdure.')}={value}" for key, value in (attributes or {}).items()
        )
        self.totals[f"{self.name}{{{labels}}}"] += int(amount)


async def main() -> None:
    provider = Printed()
    async with app.node("memory://", meter_provider=provider) as node:
        await asyncio.gather(
            *(node.client.workflow(checkout, id=f"order-{n}").run(100 * n) for n in range(3))
        )
        numbers = node.metrics
    print(f"{numbers.completed} of {numbers.started} orders completed in {numbers.turns} turns;")
    print(f"{numbers.attempts} attempts to charge, of which {numbers.attempt_failures} failed")
    for name, total in sorted(provider.totals.items()):
        print(f"{total:>4}  {name}")
    assert (numbers.started, numbers.completed, numbers.attempts, numbers.attempt_failures) == (
        3,
        3,
        6,
        3,
    )
    tried = "perdure.activity.attempts{activity=charge, queue=, attempt=%s, outcome=%s}"
    assert (
        provider.totals[tried % ("first", "failed")]
        == provider.totals[tried % ("retry", "completed")]
        == 3
    )


if __name__ == "__main__":
    asyncio.run(main())
