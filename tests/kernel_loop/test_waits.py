"""Which of the calls that wait in a lane gets the next message."""

from __future__ import annotations

from perdure.kernel.execution.waits import Waits


def test_the_longest_wait_comes_first_whichever_is_given_up() -> None:
    waits = Waits()
    for seq in (1, 2, 3, 4):
        waits.add("#a", seq)
    waits.add("#b", 5)
    assert waits.of("#a") == [1, 2, 3, 4]
    waits.remove("#a", 3)
    waits.remove("#a", 1)
    assert waits.of("#a") == [2, 4]
    assert waits.first == {"#a": 2, "#b": 5}
    waits.remove("#a", 4)
    waits.remove("#a", 2)
    waits.add("#a", 6)
    assert waits.of("#a") == [6]
    waits.remove("#b", 5)
    assert waits.first == {"#a": 6}


def test_two_runs_share_nothing() -> None:
    one, other = Waits(), Waits()
    one.add("#a", 1)
    assert not other.first
