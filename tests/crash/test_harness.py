"""The harness itself: it notices what it is there to notice, and says where."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from perdure import App, Client, RetryPolicy, activity, workflow
from perdure.errors import UsageError
from perdure.store.memory import MemoryStore
from perdure.testing.crash import (
    OutcomeDiffers,
    Scenario,
    crash_in_process,
    crash_in_processes,
    live,
    load_scenario,
)
from perdure.testing.faults import Points
from perdure.testing.outcome import Outcome, differences

SCENARIOS = Path(__file__).with_name("scenarios.py")


def test_it_finds_an_activity_whose_result_depends_on_what_only_memory_knows() -> None:
    app = App("forgetful")

    @app.resources
    async def calls() -> AsyncIterator[list[None]]:
        yield []

    @app.activity
    async def number() -> int:
        activity.resources(list).append(None)
        return len(activity.resources(list))

    @app.workflow
    async def numbered() -> int:
        return await number() - await number()

    async def script(client: Client) -> object:
        return await client.workflow(numbered, id="n").run()

    expected = (
        r"(?s)point \d+, after commit of n:.*returned 0, not -1.*instance n:.*history of n #1"
    )
    with pytest.raises(OutcomeDiffers, match=expected):
        crash_in_process(Scenario(app, script))


def test_it_finds_a_script_that_is_not_idempotent() -> None:
    app, lives = App("counting"), 0

    @app.workflow
    async def echo(n: int) -> int:
        return n

    async def script(client: Client) -> object:
        nonlocal lives
        lives += 1
        return await client.workflow(echo, id=f"echo-{lives}").run(7)

    with pytest.raises(OutcomeDiffers, match="instance echo-1"):
        crash_in_process(Scenario(app, script))


def test_a_wrong_result_is_the_scenarios_own_business() -> None:
    app = App("wrong")

    @app.workflow
    async def one() -> int:
        return 1

    async def script(client: Client) -> object:
        return await client.workflow(one, id="one").run()

    def check(result: object) -> None:
        assert result == 2, "it must be two"

    with pytest.raises(AssertionError, match="it must be two"):
        crash_in_process(Scenario(app, script, check=check))


def test_work_that_was_recorded_and_ran_again_is_a_difference() -> None:
    right = Outcome("1", {}, {"a #1": ["X(seq=1, n=1)", "Y(seq=2, n=2)"]}, {}, [])
    assert differences(right, right, ordered=True) == []
    again = msgspec.structs.replace(right, faults=["('a', 1, 2) ran again"])
    assert differences(right, again, ordered=True) == ["('a', 1, 2) ran again"]
    swapped = msgspec.structs.replace(right, histories={"a #1": ["Y(seq=1, n=2)", "X(seq=2, n=1)"]})
    assert differences(right, swapped, ordered=False) == []
    assert "history of a #1" in differences(right, swapped, ordered=True)[0]
    lost = msgspec.structs.replace(right, histories={"a #1": ["X(seq=1, n=1)"]})
    assert "-Y(n=2)" in differences(right, lost, ordered=False)[0]


def test_what_never_ends_is_named() -> None:
    app = App("endless")

    @app.workflow
    async def waits() -> None:
        await workflow.receive("never", str)

    async def script(client: Client) -> object:
        return await client.workflow(waits, id="w").run()

    with pytest.raises(
        OutcomeDiffers, match=r"not through within 1 s: w is running \(message never\)"
    ):
        crash_in_process(Scenario(app, script, patience_s=1))


def test_what_is_held_is_named_with_its_reason() -> None:
    async def script(client: Client) -> object:
        handle = client.workflow("absent", id="w")
        await handle.start()
        return await handle.result(through_suspension=True)

    with pytest.raises(
        OutcomeDiffers,
        match=r"w is suspended \(not_registered\): workflow 'absent' is not registered",
    ):
        crash_in_process(Scenario(App("empty"), script, patience_s=1))


def test_messages_of_a_script_arrive_once_however_often_it_runs() -> None:
    app = App("once")

    @app.workflow
    async def collect() -> list[int]:
        return [await workflow.receive("numbers", int) for _ in range(4)]

    async def script(client: Client) -> object:
        handle = client.workflow(collect, id="c")
        await handle.start()
        for n in (1, 1, 2, 3):
            await handle.send("numbers", n)
        return await handle.result()

    def check(result: object) -> None:
        assert result == [1, 1, 2, 3]

    assert crash_in_process(Scenario(app, script, ordered=False, check=check)).crashes > 10


def test_a_running_retry_wakes_nobody() -> None:
    app = App("patient")

    @app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
    async def second_time_lucky() -> int:
        if activity.info().attempt == 1:
            raise ConnectionError
        for _ in range(100):
            await asyncio.sleep(0)  # the node's loop goes round and round meanwhile
        return 2

    @app.workflow
    async def calls() -> int:
        return await second_time_lucky()

    async def script(client: Client) -> object:
        return await client.workflow(calls, id="c").run()

    async def count_alarms() -> int:
        points = Points(None, kill=False)
        async with MemoryStore() as store:
            outcome = await live(Scenario(app, script), store, points)
        assert outcome.result == "2"
        return points.names.count("alarm")

    assert asyncio.run(count_alarms()) <= 4


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure.testing.crash", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def test_the_program_is_killed_at_the_point_it_is_told_and_goes_on_when_it_runs_again(
    tmp_path: Path,
) -> None:
    life = ("run", f"{SCENARIOS}:chain_scenario", "--store", f"sqlite:///{tmp_path}/x.db")
    killed = harness(*life, "--kill-at", "12")
    assert killed.returncode == -9
    assert not killed.stdout
    done = harness(*life)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["result"] == "15"
    assert outcome["instances"]["chain"].startswith("chain 1.0.0: completed")
    assert outcome["faults"] == []


@pytest.mark.parametrize(
    "target", ["no_such_module:x", f"{SCENARIOS}:no_such_name", "no_such_file.py:x", "nothing"]
)
def test_a_target_that_is_no_scenario_is_named(target: str) -> None:
    with pytest.raises(
        UsageError, match=f"{target}.*names no scenario.*module:name or file.py:name"
    ):
        load_scenario(target)


def test_a_target_that_is_something_else_is_named() -> None:
    with pytest.raises(UsageError, match=r"is a App, not a perdure\.testing\.crash\.Scenario"):
        load_scenario(f"{SCENARIOS}:app")


def test_an_error_in_a_process_of_its_own_comes_with_its_traceback(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from perdure import App\n"
        "from perdure.testing.crash import Scenario\n"
        "async def script(client):\n"
        "    raise ArithmeticError('this script is broken')\n"
        "scenario = Scenario(App('broken'), script)\n"
    )
    with pytest.raises(OutcomeDiffers, match=r"(?s)ended with 1.*this script is broken"):
        crash_in_processes(f"{broken}:scenario")
