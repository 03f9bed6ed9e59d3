"""The order of a set of strings differs between processes: whatever takes it apart in that order is found."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[..., None]


def test_however_the_set_is_taken_apart(in_workflow: Check) -> None:
    in_workflow(
        """
        for name in names:  #! PD106
            ...
        [name for name in names]  #! PD106
        {name: 1 for name in names}  #! PD106
        (name for name in names)  #! PD106
        [a for a in given for b in names]  #! PD106
        list(names)  #! PD106
        tuple(names)  #! PD106
        next(iter(names))  #! PD106
        enumerate(names)  #! PD106
        ", ".join(names)  #! PD106
        zip(given, names)  #! PD106
        map(given, names)  #! PD106
        dict.fromkeys(names)  #! PD106
        collected = [1]
        collected.extend(names)  #! PD106
        given(*names)  #! PD106
        [1, *names]  #! PD106
        first, second = names  #! PD106
        first, *others = names  #! PD106
        names.pop()  #! PD106 PD403
        deque(names)  #! PD106
        await asyncio.gather(*(given(name) for name in names))  #! PD106
        [*map(given, sorted(names))]
        """,
        "import asyncio\nfrom collections import deque\nnames = {'a', 'b'}",
        "given",
    )


def test_a_generator_gives_it_in_order_too(in_workflow: Check) -> None:
    in_workflow(
        """
        def one_by_one():
            yield from {"a", "b"}  #! PD106
        for name in one_by_one():
            ...
        """
    )


def test_wherever_the_set_comes_from(in_workflow: Check) -> None:
    in_workflow(
        """
        for a in {"x", given}: ...  #! PD106
        for b in {name.upper() for name in ["x"]}: ...  #! PD106
        for c in set(["x", "y"]): ...  #! PD106
        for d in frozenset("xyz"): ...  #! PD106
        for e in set("x y".split()): ...  #! PD106
        for f in {1} | {"x"}: ...  #! PD106
        for g in set(table): ...  #! PD106
        for h in table.keys() - other.keys(): ...  #! PD106
        for i in tags.union(["x"]): ...  #! PD106
        for j in order.tags: ...  #! PD106
        for k in tagged(): ...  #! PD106
        for l in await fetch(): ...  #! PD106
        for m in table["x"]: ...  #! PD106
        for n in Order().tags: ...  #! PD106
        for o in {("x", 1)}: ...  #! PD106
        for p in {Colour.RED, Colour.BLUE}: ...  #! PD106
        for r in {f"{given}"}: ...  #! PD106
        for s in tags or {"x"}: ...  #! PD106
        collected = set()
        collected.add("x")
        for t in collected: ...  #! PD106
        for u in maybe: ...  #! PD106
        for v in seen: ...  #! PD106
        for key, value in table.items():
            for w in value: ...  #! PD106
        """,
        """
        from collections.abc import Set
        from dataclasses import dataclass
        from enum import Enum
        from typing import Optional

        class Colour(Enum):
            RED = "red"
            BLUE = "blue"

        @dataclass
        class Order:
            tags: "set[str]"

        def tagged() -> frozenset[str]:
            return frozenset()

        @app.activity
        async def fetch() -> set[str]:
            return set()

        seen: set[str] = set()
        """,
        "tags: set[str], table: dict[str, Set[str]], other: dict[str, int], order: Order, given, "
        "maybe: Optional[set[str]]",
    )


def test_what_does_not_depend_on_the_order_is_fine(in_workflow: Check) -> None:
    in_workflow(
        """
        for name in sorted(names): ...
        sorted(name.upper() for name in names), sorted([name for name in names]), sorted(list(names))
        len(names), max(names), min(len(name) for name in names), any(n for n in names), sum([len(n) for n in names])
        {name.upper() for name in names}, set(name for name in names), frozenset(names), {*names, "c"}
        "a" in names, names | {"c"}, names == {"a"}, names - {"a"}
        names.copy().discard("a")
        """,
        "names = {'a', 'b'}",
    )


def test_sets_of_numbers_and_of_unknown_things_are_fine(in_workflow: Check) -> None:
    in_workflow(
        """
        for number in {1, 2.0, True}: ...
        for number in numbers: ...
        for thing in set(given): ...
        for thing in {given, other(given)}: ...
        for number in {len(name) for name in ("a", "b")}: ...
        for number in set(b"bytes are numbers"): ...
        list(numbers), list({(1, 2)}), [*ids]
        for name in ["a", "b"], ("a", "b"), {"a": 1}: ...
        for name in {"a": 1}: ...
        for name in dict.fromkeys(["a", "b"]): ...
        """,
        "import uuid",
        "numbers: set[int], ids: frozenset[uuid.UUID], given, other",
    )
