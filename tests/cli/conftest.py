"""A folder with an app in it, and the program as a function."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

import pytest
from invocation import SHOP, Cli, Ended
from typer.main import get_command

import perdure.logs
from perdure.cli.program import app

if TYPE_CHECKING:
    from moved_stores import Places

PROGRAM = get_command(app)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with shop.py, as the current one; the process forgets afterwards what was imported from it."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("PERDURE_STORE", "PERDURE_LOG", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    modules = set(sys.modules)
    another = sys.modules.pop("shop", None)  # other tests import the example of that name
    yield tmp_path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    if another is not None:
        sys.modules["shop"] = another
    perdure.logs.reset()


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Places]:
    """URLs of stores that are not there yet."""
    # Here, because it starts a server.
    from moved_stores import Places

    found = Places(tmp_path)
    yield found
    await found.remove()


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process. What typer's own runner does, except that it builds the program only once."""

    def run(
        *args: str, stdin: str = "", env: dict[str, str] | None = None, columns: int = 0
    ) -> Ended:
        out, errors = io.StringIO(), io.StringIO()
        if columns:  # a terminal of this width, without colours
            out, errors = Screen(), Screen()
            env = {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns), **(env or {})}
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", errors)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            PROGRAM.main(list(args))
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out.getvalue(), errors.getvalue())

    return run
