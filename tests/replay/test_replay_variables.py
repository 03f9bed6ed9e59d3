"""KV, status and the flag that tells a replay: what a run remembers, read again as it was."""

from __future__ import annotations

from typing import Any

import pytest
from replay.harness import T0, Rig, called, done, finished, greet, started

from perdure import Limits, workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data.commit import KvEntry

kv = workflow.kv


def entry(found: KvEntry) -> tuple[str, bytes | None, bytes | None, int]:
    """An entry without its times."""
    return found.key, found.value, found.base, found.execution


def put(key: str, value: object) -> ev.KvSet:
    return ev.KvSet(key, encode(value))


async def _set_then_call() -> Any:
    kv.set("a", 1)
    await greet("x")
    return {k: kv.get(k, object) for k in kv.keys()}


# ---------------------------------------------------------------- one event per change


def test_each_change_is_one_event():
    async def main() -> None:
        kv.set("a", 1)
        kv.set("a", 2)
        kv.set("b", None)
        kv.delete("a")
        kv.delete("never set")
        kv.clear()

    rig = Rig(main)
    rig.start()
    expected = [put("a", 1), put("a", 2), put("b", None), ev.KvDeleted("a"), ev.KvCleared()]
    assert rig.events[1:-1] == expected


def test_changes_keep_their_place_between_activities():
    async def main() -> None:
        kv.set("a", 1)
        await greet("x")
        kv.set("a", 2)
        await greet("y")
        kv.delete("a")

    rig = Rig(main)
    rig.start()
    rig.turn(done(1, ""))
    rig.turn(done(2, ""))
    kinds = [type(e).__name__ for e in rig.history]
    assert kinds == [
        *["Started", "KvSet", "ActivityScheduled"],
        *["ActivityCompleted", "KvSet", "ActivityScheduled"],
        *["ActivityCompleted", "KvDeleted", "Completed"],
    ]


def test_a_change_needs_no_answer():
    async def main() -> int | None:
        kv.set("a", 1)
        return kv.get("a", int)

    rig = Rig(main)
    turn = rig.start()
    assert (rig.result, turn.calls) == (1, [])


# ---------------------------------------------------------------- read again


