"""An observer takes a member for dead by its beats alone, and only if it has looked all the time."""

from __future__ import annotations

import pytest

from perdure.kernel.placement.observer import DISCONNECTED_MS, Observer
from perdure.ports.cluster import Member, Seen, View
from perdure.ports.store import Incarnation

LEASE_MS = 9_000
STEP_MS = 3_000


def seen(beat: int, *, name: str = "a", connected: bool | None = None) -> Seen:
    return Seen(
        Member(incarnation=Incarnation(name, name * 16), lease_ms=LEASE_MS), beat, connected
    )


class Watching:
    """An observer, and its time."""

    def __init__(self) -> None:
        self.observer = Observer()
        self.now_ms = 1_000_000

    def dead(self, *members: Seen, after_ms: int = STEP_MS) -> list[str]:
        self.now_ms += after_ms
        found = self.observer.look(View(1, members), self.now_ms)
        return [one.member.incarnation.node for one in found]


def test_a_beat_that_stands_still_for_a_lease_is_the_end() -> None:
    watching = Watching()
    assert [watching.dead(seen(7)) for _ in range(5)] == [[], [], [], ["a"], ["a"]]


def test_a_beat_that_moves_begins_the_lease_anew() -> None:
    watching = Watching()
    for beat in range(20):
        assert watching.dead(seen(beat)) == []
    assert [watching.dead(seen(19)) for _ in range(3)] == [[], [], ["a"]]


@pytest.mark.parametrize("gap_ms", [LEASE_MS // 2 + 1, LEASE_MS, 100 * LEASE_MS])
def test_an_observer_that_did_not_look_begins_anew(gap_ms: int) -> None:
    # It was stopped, or could not reach the cluster. The members may have renewed all the time.
    watching = Watching()
    for _ in range(3):
        assert watching.dead(seen(7)) == []
    assert watching.dead(seen(7), after_ms=gap_ms) == []
    assert [watching.dead(seen(7)) for _ in range(3)] == [[], [], ["a"]]


def test_a_gap_of_half_a_lease_is_no_gap() -> None:
    watching = Watching()
    assert watching.dead(seen(7)) == []
    assert watching.dead(seen(7), after_ms=LEASE_MS // 2) == []
    assert watching.dead(seen(7), after_ms=LEASE_MS // 2) == ["a"]


def test_each_member_is_judged_by_itself() -> None:
    watching = Watching()
    for beat in range(3):
        assert watching.dead(seen(beat), seen(1, name="b")) == []
    assert watching.dead(seen(3), seen(1, name="b")) == ["b"]
    assert watching.dead(seen(4)) == []


def test_a_member_that_went_and_came_is_watched_anew() -> None:
    watching = Watching()
    for _ in range(3):
        assert watching.dead(seen(7)) == []
    assert watching.dead() == []
    assert [watching.dead(seen(7)) for _ in range(4)] == [[], [], [], ["a"]]


def test_an_ended_session_shortens_the_wait() -> None:
    watching = Watching()
    assert watching.dead(seen(7, connected=False)) == []
    assert watching.dead(seen(7, connected=False), after_ms=DISCONNECTED_MS - 1) == []
    assert watching.dead(seen(7, connected=False), after_ms=1) == ["a"]


def test_a_session_that_is_opened_again_in_time_ends_the_suspicion() -> None:
    watching = Watching()
    assert watching.dead(seen(7, connected=False)) == []
    assert watching.dead(seen(7, connected=True), after_ms=DISCONNECTED_MS - 1) == []
    assert watching.dead(seen(7, connected=False), after_ms=1) == []
    assert watching.dead(seen(7, connected=False), after_ms=DISCONNECTED_MS) == ["a"]


def test_a_session_that_ended_while_the_beat_moved_is_no_end() -> None:
    watching = Watching()
    for beat in range(10):
        assert watching.dead(seen(beat, connected=False), after_ms=DISCONNECTED_MS) == []
