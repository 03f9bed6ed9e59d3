"""The scan names what replay cannot repeat, however it is spelled, and nothing that merely looks like it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime  # noqa: ICN001
import functools
import importlib
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime as moment
from pathlib import Path
from time import time as clock
from uuid import uuid4 as fresh

import pytest

from perdure.guard.scan import Finding, reachable, scan


def names(fn: Callable[..., object]) -> list[str]:
    return [finding.name for finding in scan(fn)]


def line_of(fn: Callable[..., object], text: str) -> int:
    """The line of this file, inside `fn`, that holds `text`."""
    first = fn.__code__.co_firstlineno
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines[first:], first + 1) if text in line)


async def directly() -> object:
    return time.time(), random.random()


def test_a_finding_has_file_line_name_and_remedy() -> None:
    line = line_of(directly, "return time.time()")
    chance, now = scan(directly)
    assert (chance.file, chance.line, chance.name) == (__file__, line, "random.random")
    assert (now.file, now.line, now.name) == (__file__, line, "time.time")
    assert "workflow.random()" in chance.remedy
    assert "workflow.now()" in now.remedy
    assert str(now) == f"{__file__}:{line}: PD101 time.time: {now.remedy}"


WRONG: dict[str, tuple[Callable[..., object], list[str], str]] = {
    "module": (lambda: time.monotonic(), ["time.monotonic"], "workflow.now()"),
    "alias": (lambda: clock(), ["time.time"], "workflow.now()"),
    "class": (
        lambda: datetime.datetime.now(datetime.UTC),
        ["datetime.datetime.now"],
        "workflow.now()",
    ),
    "aliased class": (lambda: moment.utcnow(), ["datetime.datetime.utcnow"], "workflow.now()"),
    "inherited": (lambda: moment.today(), ["datetime.date.today"], "workflow.now()"),
    "now, as a time": (lambda: time.localtime(), ["time.localtime"], "workflow.now()"),
    "method of the global generator": (
        lambda: random.randint(1, 6),
        ["random.randint"],
        "workflow.random()",
    ),
    "a generator that seeds itself": (
        lambda: random.Random(),
        ["random.Random"],
        "workflow.random()",
    ),
    "system randomness": (
        lambda: random.SystemRandom(1),
        ["random.SystemRandom"],
        "workflow.random()",
    ),
    "os.urandom": (lambda: os.urandom(8), ["os.urandom"], "workflow.random()"),
    "secrets": (lambda: secrets.token_hex(), ["secrets.token_hex"], "workflow.random()"),
    "uuid": (lambda: uuid.uuid4(), ["uuid.uuid4"], "workflow.uuid4()"),
    "aliased uuid": (lambda: fresh().hex, ["uuid.uuid4"], "workflow.uuid4()"),
    "open": (lambda: open("x"), ["open"], "activity"),
    "sleep": (lambda: time.sleep(1), ["time.sleep"], "asyncio.sleep"),
    "thread": (lambda: threading.Thread(), ["threading.Thread"], "activity"),
    "pool": (lambda: ThreadPoolExecutor(), ["concurrent.futures.ThreadPoolExecutor"], "activity"),
    "socket": (lambda: socket.socket(), ["socket.socket"], "activity"),
    "subprocess": (lambda: subprocess.run(["true"]), ["subprocess.run"], "activity"),
    "environment": (lambda: os.environ["HOME"], ["os.environ"], "argument"),
    "environment, by a function": (lambda: os.getenv("HOME"), ["os.getenv"], "argument"),
    "files": (lambda: os.path.exists("x"), ["os.path.exists"], "activity"),
    "method of a path": (lambda: Path.read_text(Path("x")), ["pathlib.Path.read_text"], "activity"),
    "thread of asyncio": (lambda: asyncio.to_thread(print), ["asyncio.to_thread"], "activity"),
    "another loop": (lambda: asyncio.run(asyncio.sleep(1)), ["asyncio.run"], "await it"),
    "handed on": (
        lambda: sorted([1], key=lambda _: time.perf_counter()),
        ["time.perf_counter"],
        "workflow.now()",
    ),
    "not called": (lambda: functools.partial(time.time), ["time.time"], "workflow.now()"),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_finds(case: str) -> None:
    fn, expected, remedy = WRONG[case]
    findings = scan(fn)
    assert [finding.name for finding in findings] == expected
    assert remedy in findings[0].remedy


class Watch:
    """Looks like a clock, and is none."""

    time = 3

    def now(self) -> int:
        return self.time

    def random(self) -> int:
        return 4


watch = Watch()


def uuid4() -> str:
    return "chosen by fair dice roll"


async def look_alike(time: Watch, clock: Callable[[], int]) -> object:
    datetime = watch
    sleep = asyncio.sleep
    await sleep(1)
    return time.now(), clock(), datetime.now(), watch.random(), time.time, uuid4()


RIGHT: dict[str, Callable[..., object]] = {
    "names that look alike": look_alike,
    "a seeded generator": lambda: random.Random(1).random(),
    "a given time": lambda: (time.gmtime(0), moment.fromtimestamp(0, datetime.UTC), time.strftime),
    "a derived id": lambda: uuid.uuid5(uuid.NAMESPACE_URL, "x"),
    "types": lambda x: isinstance(x, (datetime.datetime, uuid.UUID, threading.Lock().__class__)),
    "asyncio": lambda: asyncio.gather(asyncio.sleep(1), asyncio.sleep(2)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_it_spares(case: str) -> None:
    assert scan(RIGHT[case]) == []


async def nested() -> object:
    def inner() -> float:
        return time.time()

    class Local:
        at = time.time_ns()

    return inner(), Local, [uuid.uuid4() for _ in range(3)]


def test_nested_functions_classes_and_comprehensions_are_followed() -> None:
    assert sorted(names(nested)) == ["time.time", "time.time_ns", "uuid.uuid4"]


async def local_imports() -> object:
    import time as watch
    from datetime import datetime, timedelta
    from random import choice as pick
    from random import shuffle

    return watch.time(), datetime.now(), timedelta(1), pick, shuffle


def test_imports_inside_the_function_are_resolved() -> None:
    assert set(names(local_imports)) == {
        "time.time",
        "datetime.datetime.now",
        "random.choice",
        "random.shuffle",
    }


async def local_alias() -> object:
    tick = time.time
    return [tick(), tick()]


def test_a_local_alias_is_followed() -> None:
    lines = {finding.line for finding in scan(local_alias)}
    assert lines == {line_of(local_alias, "tick = "), line_of(local_alias, "return")}


def deeper() -> float:
    return clock()


@functools.cache
def cached() -> float:
    return deeper()


@contextlib.contextmanager
def decorated() -> Iterator[float]:
    yield time.monotonic()


class Order:
    @staticmethod
    def stamp() -> float:
        return time.time()

    @classmethod
    def make(cls) -> str:
        return uuid.uuid4().hex

    def total(self) -> float:
        return random.random()


order = Order()


@pytest.mark.parametrize(
    ("fn", "expected", "helper"),
    [
        (lambda: deeper(), "time.time", deeper),
        (lambda: cached(), "time.time", deeper),
        (lambda: decorated(), "time.monotonic", decorated.__wrapped__),  # type: ignore[attr-defined]
        (lambda: Order.stamp(), "time.time", Order.stamp),
        (lambda: Order.make(), "uuid.uuid4", Order.make.__func__),
        (lambda: order.total(), "random.random", Order.total),
    ],
    ids=["function", "cache", "decorator", "staticmethod", "classmethod", "method of an instance"],
)
def test_helpers_are_followed(
    fn: Callable[..., object], expected: str, helper: Callable[..., object]
) -> None:
    (finding,) = scan(fn)
    assert (finding.file, finding.name) == (__file__, expected)
    first = helper.__code__.co_firstlineno
    assert first < finding.line <= first + 4, "the line is the helper's"


def recursive(n: int) -> float:
    return recursive(n - 1) if n else other(n)


def other(n: int) -> float:
    return recursive(n) + time.time()


def test_recursion_ends() -> None:
    assert names(recursive) == ["time.time"]


def closed_over() -> Callable[[], object]:
    now, late = time.time, None

    def workflow() -> object:
        return now(), late, never

    if late:
        never = 1
    return workflow


def test_closures_are_resolved_and_an_empty_cell_is_not_known() -> None:
    assert names(closed_over()) == ["time.time"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A package whose workflow uses a helper of a sister module and one of another package."""
    files = {
        "shop_of_scan/__init__.py": "",
        "shop_of_scan/prices.py": "import time\n\ndef price():\n    return time.time()\n",
        "vendor_of_scan.py": "import uuid\n\ndef label():\n    return uuid.uuid4()\n",
        "shop_of_scan/flows.py": (
            "from vendor_of_scan import label\n"
            "from . import prices\n"
            "async def checkout():\n"
            "    from .prices import price\n"
            "    return prices.price(), price(), label()\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop_of_scan.flows")
    for name in [
        name for name in sys.modules if name.startswith(("shop_of_scan", "vendor_of_scan"))
    ]:
        del sys.modules[name]


def test_helpers_of_the_package_are_followed_and_those_of_others_are_not(
    shop: types.ModuleType,
) -> None:
    (finding,) = scan(shop.checkout)
    assert finding.file.endswith("prices.py")
    assert (finding.line, finding.name) == (4, "time.time")


def test_the_package_can_be_named(shop: types.ModuleType) -> None:
    (finding,) = scan(shop.checkout, package="vendor_of_scan")
    assert finding.file.endswith("vendor_of_scan.py")


workflow = types.ModuleType("perdure.workflow")
exec("def checkpoint(name, fn): ...\ndef now(): ...", vars(workflow))
for member in (workflow.checkpoint, workflow.now):
    member.__module__ = "perdure.workflow"


def read_file() -> str:
    return open("x").read()


async def recorded() -> object:
    def stamp() -> float:
        return time.time()

    first = await workflow.checkpoint("stamp", stamp)
    second = await workflow.checkpoint("id", lambda: uuid.uuid4().hex)
    third = await workflow.checkpoint("file", read_file if first else deeper)
    fourth = await workflow.checkpoint(
        "spread over lines",
        functools.partial(random.randint, 1, 6),
    )
    return first, second, third, fourth, workflow.now(), time.monotonic()


def test_what_a_checkpoint_records_may_do_anything() -> None:
    assert names(recorded) == ["time.monotonic"]


def test_a_function_used_for_a_checkpoint_is_not_excused_elsewhere() -> None:
    assert names(lambda: (workflow.checkpoint("file", read_file), read_file())) == ["open"]


def text_set(unknown: str) -> Iterator[str]:
    yield from [name.upper() for name in {"a", "b"}]
    for name in {unknown, "b"}:
        yield name
    for name in set("ab"):
        yield name
    for name in frozenset(("a", unknown)):
        yield name


def test_iterating_over_a_set_of_strings_is_a_finding() -> None:
    findings = [finding for finding in scan(text_set) if "set of strings" in finding.name]
    first = text_set.__code__.co_firstlineno
    assert [finding.line for finding in findings] == [first + 1, first + 2, first + 4, first + 6]
    assert all("sorted(" in finding.remedy for finding in findings)


GLOBAL_TEXTS = {"a", "b"}
GLOBAL_NUMBERS = {1, 2}


def taken_apart(unknown: str, given: set[str], typed: "frozenset[str]") -> Iterator[object]:  # noqa: UP037
    local = {unknown, "b", "c"}
    for name in local:
        yield name.upper()
    yield list(GLOBAL_TEXTS)
    yield tuple({"a", "b", unknown})
    yield ", ".join(GLOBAL_TEXTS)
    yield max(*GLOBAL_TEXTS)
    yield [1, *GLOBAL_TEXTS]
    yield local.pop()
    yield {name: len(name) for name in given}
    first, second = GLOBAL_TEXTS
    yield from typed
    yield enumerate(local), first, second


def test_a_set_of_strings_is_found_wherever_it_comes_from_and_however_it_is_taken_apart() -> None:
    first = taken_apart.__code__.co_firstlineno
    found = [finding.line - first for finding in scan(taken_apart) if finding.rule.code == "PD106"]
    assert found == [2, *range(4, 14)]


def number_set(numbers: list[int], table: dict[str, int], given: set[int]) -> Iterator[object]:
    for number in {1, 2, 3}:
        yield number
    for number in set(numbers):
        yield number
    for number in {table["a"], len("b"), int("3")}:
        yield number
    for name in sorted({"a", "b"}):
        yield name
    for name in ("a", "b"):
        yield name
    yield "a" in {"a", "b"}
    yield list(GLOBAL_NUMBERS), list(given), [*GLOBAL_NUMBERS]
    yield sorted(GLOBAL_TEXTS), len(GLOBAL_TEXTS), max(name for name in GLOBAL_TEXTS)
    yield {name.upper() for name in GLOBAL_TEXTS}, any(name for name in GLOBAL_TEXTS)
    yield GLOBAL_TEXTS | {"c"}, ", ".join(sorted(GLOBAL_TEXTS)), tuple(sorted(GLOBAL_TEXTS))
    yield {"a", "b"} == GLOBAL_TEXTS, list(numbers), ", ".join(table)


def test_other_sets_and_other_uses_of_sets_are_not() -> None:
    assert scan(number_set) == []


def test_what_has_no_python_code_is_refused() -> None:
    with pytest.raises(TypeError, match=r"scan\(\) needs a Python function"):
        scan(len)


def test_a_method_is_scanned_as_its_function() -> None:
    assert names(order.total) == ["random.random"]


def test_each_finding_comes_once_in_order_of_lines() -> None:
    findings = scan(nested)
    assert findings == sorted(set(findings), key=lambda finding: finding.line)
    assert all(isinstance(finding, Finding) for finding in findings)


def test_reachable_lists_the_code_that_was_looked_at() -> None:
    codes = {code.co_name for code in reachable(lambda: cached())}
    assert codes == {"<lambda>", "cached", "deeper"}