REPLAYED: dict[str, tuple[list[ev.Event], Any, dict[str, object]]] = {
    "set": ([put("a", 1)], lambda: kv.set("a", 1), {"a": 1}),
    "set twice": ([put("a", 1), put("a", 2)], lambda: (kv.set("a", 1), kv.set("a", 2)), {"a": 2}),
    "cleared, then set": (
        [put("a", 1), ev.KvCleared(), put("b", 2)],
        lambda: (kv.set("a", 1), kv.clear(), kv.set("b", 2)),
        {"b": 2},
    ),
    "deleted": (
        [put("a", 1), put("b", 2), ev.KvDeleted("a")],
        lambda: (kv.set("a", 1), kv.set("b", 2), kv.delete("a")),
        {"b": 2},
    ),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_a_replay_ends_with_the_same_entries(name: str):
    recorded, change, expected = REPLAYED[name]

    async def main() -> Any:
        change()
        await greet("x")
        return {k: kv.get(k, object) for k in kv.keys()}

    rig = Rig(main).store(started(), *recorded, called(1, "x"), finished(1, ""))
    turn = rig.turn()
    assert rig.result == expected
    assert turn.commit is not None
    assert not turn.commit.kv, "the store has them already"


CHANGED: dict[str, tuple[ev.Event, Any, str]] = {
    "key": (put("a", 1), lambda: kv.set("b", 1), "a change of the KV key 'a'"),
    "value": (put("a", 1), lambda: kv.set("a", 2), "a change of the KV key 'a'"),
    "key deleted": (ev.KvDeleted("a"), lambda: kv.delete("b"), "a change of the KV key 'a'"),
    "set, code deletes": (put("a", 1), lambda: kv.delete("a"), "a change of the KV key 'a'"),
    "set, code clears": (put("a", 1), lambda: kv.clear(), "a change of the KV key 'a'"),
    "cleared, code sets": (ev.KvCleared(), lambda: kv.set("a", 1), "KvCleared"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_change_that_differs_is_reported(name: str):
    recorded, change, journal = CHANGED[name]

    async def main() -> None:
        change()
        await greet("x")

    rig = Rig(main).store(started(), recorded, called(1, "x"), kv={"a": 0, "b": 0})
    rig.turn()
    assert rig.held.type == "NondeterminismError"
    assert f"the journal has {journal}" in rig.held.message
    assert rig.status == "suspended"


# ---------------------------------------------------------------- over turns, loads and executions


def test_what_was_there_before_is_seen():
    async def main() -> Any:
        return {k: kv.get(k, object) for k in kv.keys()}

    rig = Rig(main).store(started(), kv={"b": 2, "a": "one"})
    rig.turn()
    assert rig.result == {"a": "one", "b": 2}


def test_what_the_code_writes_goes_before_what_was_there():
    rig = Rig(_set_then_call).store(started(), put("a", 1), called(1, "x"), kv={"a": 0, "b": 2})
    rig.turn(done(1, ""))
    assert rig.result == {"a": 1, "b": 2}


def test_a_value_is_seen_in_the_same_turn_and_in_the_next():
    async def main() -> list[Any]:
        kv.set("a", 1)
        seen = [kv.get("a", int), kv.get("b", int), kv.get("b", int, 7), "a" in kv, len(kv)]
        await greet("x")
        return [*seen, kv.get("a", int)]

    rig = Rig(main)
    rig.start()
    rig.reload()
    rig.turn(done(1, ""))
    assert rig.result == [1, None, 7, True, 1, 1]


def test_changes_after_a_replay_are_new():
    async def main() -> None:
        kv.set("a", 1)
        await greet("x")
        kv.set("b", 2)
        await greet("y")

    rig = Rig(main).store(started(), put("a", 1), called(1, "x"))
    turn = rig.turn(done(1, ""))
    assert rig.events[1:] == [put("b", 2), called(2, "y")]
    assert turn.commit is not None
    assert [entry(e) for e in turn.commit.kv] == [("b", encode(2), None, 1)]


async def _count_twice() -> Any:
    for _ in range(2):
        kv.set("n", (kv.get("n", int) or 0) + 1)
        await greet("x")
    return kv.get("n", int)


def test_read_and_write_in_every_turn_counts_right_over_loads():
    """Replay reads the value as it was when the execution began, not as the last turn left it."""
    rig = Rig(_count_twice)
    rig.start()
    assert entry(rig.kv["n"]) == ("n", encode(1), None, 1)
    rig.reload()
    rig.turn(done(1, ""))
    assert entry(rig.kv["n"]) == ("n", encode(2), None, 1)
    rig.reload()
    rig.turn(done(2, ""))
    assert rig.result == 2


def test_a_key_of_before_that_is_changed_keeps_its_old_value_for_replay():
    rig = Rig(_count_twice).store(started(), kv={"n": 10})
    rig.turn()
    assert entry(rig.kv["n"]) == ("n", encode(11), encode(10), 1)
    rig.reload()
    rig.turn(done(1, ""))
    rig.reload()
    rig.turn(done(2, ""))
    assert rig.result == 12


async def _count_over_executions(n: int) -> int | None:
    kv.set("n", (kv.get("n", int) or 0) + 1)
    await greet("x")
    if n:
        run = Rig.running
        workflow.continue_as_new(run, n - 1)
    return kv.get("n", int)


def test_entries_survive_continue_as_new():
    rig = Rig(_count_over_executions)
    Rig.running = rig.definition
    rig.start(2)
    for execution in (1, 2):
        rig.turn(done(1, "", execution=execution))
        rig.reload()
        rig.turn()
        rig.reload()
    assert entry(rig.kv["n"]) == ("n", encode(3), encode(2), 3)
    rig.turn(done(1, "", execution=3))
    assert rig.result == 3


@pytest.mark.parametrize("change", ["clear", "delete"])
def test_a_removed_key_stays_removed_over_a_load(change: str):
    async def main() -> Any:
        if change == "clear":
            kv.clear()
        else:
            kv.delete("a")
        before = kv.get("a", int)
        kv.set("a", (before or 0) + 1)
        await greet("x")
        return [before, kv.get("a", int)]

    rig = Rig(main).store(started(), kv={"a": 41})
    rig.turn()
    rig.reload()
    rig.turn(done(1, ""))
    assert rig.result == [None, 1]


def test_a_removed_key_leaves_no_row_after_the_execution():
    async def main(n: int) -> None:
        if n == 0:
            kv.delete("a")
            workflow.continue_as_new(rig.definition, 1)
        await greet("x")

    rig = Rig(main)
    rig.store(started(0), kv={"a": 41})
    rig.turn()
    assert entry(rig.kv["a"]) == ("a", None, None, 1)
    rig.turn()
    with rig.cold() as run:
        assert list(run.variables) == []


def test_an_order_of_keys_that_does_not_depend_on_the_load():
    async def main() -> Any:
        kv.set("c", 1)
        kv.set("a", 1)
        before = kv.keys()
        await greet("x")
        return [before, kv.keys()]

    rig = Rig(main).store(started(), kv={"b": 1})
    rig.turn()
    rig.reload()
    rig.turn(done(1, ""))
    assert rig.result == [["a", "b", "c"]] * 2


LIMITS = Limits(kv_keys=2, kv_value_bytes=10, kv_key_bytes=5, status_bytes=10)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda: [kv.set(k, 1) for k in "abc"],
            "the KV store has 2 keys already (Limits.kv_keys), so 'c' does not fit; delete some",
        ),
        (
            lambda: kv.set("a", "x" * 20),
            "the value of KV key 'a' has 22 bytes; the limit is 10 (Limits.kv_value_bytes)",
        ),
        (
            lambda: kv.set("toolong", 1),
            "the KV key 'toolong' is longer than 5 bytes (Limits.kv_key_bytes)",
        ),
        (
            lambda: workflow.set_status("x" * 20),
            "the custom status has 22 bytes; the limit is 10 (Limits.status_bytes)",
        ),
    ],
    ids=["keys", "value", "key", "status"],
)
def test_a_limit_is_an_error_at_the_call_that_names_it(change: Any, text: str):
    async def main() -> None:
        change()

    rig = Rig(main, limits=LIMITS)
    rig.start()
    assert (rig.status, rig.failure.type) == ("failed", "LimitExceeded")
    assert text in rig.failure.message


