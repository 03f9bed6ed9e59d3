"""A history as steps and bars: pure, so that it is shown on histories made by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from perdure import HistoryEvent
from perdure.cli.progress import Progress
from perdure.cli.timeline import Step, duration, render, span, steps
from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data.commit import UnitRow

T0 = 1_700_000_000_000
AWAY = Failure("ConnectionError", "the bank\nis away")
STARTED = ev.Started(T0, "checkout", "1.0.0", b"\x01\x90", b"r" * 16, 1, "3.11")


def history(*events: ev.AnyEvent) -> list[HistoryEvent]:
    return [HistoryEvent(number, 1, event) for number, event in enumerate([STARTED, *events], 1)]


def only(*events: ev.AnyEvent) -> Step:
    (step,) = steps(history(*events))
    return step


def drawn(*events: ev.AnyEvent, width: int = 120, **options: int | None) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(history(*events), **options))
    return console.file.getvalue().splitlines()


SCHEDULED = ev.ActivityScheduled(1, "charge", b"\x01\x90")
SLEEPS = ev.TimerStarted(1, T0 + 5_000)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([SCHEDULED], Step("activity", "charge", 1, T0)),
        (
            [SCHEDULED, ev.ActivityCompleted(1, T0 + 300, b"\x01\xc0", 2)],
            Step("activity", "charge", 1, T0, T0 + 300, 2, "completed"),
        ),
        (
            [SCHEDULED, ev.ActivityFailed(1, T0 + 300, AWAY, 3)],
            Step(
                "activity",
                "charge",
                1,
                T0,
                T0 + 300,
                3,
                "failed",
                "ConnectionError: the bank\nis away",
            ),
        ),
        (
            [SCHEDULED, ev.AttemptFailed(1, T0 + 10, 1, AWAY, T0 + 20)],
            Step(
                "activity",
                "charge",
                1,
                T0,
                None,
                2,
                "retrying",
                "attempt 1: ConnectionError: the bank\nis away",
            ),
        ),
        (
            [
                SCHEDULED,
                ev.AttemptFailed(1, T0 + 10, 1, AWAY, T0 + 20),
                ev.ActivityCompleted(1, T0 + 30, b"\x01\xc0", 2),
            ],
            Step("activity", "charge", 1, T0, T0 + 30, 2, "completed"),
        ),
        ([SLEEPS], Step("timer", "5 s", 1, T0, due_ms=T0 + 5_000)),
        (
            [ev.TimerStarted(1, T0 + 5_000, "packing"), ev.TimerFired(1, T0 + 5_001)],
            Step("timer", "packing", 1, T0, T0 + 5_001, outcome="completed", due_ms=T0 + 5_000),
        ),
        (
            [ev.WaitStarted(1, "approved"), ev.Received(1, T0 + 9, b"m", b"\x01\xc3")],
            Step("message", "approved", 1, T0, T0 + 9, outcome="completed"),
        ),
        (
            [
                ev.WaitStarted(1, "go", positional=True),
                ev.EventRaised(1, T0 + 9, "go", b"\x01\xc3"),
            ],
            Step("event", "go", 1, T0, T0 + 9, outcome="completed"),
        ),
        (
            [
                ev.WaitStarted(1, "go", positional=True),
                ev.EventRaised(0, T0 + 9, "go", b"\x01\xc3"),
            ],
            Step("event", "go", 1, T0),
        ),
        (
            [ev.CallStarted(1, "o/1.1", "pack", None, b""), ev.Replied(1, T0 + 9, None, AWAY)],
            Step("child", "pack", 1, T0, T0 + 9, 1, "failed", "ConnectionError: the bank\nis away"),
        ),
        (
            [ev.CallStarted(1, "o/1.1", "pack", None, b""), ev.Replied(1, T0 + 9, b"\x01\xc0")],
            Step("child", "pack", 1, T0, T0 + 9, 1, "completed", "o/1.1"),
        ),
        (
            [ev.CallStarted(1, "x", "mail", None, b"", detached=True)],
            Step("detached", "mail", 1, T0, T0, 1, "completed", "x"),
        ),
        (
            [
                ev.CheckpointStarted(1, "token", 0),
                ev.CheckpointRecorded(1, T0 + 2, "token", 0, b"\x01\xc0"),
            ],
            Step("checkpoint", "token", 1, T0, T0 + 2, outcome="completed"),
        ),
        (
            [ev.ValueRecorded("seen", 0, b"\x01\xc0")],
            Step("checkpoint", "seen", 0, T0, T0, outcome="completed"),
        ),
        (
            [ev.MessageSent(1, "o-2", "go", b"")],
            Step("sent", "go", 0, T0, T0, 1, "completed", "to o-2"),
        ),
        (
            [SLEEPS, ev.CommandCancelled(1)],
            Step("timer", "5 s", 1, T0, T0, outcome="cancelled", due_ms=T0 + 5_000),
        ),
        (
            [ev.Paused(T0 + 1, "lunch"), ev.Resumed(T0 + 5)],
            Step("pause", "lunch", 0, T0 + 1, T0 + 5, outcome="completed"),
        ),
        (
            [SLEEPS, ev.Terminated(T0 + 7, "enough")],
            Step("timer", "5 s", 1, T0, T0 + 7, outcome="cancelled", due_ms=T0 + 5_000),
        ),
    ],
)
def test_each_kind_of_step(events: list[ev.AnyEvent], expected: Step) -> None:
    assert only(*events) == expected


def test_an_answer_after_a_cancellation_does_not_count() -> None:
    late = only(SCHEDULED, ev.CommandCancelled(1), ev.ActivityCompleted(1, T0 + 50, b"\x01\xc0"))
    assert (late.outcome, late.ended_ms) == ("cancelled", T0)


def test_a_command_has_the_time_of_the_delivery_before_it() -> None:
    first, second = steps(
        history(
            SCHEDULED,
            ev.ActivityCompleted(1, T0 + 100, b"\x01\xc0"),
            ev.StatusSet(None),
            ev.ActivityScheduled(2, "ship", b""),
        )
    )
    assert (first.started_ms, second.started_ms) == (T0, T0 + 100)
    assert second.duration_ms(T0 + 350) == 250


def test_the_span_of_an_execution() -> None:
    assert span(history(SLEEPS)).ended_ms is None
    ended = span(history(SLEEPS, ev.TimerFired(1, T0 + 40), ev.Completed(T0 + 41, b"\x01\xc0")))
    assert (ended.started_ms, ended.latest_ms, ended.ended_ms) == (T0, T0 + 41, T0 + 41)


def test_bars_lie_on_one_scale_of_time() -> None:
    lines = drawn(
        SCHEDULED,
        ev.ActivityCompleted(1, T0 + 250, b"\x01\xc0"),
        ev.TimerStarted(2, T0 + 1_000),
        ev.TimerFired(2, T0 + 1_000),
        ev.Completed(T0 + 1_000, b"\x01\xc0"),
    )
    first, second = lines[1], lines[2]
    assert second.index("━") == first.rindex("━") + 1  # one ends where the other begins
    assert second.count("━") == 3 * first.count("━")
    assert "250 ms" in first
    assert "750 ms" in second


def test_every_step_has_a_bar_however_short() -> None:
    lines = drawn(
        SCHEDULED, ev.ActivityCompleted(1, T0, b"\x01\xc0"), SLEEPS, ev.Terminated(T0 + 9_000, "")
    )
    assert all("━" in line for line in lines[1:])


def test_an_open_step_reaches_to_now() -> None:
    (_, line) = drawn(SCHEDULED, now_ms=T0 + 90_000)
    assert "1m 30s" in line
    assert "… open" in line


def test_what_went_wrong_stands_on_one_line() -> None:
    lines = drawn(SCHEDULED, ev.ActivityFailed(1, T0 + 300, AWAY, 3), width=160)
    assert len(lines) == 2
    assert "✗ failed  ConnectionError: the bank is away" in lines[1]


@pytest.mark.parametrize("width", [40, 80, 300])
def test_no_line_is_wider_than_the_console(width: int) -> None:
    lines = drawn(
        ev.ActivityScheduled(1, "a" * 200, b""),
        ev.ActivityFailed(1, T0 + 300, AWAY, 3),
        width=width,
    )
    assert all(len(line) <= width for line in lines)


def test_of_too_many_steps_the_first_and_the_last_are_shown() -> None:
    many = [ev.TimerStarted(seq, T0 + 1_000, f"t{seq}") for seq in range(1, 101)]
    lines = drawn(*many, rows=4)
    assert [line.split()[1] for line in lines[1:]] == ["t1", "t2", "96", "t99", "t100"]
    assert "96 more" in lines[3]
    assert len(drawn(*many, rows=None)) == 101


def test_a_workflow_without_steps_says_so() -> None:
    assert "no steps" in drawn(ev.Completed(T0 + 1, b"\x01\xc0"))[0]


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (1_234, "1.23 s"),
        (12_345, "12.3 s"),
        (60_000, "1m"),
        (200_000, "3m 20s"),
        (3_600_000, "1h"),
        (187_200_000, "2d 4h"),
    ],
)
def test_durations_are_short(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_the_live_display_shows_status_attempt_and_custom_status() -> None:
    progress = Progress("o-1")
    console = Console(file=io.StringIO(), width=120)
    console.print(progress)
    row = UnitRow(
        "o-1",
        "default/0",
        "workflow",
        "checkout",
        "1.0.0",
        b"r" * 16,
        status="running",
        reason="activity",
    )
    row.custom_status = b"\x01\xa6paying"
    progress.change(row, history(SCHEDULED, ev.AttemptFailed(1, T0 + 10, 1, AWAY, T0 + 20)))
    console.print(progress)
    text = console.file.getvalue()
    for part in (
        "o-1  has not begun",
        "checkout o-1  running (activity)",
        '"paying"',
        "charge",
        "attempt 2",
    ):
        assert part in text


def test_the_live_display_prefers_what_is_open() -> None:
    progress = Progress("o-1")
    console = Console(file=io.StringIO(), width=120)
    row = UnitRow("o-1", "default/0", "workflow", "checkout", "1.0.0", b"r" * 16, status="running")
    done = [
        event
        for seq in range(1, 30)
        for event in (ev.TimerStarted(seq, T0, f"t{seq}"), ev.TimerFired(seq, T0 + seq))
    ]
    progress.change(row, history(ev.ActivityScheduled(99, "charge", b""), *done))
    console.print(progress)
    text = console.file.getvalue()
    assert "charge" in text
    assert "t29" in text
    assert "t1 " not in text
    assert "and 20 more" in text
