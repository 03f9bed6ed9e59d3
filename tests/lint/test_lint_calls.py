"""What workflow code must not call is found under all its names, and nothing that only looks like it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest

from perdure.guard.known import forbidden
from perdure.lint.catalogue import ENTRIES, FORBIDDEN, RULES

Check = Callable[..., None]

WRONG: dict[str, tuple[str, str]] = {
    "module": ("import time", "time.time()  #! PD101"),
    "module under another name": ("import time as t", "t.monotonic()  #! PD101"),
    "function": ("from time import perf_counter", "perf_counter()  #! PD101"),
    "function under another name": ("from time import time as clock", "clock()  #! PD101"),
    "everything of a module": ("from time import *", "monotonic()  #! PD101"),
    "class": ("import datetime", "datetime.datetime.now(datetime.UTC)  #! PD101"),
    "class, imported": (
        "from datetime import datetime, date",
        "datetime.utcnow(), date.today()  #! PD101 PD101",
    ),
    "today": ("from datetime import datetime as dt", "dt.today()  #! PD101"),
    "the present, as a time": ("import time", "time.localtime()  #! PD101"),
    "a global that is the function": ("import time\nnow = time.time", "now()  #! PD101"),
    "handed on": ("import time\nfrom functools import partial", "partial(time.time)  #! PD101"),
    "random": ("import random", "random.randint(1, 6), random.random()  #! PD102 PD102"),
    "a generator that seeds itself": ("import random", "random.Random()  #! PD102"),
    "secrets": ("import secrets", "secrets.token_hex()  #! PD102"),
    "os.urandom": ("import os", "os.urandom(4)  #! PD102"),
    "numpy": ("import numpy as np", "np.random.rand(3), np.random.default_rng()  #! PD102 PD102"),
    "uuid": ("import uuid", "uuid.uuid4(), uuid.uuid1()  #! PD103 PD103"),
    "hash of text": ("", "hash('a')  #! PD104"),
    "hash of something": ("", "hash(given)  #! PD104"),
    "id": ("", "id(given)  #! PD104"),
    "environment": (
        "import os",
        "os.environ['HOME'], os.getenv('HOME'), os.environ.get('A')  #! PD105 PD105 PD105",
    ),
    "environment, imported": ("from os import environ", "environ['HOME']  #! PD105"),
    "open": ("", "open('x')  #! PD201"),
    "Path": ("from pathlib import Path", "Path('x').read_text()  #! PD201"),
    "Path, joined": (
        "from pathlib import Path\nHOME = Path('x')",
        "(HOME / 'y').exists()  #! PD201",
    ),
    "Path, in a variable": (
        "from pathlib import Path",
        "p = Path('x')\np.write_text('')  #! PD201",
    ),
    "listing": ("import os, glob", "os.listdir(), glob.glob('*')  #! PD201 PD201"),
    "os.path": ("import os.path", "os.path.exists('x')  #! PD201"),
    "socket": ("import socket", "socket.create_connection(('h', 1))  #! PD202"),
    "requests": ("import requests", "requests.get('u')  #! PD202"),
    "httpx": (
        "from httpx import AsyncClient",
        "async with AsyncClient() as client:  #! PD202\n    await client.get('u')",
    ),
    "aiohttp": ("import aiohttp", "aiohttp.ClientSession()  #! PD202"),
    "urllib": ("import urllib.request", "urllib.request.urlopen('u')  #! PD202"),
    "subprocess": ("from subprocess import run", "run(['true'])  #! PD203"),
    "subprocess of asyncio": (
        "import asyncio",
        "await asyncio.create_subprocess_exec('true')  #! PD203",
    ),
    "thread": ("import threading", "threading.Thread(target=print).start()  #! PD204 PD401"),
    "pool": ("from concurrent.futures import ThreadPoolExecutor", "ThreadPoolExecutor()  #! PD204"),
    "pool, by module": (
        "import concurrent.futures",
        "concurrent.futures.ProcessPoolExecutor()  #! PD204",
    ),
    "to_thread": ("import asyncio", "await asyncio.to_thread(sum, [])  #! PD204"),
    "to_thread of anyio": (
        "from anyio import to_thread",
        "await to_thread.run_sync(sum, [])  #! PD204",
    ),
    "executor": (
        "import asyncio",
        "loop = asyncio.get_running_loop()\nloop.run_in_executor(None, sum)  #! PD204",
    ),
    "executor of an unknown loop": ("", "await given.run_in_executor(None, sum)  #! PD204"),
    "sleep": ("import time", "time.sleep(1)  #! PD205"),
    "input": ("", "input()  #! PD206"),
    "another loop": ("import asyncio", "asyncio.run(given())  #! PD207"),
    "a client": ("from perdure import Client", "Client.open('sqlite:///x.db')  #! PD302"),
    "a forgotten await": (
        "@app.activity\nasync def charge(n: int) -> None: ...",
        "charge(1)  #! PD303\nawait charge(2)\nlater = charge(3)\nawait later",
    ),
    "a forgotten await, with options": (
        "@app.activity\nasync def charge(n: int) -> None: ...",
        "charge.with_options(timeout=5)(1)  #! PD303\nawait charge.with_options(timeout=5)(2)",
    ),
    "a forgotten child": (
        "@app.workflow\nasync def kid() -> None: ...",
        (
            "workflow.child(kid, id='k')()  #! PD303\nawait workflow.child(kid, id='l')()\n"
            "workflow.child(kid, parent_close='abandon')()"
        ),
    ),
    "a node": ("", "app.node('sqlite:///x.db')  #! PD302"),
    "print": ("", "print('x')  #! PD401"),
    "logging": ("import logging", "logging.info('x')  #! PD402"),
    "a logger": ("import logging\nlog = logging.getLogger(__name__)", "log.warning('x')  #! PD402"),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_finds(case: str, in_workflow: Check) -> None:
    top, body = WRONG[case]
    in_workflow(body, top, "given")


RIGHT: dict[str, tuple[str, str]] = {
    "our own": (
        "",
        "workflow.now(), workflow.random().random(), workflow.uuid4(), workflow.logger.info('x')",
    ),
    "asyncio": (
        "import asyncio",
        "await asyncio.sleep(1)\nasync with asyncio.timeout(5):\n    await asyncio.gather()",
    ),
    "a given time": (
        "import time, datetime",
        "time.gmtime(0), datetime.datetime.fromtimestamp(0), time.strftime",
    ),
    "a seeded generator": ("import random", "random.Random(1).random()"),
    "a seeded generator of numpy": ("import numpy.random", "numpy.random.default_rng(1)"),
    "a derived id": ("import uuid", "uuid.uuid5(uuid.NAMESPACE_URL, 'x')"),
    "hash of a number": ("", "hash(3), hash(len('x'))"),
    "types": (
        "import datetime, threading",
        "x: threading.Thread = given\nisinstance(given, datetime.datetime)",
    ),
    "pure paths": (
        "from pathlib import Path, PurePath",
        "Path('x').name, (Path('x') / 'y').suffix, PurePath('x')",
    ),
    "a method of that name": (
        "class Watch:\n    def now(self): return 3\nwatch = Watch()",
        "watch.now()",
    ),
    "a function of that name": ("def uuid4(): return 'x'\ndef time(): return 3", "uuid4(), time()"),
    "a parameter of that name": ("import time", "(lambda time: time.time())(given)"),
    "a local variable of that name": ("import time", "time = given\ntime.time()"),
    "a loop variable of that name": ("import time", "[time.time() for time in given]"),
    "a name that is bound again": ("from time import time\ntime = len", "time('x')"),
    "a local variable, bound again": (
        "import time",
        "tick = time.time  #! PD101\ntick = len\ntick('x')",
    ),
    "another module of that name": ("from shop import time", "time.time()"),
    "a match": ("import time", "match given:\n    case {'a': time}:\n        time.time()"),
    "an exception of that name": (
        "import time",
        "try:\n    given()\nexcept ValueError as time:\n    time.time()",
    ),
    "id as a parameter": ("", "def inner(id): return id\ninner(3)"),
    "attributes of unknown things": (
        "",
        "given.time(), given.now(), given.get('u'), given.open(), given.random()",
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_it_spares(case: str, in_workflow: Check) -> None:
    top, body = RIGHT[case]
    in_workflow(body, top, "given")


def test_what_a_checkpoint_records_may_do_anything(in_workflow: Check) -> None:
    in_workflow(
        """
        def stamp() -> float:
            return time.time()

        await workflow.checkpoint("a", stamp)
        await workflow.checkpoint("b", lambda: uuid.uuid4().hex)
        await workflow.checkpoint("c", read)
        await checkpoint("d", functools.partial(random.randint, 1, 6))
        read()
        """,
        """
        import functools, random, time, uuid
        from perdure.workflow import checkpoint

        def read() -> str:
            return open("x").read()  #! PD201
        """,
    )


def test_code_that_runs_when_the_module_is_imported_is_no_workflow_code(in_workflow: Check) -> None:
    in_workflow("return started", "import time\nstarted = time.time()", "at: float = time.time()")


def test_the_plain_function_of_an_activity_is_not_to_be_called(marked: Check) -> None:
    marked(
        {
            "bank.py": """
                from perdure import App
                app = App("bank")
                @app.activity(timeout=3)
                async def charge(cents: int) -> str:
                    import time
                    return str(time.time())
                class Form:
                    fn = 3
                """,
            "flows.py": """
                from perdure import workflow
                import bank
                from bank import Form, app, charge
                @app.workflow
                async def flow() -> None:
                    await charge(1)
                    await charge.fn(1)  #! PD301
                    await bank.charge.with_options(timeout=1)(1)
                    await bank.charge.fn(1)  #! PD301
                    await workflow.checkpoint("x", charge.fn)
                    Form().fn
                """,
        }
    )


def test_writes_into_global_state_are_hints(in_workflow: Check) -> None:
    in_workflow(
        """
        global total
        total = 3  #! PD403
        seen["a"] = 1  #! PD403
        names.append("a")  #! PD403
        totals.cents += 1  #! PD403
        del seen["a"]  #! PD403
        local: list[str] = []
        local.append("a")
        mine = dict(seen)
        mine["a"] = 1
        given["a"] = 1
        channel.name = "x"
        """,
        """
        from collections import defaultdict
        total = 0
        seen = {}
        names: list[str] = []
        class Totals:
            cents = 0
        totals = Totals()
        channel = workflow.Channel[bool]("x")
        """,
        "given: dict[str, int]",
    )


def test_codes_are_in_order_and_each_says_what_to_do() -> None:
    assert list(RULES) == sorted(RULES)
    assert all(
        code == rule.code and rule.title and len(rule.remedy) > 10 for code, rule in RULES.items()
    )
    assert all(rule.hint == code.startswith("PD4") for code, rule in RULES.items())


def test_the_table_is_the_one_of_the_guard() -> None:
    for name in ("time.time", "uuid.uuid4", "os.getenv", "requests.get", "asyncio.to_thread"):
        assert ENTRIES[name].rule.remedy
    for module in {"subprocess", "shutil", "glob"}:
        importlib.import_module(module)
    by_object = {entry.name for entry in forbidden().values()}
    assert {
        "time.time",
        "random.random",
        "uuid.uuid4",
        "open",
        "subprocess.run",
        "glob.glob",
    } <= by_object


@pytest.mark.parametrize(
    "module", sorted({m for m, _, _ in FORBIDDEN if m in sys.stdlib_module_names})
)
def test_names_of_the_standard_library_exist(module: str) -> None:
    versions = {"uuid6", "uuid7", "uuid8", "InterpreterPoolExecutor", "binomialvariate"}
    here = importlib.import_module(module)
    for own, _, names in FORBIDDEN:
        for name in names.split() if own == module else ():
            holder: object = here
            for part in name.removesuffix("()").split("."):
                if part not in versions:
                    holder = getattr(holder, part)