def test_a_key_of_any_text_and_an_empty_value_are_kept():
    async def main() -> Any:
        for key, value in {"": "", "ünï": b"", "a/b c": None}.items():
            kv.set(key, value)
        return kv.keys()

    rig = Rig(main)
    rig.start()
    assert rig.result == ["", "a/b c", "ünï"]


# ---------------------------------------------------------------- replaying or live


async def _asks() -> list[bool]:
    seen = [workflow.info().is_replaying]
    await greet("x")
    seen.append(workflow.info().is_replaying)
    await greet("y")
    return [*seen, workflow.info().is_replaying]


def test_a_fresh_run_is_not_replaying():
    rig = Rig(_asks)
    rig._replay_all = lambda: None  # it would ask as well
    rig.start()
    rig.turn(done(1, ""))
    rig.turn(done(2, ""))
    assert rig.result == [False, False, False]


def test_the_code_is_told_that_it_goes_through_what_it_did_before():
    rig = Rig(_asks)
    rig._replay_all = lambda: None
    rig.store(started(), called(1, "x"), finished(1, ""), called(2, "y"))
    rig.turn(done(2, ""))
    assert rig.result == [True, True, False]


def test_what_follows_the_last_recorded_event_is_live():
    rig = Rig(_asks)
    rig._replay_all = lambda: None
    rig.store(started(), called(1, "x"), finished(1, ""))
    rig.turn(done(2, ""))
    assert rig.result == [True, False, False]


def test_a_journal_of_nothing_but_its_start_is_live():
    rig = Rig(_asks)
    rig._replay_all = lambda: None
    rig.store(started())
    rig.turn(done(1, ""))
    rig.turn(done(2, ""))
    assert rig.result == [False, False, False]


def test_a_status_counts_once_per_turn_and_is_kept_by_a_load():
    async def main() -> str | None:
        workflow.set_status("one")
        workflow.set_status("two")
        await greet("x")
        seen = workflow.status(str)
        workflow.set_status(None)
        return seen

    rig = Rig(main)
    rig.start()
    assert rig.row is not None
    assert (rig.row.custom_status, rig.row.custom_status_version) == (encode("two"), 1)
    rig.reload()
    rig.turn(done(1, ""))
    assert (rig.result, rig.row.custom_status, rig.row.custom_status_version) == ("two", None, 2)
    assert rig.now == T0
