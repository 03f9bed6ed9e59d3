"""The wheel is whole: built without a network, installed outside the clone, it runs a program."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "perdure"

# The first example is the program that a user would try; until there is one, the import itself.
HELLO = ROOT / "examples" / "hello.py"
PROGRAM = HELLO.read_text() if HELLO.exists() else "import perdure\n\nprint(perdure.__version__)\n"

# After the program, in the same interpreter: which perdure was it?
ORIGIN = "\nimport perdure as _perdure\n\nprint(_perdure.__file__)\n"


def run(*args: str | Path, cwd: Path, **env: str) -> str:
    """Run Python in `cwd`, with nothing of the clone on its path, and return what it printed."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON", "UV_"))
    }
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=clean | {"PIP_NO_INDEX": "1"} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{args} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, which is built from the clone: both must be complete."""
    out = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("perdure/")}
    expected = {
        f"perdure/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
    assert "perdure/py.typed" in packed


def test_its_metadata_is_right(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Name"] == "perdure"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "perdure = perdure.cli:main" in scripts
    assert "[pytest11]\nperdure_pytest = perdure_pytest\n" in scripts


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is installed."""
    folder = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def test_it_runs_a_program_outside_the_clone(site: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + ORIGIN)
    printed = run(program, cwd=tmp_path, PYTHONPATH=str(site)).splitlines()
    assert len(printed) > 1, "the program printed nothing"
    assert Path(printed[-1]).is_relative_to(site), f"it ran {printed[-1]}, not the wheel"


TESTED = """
import asyncio
import perdure, perdure_pytest
from perdure import App, workflow

app = App("shop")

@app.workflow
async def month() -> str:
    await workflow.sleep(30 * 86_400)
    return "over"

def test_month(perdure_node) -> None:
    async def main() -> None:
        async with perdure_node(app) as node:
            assert await node.client.workflow(month, id="m").run() == "over"

    asyncio.run(main())
    print("FROM", perdure.__file__, perdure_pytest.__file__)
"""


def test_pytest_finds_its_plugin(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_month.py").write_text(TESTED)
    printed = run(
        "-m", "pytest", "-s", "-W", "error", "-p", "no:asyncio", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert "1 passed" in printed
    origins = (
        next(line for line in printed.splitlines() if "FROM" in line).partition("FROM ")[2].split()
    )
    assert [Path(origin).is_relative_to(site) for origin in origins] == [True, True], origins
