"""Open stores in a forked child, which must not use them.

A child of `os.fork` begins with every descriptor and every object of its parent, but with none of
its threads. A lock would outlive its owner in the child, and a socket would look alive to the
process at its other end. A call of a store would wait for a thread that is not there. SQLite
forbids to use a connection in a child, and even to close it there: that undoes in the shared memory
of the log what the parent is just writing.

So a child lets go of the descriptors that were noted here, and its stores raise an error at each
call.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """Something that does not work in a forked child."""

    def forked(self) -> None:
        """Note, in the child, that this is one. Nothing may be closed here."""
        ...


_things: WeakSet[Forked] = WeakSet()
# The numbers of descriptors with the files that they meant. asyncio closes some of them by itself,
# and then the number may mean another file.
_descriptors: dict[int, tuple[int, int]] = {}
_leaked: list[object] = []


def tell_children(thing: Forked) -> None:
    """Call `thing.forked()` in each child that is forked from now on."""
    _things.add(thing)


def keep_from_children(descriptor: int) -> int:
    """Close an open descriptor in each child that is forked from now on. Returns the descriptor."""
    _descriptors[descriptor] = _identity(descriptor)
    return descriptor


def closes(descriptor: int) -> None:
    """Note that a descriptor is about to be closed here. Its number may mean another file soon."""
    _descriptors.pop(descriptor, None)


def leak(thing: object) -> None:
    """Keep something that must not be closed for as long as this process lives."""
    _leaked.append(thing)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _in_child() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor, identity in _descriptors.items():
        try:
            is_ours = _identity(descriptor) == identity
        except OSError:
            continue
        # The number stays taken, because an object that does not know of this will close it.
        if is_ours:
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    _descriptors.clear()
    for thing in list(_things):
        thing.forked()
    _things.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
