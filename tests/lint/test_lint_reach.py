"""Which code is workflow code: found however the app is named, and followed into the helpers of its package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.lint.report import lint

Check = Callable[..., None]


def test_workflows_of_an_app_of_any_name(marked: Check) -> None:
    marked(
        """
        import perdure
        from perdure import App as Registry, workflow
        import time
        from elsewhere import unknown_app, build
        from functools import cache

        shop = Registry("shop")
        other: perdure.App = build()
        class Apps:
            bank = perdure.App("bank")
        durable = shop.workflow(guard="warn")

        @shop.workflow
        async def one() -> float:
            return time.time()  #! PD101

        @other.workflow(name="2", version=2)
        async def two() -> float:
            return time.time()  #! PD101

        @Apps.bank.workflow()
        async def three() -> float:
            return time.time()  #! PD101

        @unknown_app.workflow
        async def four() -> float:
            return time.time()  #! PD101

        @durable
        async def five() -> float:
            return time.time()  #! PD101

        def build_app(app):
            from time import monotonic
            @app.workflow
            async def six() -> float:
                return monotonic()  #! PD101
            class Inner:
                def more(self, app: perdure.App):
                    @app.workflow
                    async def seven() -> float:
                        return monotonic()  #! PD101

        async def eight() -> float:
            return time.time()  #! PD101

        registered = shop.workflow(name="8")(eight)
        shop.workflow(eight)
        """
    )


def test_what_is_no_workflow_is_not_looked_at(marked: Check) -> None:
    marked(
        """
        import time
        from dbos import DBOS
        from perdure import App
        app = App("shop")

        class Other:
            def workflow(self, fn): return fn
        other = Other()

        @DBOS.workflow()
        async def theirs() -> float:
            return time.time()

        @other.workflow
        async def also_theirs() -> float:
            return time.time()

        @app.activity
        async def charge() -> float:
            return time.time()

        @app.workflow(guard="off")
        async def tolerated() -> float:
            return time.time()

        def plain() -> float:
            return time.time()

        async def main() -> None:
            client = node.client.workflow(plain, id="x")
            print(time.time())
        """
    )


def test_a_file_without_perdure_has_no_workflows(marked: Check) -> None:
    marked("import time\nfrom x import app\n@app.workflow\nasync def flow(): return time.time()\n")


PACKAGE = {
    "shop/__init__.py": "from .prices import late_price",
    "shop/apps.py": 'from perdure import App\napp = App("shop")',
    "shop/flows.py": """
        import shop
        from functools import cache
        from shop.apps import app
        from . import prices, unknown
        from .prices import *
        from .deep.er import helper as helped
        import vendor

        @app.workflow
        async def flow(cart: prices.Cart) -> None:
            from .prices import price
            price(), shop.late_price(), helped(), starred()
            vendor.label(), unknown.thing()
            cart.total(), prices.Cart.make(), cart.age
            list(map(prices.mapped, [1]))
            await charge()
            await child()
            recursive(3)

        @cache
        def recursive(n: int) -> int:
            return recursive(n - 1) if n else input()  #! PD206

        @app.activity
        async def charge() -> None:
            open("x")

        @app.workflow
        async def child() -> None:
            open("x")  #! PD201

        def never_called() -> None:
            open("x")
        """,
    "shop/deep/__init__.py": "",
    "shop/deep/er.py": """
        from .. import prices
        def helper() -> None:
            prices.once()
        """,
    "shop/prices.py": """
        import time
        from functools import cached_property
        def price() -> float:
            return time.time()  #! PD101
        def late_price() -> float:
            return time.time()  #! PD101
        def once() -> float:
            return time.time()  #! PD101
        def starred() -> float:
            return time.time()  #! PD101
        def mapped(n: int) -> float:
            return time.time()  #! PD101
        class Parent:
            def __init__(self) -> None:
                self.at = time.time()  #! PD101
            @cached_property
            def age(self) -> float:
                return time.time()  #! PD101
        class Cart(Parent):
            def total(self) -> float:
                return self._inner()
            def _inner(self) -> float:
                return time.time()  #! PD101
            @classmethod
            def make(cls) -> "Cart":
                cart = cls()
                return cart._made()
            def _made(self) -> "Cart":
                time.sleep(1)  #! PD205
                return self
            def unused(self) -> float:
                return time.time()
        """,
    "vendor.py": "import time\ndef label(): return time.time()",
}


def test_helpers_of_the_package_are_followed(marked: Check) -> None:
    marked(PACKAGE)


def test_fields_that_are_made_when_they_are_not_given(marked: Check) -> None:
    marked(
        """
        import time, uuid
        from dataclasses import dataclass, field
        from datetime import datetime
        from perdure import App
        app = App("x")

        @dataclass
        class Order:
            name: str
            id: str = field(default_factory=lambda: uuid.uuid4().hex)  #! PD103
            at: datetime = field(default_factory=datetime.now)  #! PD101
            lines: list[str] = field(default_factory=list)

        @dataclass
        class Given:
            id: uuid.UUID = field(default_factory=uuid.uuid4)
            at: float = field(default_factory=time.time)

        @app.workflow
        async def flow(given: dict[str, float]) -> None:
            Order("x")
            Given(uuid.UUID(int=1), at=1.0)
            Given(**given)
        """
    )


def test_programs_of_one_folder_belong_together(marked: Check) -> None:
    marked(
        {
            "flows.py": """
                from perdure import App
                from helpers_of_flows import stamp
                app = App("x")
                @app.workflow
                async def flow() -> None: stamp()
                """,
            "helpers_of_flows.py": "import time\ndef stamp(): return time.time()  #! PD101",
        }
    )


def test_a_package_without_init_is_found_from_the_root_of_the_project(marked: Check) -> None:
    marked(
        {
            "src/shop/flows.py": """
                from perdure import App
                from shop import prices
                from shop.prices import price
                app = App("x")
                @app.workflow
                async def flow() -> None: price(), prices.other()
                """,
            "src/shop/prices.py": """
                import time
                def price(): return time.time()  #! PD101
                def other(): return time.time()  #! PD101
                """,
        },
        "src",
    )


def test_nested_code_is_followed(marked: Check) -> None:
    marked(
        """
        import time, uuid
        from perdure import App
        app = App("x")

        @app.workflow
        async def flow() -> None:
            clock = time.time  #! PD101
            def inner() -> float:
                return clock()  #! PD101
            class Local:
                at = time.time_ns()  #! PD101
                def method(self) -> None:
                    time.sleep(1)  #! PD205
            later = lambda: time.time()  #! PD101
            [uuid.uuid4() for _ in range(3)]  #! PD103
            if inner():
                try:
                    with later() as x: ...
                except ValueError:
                    time.sleep(1)  #! PD205
                else:
                    while True:
                        time.sleep(2)  #! PD205
                finally:
                    time.sleep(3)  #! PD205
            match inner():
                case 3 if time.time():  #! PD101
                    time.sleep(4)  #! PD205
            if (tick := time.monotonic):  #! PD101
                tick()  #! PD101
            return f"{time.time()}"  #! PD101
        """
    )


def test_modules_that_import_each_other_in_a_circle(marked: Check) -> None:
    marked(
        {
            "a.py": """
                from perdure import App
                from b import app, helper, missing
                @app.workflow
                async def flow() -> None: helper(), missing()
                class Own(Own): ...
                """,
            "b.py": """
                from a import app, missing
                from a import *
                import time
                def helper(): return time.time()  #! PD101
                """,
        }
    )


def test_a_fallback_does_not_hide_what_it_is_for(marked: Check) -> None:
    marked(
        """
        from perdure import App
        try:
            import httpx
        except ImportError:
            httpx = None
        app = App("x")
        @app.workflow
        async def flow() -> None:
            httpx.get("u")  #! PD202
        """
    )


@pytest.fixture
def two_apps(write: Check) -> None:
    flow = "import time\nfrom {} import {}\n@{}.workflow\nasync def {}(): return time.time()\n"
    write(
        {
            "shop/__init__.py": "from shop.apps import main",
            "shop/apps.py": """
                from perdure import App
                main, bank, lonely = App("main"), App("bank"), App("lonely")
                main.include(bank)
                """,
            "shop/a.py": "from perdure import workflow\n"
            + flow.format("shop.apps", "main", "main", "a"),
            "shop/b.py": "from perdure import workflow\n"
            + flow.format("shop", "apps", "apps.bank", "b"),
            "shop/c.py": "from perdure import workflow\n"
            + flow.format("shop.apps", "lonely", "lonely", "c"),
        }
    )


@pytest.mark.usefixtures("two_apps")
@pytest.mark.parametrize(
    ("given", "workflows"),
    [
        ("shop", "abc"),
        ("shop.a", "a"),
        ("shop/a.py", "a"),
        ("shop.apps:main", "ab"),
        ("shop/apps.py:main", "ab"),
        ("shop:main", "ab"),
        ("shop.apps:lonely", "c"),
    ],
)
def test_what_can_be_named(given: str, workflows: str, folder: Path) -> None:
    report = lint([given])
    assert [finding.workflow for finding in report.findings] == list(workflows)
    assert report.workflows == len(workflows)


def test_a_changed_helper_is_judged_by_the_workflows_that_use_it(write: Check) -> None:
    write(
        {
            "shop/__init__.py": "",
            "shop/flows.py": """
                import time
                from perdure import App
                from .prices import price
                app = App("x")
                @app.workflow
                async def flow(): price(), time.time()
                """,
            "shop/prices.py": "def price(): return open('x')\n",
            "shop/broken.py": "workflow(\n",
        }
    )
    (finding,) = lint(["shop/prices.py"]).findings
    assert str(finding) == (
        "shop/prices.py:1:21: PD201 open() in price(), used by workflow 'flow'; "
        "replay would repeat it: do it in an activity"
    )
    assert {finding.path for finding in lint(["shop/flows.py"]).findings} == {
        "shop/flows.py",
        "shop/prices.py",
    }
